"""Worker pools: named sets of workers of one kind, from the extra of a connection or from a YAML file.

    kind: ssh
    workers: [{conn_id: gpu-a}, {conn_id: gpu-b, slots: 2}, {conn_id: cluster, hosts: "gpu[01-60]"}]
    root: ~/.jobdeploy
    storage: {root: /srv/jobdeploy, shared: true}
    presets: {small: {cpu: 4, memory: 16GB}}
    quotas: {research: {max_gpus: 8}, "*": {max_gpus: 2, max_priority: normal}}

    kind: docker
    workers: [{url: "unix:///var/run/docker.sock"}, {url: "tcp://gpu-a:2376", tls: {ca_cert: ..., ...}}]
    image: python:3.12-slim

A plain `ssh` connection is a pool of one: `WorkerPool.of_connection`. `local` always exists: `WorkerPool.local`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.capacity import CAPACITY, QUOTA, Capacity, Quota
from airflow_jobdeploy.core.engines import (
    CONTAINERS,
    DEVICES,
    TLS,
    VOLUME_NAME,
    Containers,
    EngineUrl,
    ImageName,
    Images,
    Tls,
)
from airflow_jobdeploy.core.fields import Named, Record, declared, plain, read_record
from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.gpus import GB, GPUS, GpuWish
from airflow_jobdeploy.core.hosts import MAX_HOSTS, expand_hosts, is_host
from airflow_jobdeploy.core.kinds import Flag, Many, Number, Problems, Schema, Size, Text, expected
from airflow_jobdeploy.core.labels import NAME, WORKER, Labels
from airflow_jobdeploy.core.presets import Preset, Presets
from airflow_jobdeploy.core.source import Item, described, in_order, suggestion
from airflow_jobdeploy.errors import PoolError

DEFAULT_ROOT = "~/.jobdeploy"
_KINDS = ("local", "ssh", "docker")
_LATER = ("slurm",)


@dataclass(frozen=True)
class PoolKind:
    """The pool's kind; those of later releases say so."""

    def read(self, item: Item, problems: Problems) -> str | None:
        if isinstance(item.value, str) and item.value in _LATER:
            text = f"pools of kind {item.value} come in a later release."
            problems.append(item.problem(text, "This one has local, ssh and docker."))
            return None
        return Text(_KINDS).read(item, problems)

    def schema(self) -> Schema:
        return {"type": "string", "enum": [*_KINDS]}


@dataclass(frozen=True)
class RootPath:
    """A folder on a worker: absolute, or below its account's home (`~/`)."""

    def read(self, item: Item, problems: Problems) -> str | None:
        text = Text(lines=True).read(item, problems)
        if text is None:
            return None
        if not text.startswith(("/", "~/")) or ".." in text.split("/") or text.strip("/~") == "":
            hint = "Give an absolute path, or one below ~/, without '..'."
            problems.append(item.problem(f"{described(text)} is not a folder of its own.", hint))
            return None
        return text.rstrip("/")

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^(/|~/)."}


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One host of a pool."""

    #: What records and people call it: of a host that or its connection's id, of an engine its URL where none is given.
    name: str = declared(Text(pattern=NAME), "Of a Docker engine: what it is called; its URL by default.", "")
    conn_id: str | None = declared(Text(), "The Airflow connection that reaches it.")
    #: Instead of the connection's own host; "" for that one.
    host: str = declared(Text(), "The host, where it is not the connection's own.", "")
    slots: int | None = declared(Number(whole=True, minimum=1), "Jobs at once; no limit by default.")
    url: str | None = declared(EngineUrl(), "Of a Docker engine: unix://, tcp:// or ssh://.")
    tls: Tls | None = declared(TLS, "TLS to a Docker engine.")  # noqa: RUF009
    registry: str | None = declared(Text(), "The Airflow connection (type docker) of the registry to pull from.")
    labels: Mapping[str, str] = declared(Labels(), "Words that tell it from others, for `where` of job specs.", {})
    capacity: Capacity | None = declared(CAPACITY, "The most of it that jobs may hold; all by default.")  # noqa: RUF009
    gpu_types: tuple[GpuWish, ...] = declared(GPUS, "The GPUs of a Docker engine: a list of {type, count, memory}.", ())
    devices: tuple[str, ...] = declared(
        DEVICES, "Device files of an engine's GPUs (/dev/nvidia0), where it has no NVIDIA runtime.", ()
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.host or self.conn_id or self.url or "local")

    @property
    def all_labels(self) -> Mapping[str, str]:
        """Its labels, its name among them."""
        return {**self.labels, WORKER: self.name}


@dataclass(frozen=True, kw_only=True)
class _Entry(Worker):
    """A worker as written: may stand for many hosts."""

    hosts: str | None = declared(Text(), "Many hosts by one connection: gpu[01-60], a[1-3,7]b.")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A folder on the workers for datasets and volumes."""

    root: str = declared(RootPath(), "The folder; on the engines' machines, for a docker pool.", "")
    volume: str | None = declared(VOLUME_NAME, "Of a docker pool: a named volume instead of a folder.")
    shared: bool = declared(Flag(), "All workers see the same one.", False)


_ENTRY = Record(_Entry, "a worker")


@dataclass(frozen=True)
class _Workers:
    """The list of workers, host ranges written out."""

    def read(self, item: Item, problems: Problems) -> tuple[Worker, ...] | None:
        if not isinstance(item.value, list):
            expected(item, "a list of workers", problems)
            return None
        found: dict[str, Worker] = {}
        written = 0
        for element in item.elements():
            entry = _ENTRY.read(element, problems)
            workers = _written_out(entry, element, problems) if entry is not None else []
            written += len(workers)
            if written > MAX_HOSTS:
                problems.append(element.problem(f"more than {MAX_HOSTS} workers."))
                break
            twice = next((worker.name for worker in workers if worker.name in found), None)
            if twice is not None:
                problems.append(element.problem(f"the worker {twice!r} is listed twice."))
            found.update((worker.name, worker) for worker in workers)
        return tuple(found.values())

    def schema(self) -> Schema:
        return Many(_ENTRY).schema()


def _written_out(entry: _Entry, item: Item, problems: Problems) -> list[Worker]:
    if entry.hosts is None:
        if entry.host and not is_host(entry.host):
            problems.append(item.problem(f"{described(entry.host)} is not a host's name."))
        return [Worker(**{name.name: getattr(entry, name.name) for name in dataclass_fields(Worker)})]
    if entry.host:
        problems.append(item.problem("host and hosts are both given.", "Keep one."))
    place = item.child("hosts")
    hosts = expand_hosts(entry.hosts, place, problems)
    shared = {name: getattr(entry, name) for name in ("conn_id", "slots", "labels", "capacity")}
    return [Worker(host=host, **shared) for host in hosts]


_STORAGE = Record(Storage, "a pool's storage")
_QUOTAS = Named(QUOTA)


@dataclass(frozen=True, kw_only=True)
class WorkerPool:
    """A named set of workers of one kind."""

    name: str = ""
    kind: str = declared(PoolKind(), "`local` (the machine of the task), `ssh` or `docker`.", "", required=True)
    workers: tuple[Worker, ...] = declared(_Workers(), "The workers.", ())
    root: str = declared(RootPath(), "Where jobs live, on each worker.", DEFAULT_ROOT)
    login_path: str | None = declared(Text(), "PATH of jobs, instead of a login shell's.")
    storage: Storage | None = declared(_STORAGE, "A folder for datasets and volumes.")  # noqa: RUF009
    cache_limit_bytes: int = declared(
        Size(GB), "How much code and data a worker keeps that no job uses; a number is GB.", 50 * GB
    )
    presets: Mapping[str, Preset] = declared(Presets(), "Named amounts of resources.", {})
    default_preset: str | None = declared(
        Text(), "The preset of jobs that name none, for all that they do not say: so none is outside of the line."
    )
    quotas: Mapping[str, Quota] = declared(
        _QUOTAS,
        "The most that an owner or a team may have: {max_gpus, max_priority}; `*`: each owner who has neither.",
        {},
    )
    image: str | None = declared(ImageName(), "The image of jobs that name none, of a docker pool.")
    images: Mapping[str, str] = declared(Images(), "Short names for images: {py37: registry.example/py37:4}.", {})
    host_images: tuple[str, ...] = declared(
        Many(), "Images that its hosts stand in for (`ubuntu:*`): jobs that name one run on the host itself.", ()
    )
    containers: Containers | None = declared(CONTAINERS, "How jobs of a docker pool are shut in.")  # noqa: RUF009
    #: Where it is defined.
    where: str = field(default="", compare=False, repr=False)

    @classmethod
    def local(cls, name: str = "local", **facts: Any) -> WorkerPool:
        """The machine of the task. `facts`: other attributes."""
        return cls(**{"name": name, "kind": "local", "workers": (Worker(),), **facts})

    @classmethod
    def of_connection(cls, conn_id: str, **facts: Any) -> WorkerPool:
        """A pool of one: the host of an ordinary `ssh` connection. `facts`: other attributes."""
        return cls(**{"name": conn_id, "kind": "ssh", "workers": (Worker(conn_id=conn_id),), **facts})

    def worker(self, name: str) -> Worker | None:
        """The worker of that name."""
        return next((worker for worker in self.workers if worker.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, by attribute."""
        return {"name": self.name, **plain(self)}


def load_pool(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    name: str = "",
    search_path: Sequence[Path] = (),
    base: Path | None = None,
) -> WorkerPool:
    """Read a pool from a file or mapping. `name`: its connection's id; by default the file's stem.

    Raises PoolError with all problems.
    """
    label = f"<connection {name}>" if name else "<pool>"
    problems: Problems = []
    item = read_source(source, problems, label=label, base=base, search_path=search_path)
    if item is None:
        raise PoolError(problems)
    attributes: dict[str, Any] = {}
    if item.value.get("kind") in list(_LATER):  # whose other fields are not known yet
        PoolKind().read(item.child("kind"), problems)
    else:
        attributes = read_record(WorkerPool, item, problems, what="a worker pool")
    _check_default(attributes, item, problems)
    if attributes.get("kind"):
        attributes["workers"] = _checked_workers(attributes, item, problems)
    if problems:
        raise PoolError(in_order(problems))
    stem = item.document.path.stem if item.document.path else ""
    return WorkerPool(**{**attributes, "name": name or stem, "where": item.where})


def _check_default(attributes: Mapping[str, Any], root: Item, problems: Problems) -> None:
    name, presets = attributes.get("default_preset"), attributes.get("presets", {})
    if name is not None and name not in presets:
        hint = suggestion(name, presets) or (f"It has {', '.join(presets)}." if presets else "It has none.")
        problems.append(root.child("default_preset").problem(f"the pool has no preset {name!r}.", hint))


def _checked_workers(attributes: Mapping[str, Any], root: Item, problems: Problems) -> tuple[Worker, ...]:
    workers: tuple[Worker, ...] = attributes.get("workers", ())
    place = root.child("workers") if root.value.get("workers") is not None else root
    if attributes["kind"] == "local":
        own = workers[0] if workers else Worker()
        given = {name for each in place.elements() if isinstance(each.value, dict) for name in each.value}
        if len(workers) > 1 or given - _OF_ALL:
            hint = "Give at most [{slots: ..., labels: ..., capacity: ...}]."
            problems.append(place.problem("a local pool is this machine only.", hint))
        return (Worker(slots=own.slots, labels=own.labels, capacity=own.capacity),)
    if not workers and not problems:
        what = "[{url: ...}]" if attributes["kind"] == "docker" else "[{conn_id: ...}]"
        problems.append(
            place.problem(f"{_ARTICLES[attributes['kind']]} pool needs workers.", f"Write workers: {what}.")
        )
    for element in place.elements():
        if isinstance(element.value, dict):
            _check_worker(attributes["kind"], element, problems)
    _check_kind(attributes["kind"], root, problems)
    return workers


#: Fields that pools of some kinds do not have.
_OF_DOCKER, _NOT_OF_DOCKER = ("image", "images", "containers"), ("root", "login_path", "host_images")


def _check_kind(kind: str, root: Item, problems: Problems) -> None:
    for name in _NOT_OF_DOCKER if kind == "docker" else _OF_DOCKER:
        if root.value.get(name) is not None:
            which = "a docker pool has no" if kind == "docker" else "only a docker pool has"
            problems.append(root.child(name).problem(f"{which} {name!r}."))
    if isinstance(root.value.get("storage"), dict):
        _check_storage(kind, root.child("storage"), problems)


def _check_storage(kind: str, item: Item, problems: Problems) -> None:
    root, volume = (item.value.get(name) for name in ("root", "volume"))
    if kind != "docker" and volume is not None:
        problems.append(item.child("volume").problem("only a docker pool has volumes.", "Give root: /a/folder."))
    elif root is None and volume is None:
        problems.append(item.problem("a pool's storage needs 'root'.", "root: the folder."))
    elif root is not None and volume is not None:
        problems.append(item.child("volume").problem("root and volume are both given.", "Keep one."))
    elif kind == "docker" and isinstance(root, str) and root.startswith("~"):
        problems.append(item.child("root").problem("an engine has no home folder.", "Give an absolute path."))


_ARTICLES = {"ssh": "an ssh", "docker": "a docker"}
_OF_ALL = {"slots", "labels", "capacity"}
_OF_ENGINES, _OF_HOSTS = ("url", "name", "tls", "registry", "gpu_types", "devices"), ("conn_id", "host", "hosts")


def _check_worker(kind: str, element: Item, problems: Problems) -> None:
    given = {name for name, value in element.value.items() if value is not None}
    own, others = (_OF_ENGINES, _OF_HOSTS) if kind == "docker" else (_OF_HOSTS, _OF_ENGINES)
    for name in others:
        if name in given:
            what = "a docker pool" if kind == "docker" else "an ssh pool"
            hint = "Hosts are called as they, or their connections, are." if name == "name" else ""
            problems.append(element.child(name).problem(f"a worker of {what} has no {name!r}.", hint))
    if isinstance(element.value.get("tls"), dict):
        _check_tls(str(element.value.get("url")), element.child("tls"), problems)
    if own[0] not in given:
        hint = "Give its URL." if kind == "docker" else "Name an Airflow connection of type ssh."
        problems.append(element.problem(f"the worker has no {own[0]}.", hint))


def _check_tls(url: str, item: Item, problems: Problems) -> None:
    if not url.startswith("tcp:"):
        problems.append(item.problem("only engines on tcp:// have TLS.", "Leave it out."))
    ours = [name for name in ("client_cert", "client_key") if item.value.get(name) is not None]
    if len(ours) == 1:
        problems.append(item.child(ours[0]).problem("client_cert and client_key go together.", "Give both."))
