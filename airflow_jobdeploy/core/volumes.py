"""Volumes: folders of a pool's storage, written as Apolo's command line and SDK write them.

    storage:dir:/mnt/data[:ro|rw]        dir below the storage's root, seen by the job at /mnt/data
    {storage_uri: storage:dir, container_path: /mnt/data, read_only: true}

A pool has one storage, so a storage URI is a path below its root, however it is written: `storage:a/b`,
`storage:/project/x` (<root>/project/x), `storage://cluster/org/project/x` (<root>/cluster/org/project/x). `%3A` stands
for a colon in either path. The texts of problems are Apolo's own where it has some.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from airflow_jobdeploy.core.fields import declared, read_record, record_schema
from airflow_jobdeploy.core.kinds import Flag, Problems, Schema, Text, expected
from airflow_jobdeploy.core.source import Item, shortened, suggestion
from airflow_jobdeploy.core.spec_kinds import path_fault

SCHEME = "storage:"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
#: cluster of a full URI, with what must not stand there: user[:password]@host[:port]
_AUTHORITY = re.compile(r"(?:(?P<user>[^:@]*)(?P<password>:[^@]*)?@)?(?P<host>[^:@]*)(?P<port>:.*)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A folder of the storage, and the path at which the job sees it."""

    storage_uri: str = declared(Text(lines=True), "The folder: storage:dir.", "", required=True)
    container_path: str = declared(Text(lines=True), "Where the job sees it: /mnt/data.", "", required=True)
    read_only: bool = declared(Flag(), "Only to be read.", False)

    @property
    def path(self) -> str:
        """The folder below the storage's root; "" is the root itself."""
        return storage_path(self.storage_uri)

    @property
    def link(self) -> str:
        """`container_path` without its first "/"."""
        return self.container_path[1:]


def parse_volume(text: str) -> Volume:
    """`storage:dir:/mnt/data[:ro|rw]` -> Volume. ValueError in Apolo's words, and in ours for what has no meaning here.

    Source of the grammar: `parse.volume` and `parse.volumes` of Apolo's SDK.
    """
    if text in ("HOME", "ALL"):
        raise ValueError(f"--volume={text} no longer supported")
    _refuse_other_kinds(text)
    parts = text.split(":")
    read_only = False
    if len(parts) == 4:
        mode = parts.pop()
        if mode not in ("ro", "rw"):
            raise ValueError(f"Wrong ReadWrite/ReadOnly mode spec for '{text}'")
        read_only = mode == "ro"
    elif len(parts) != 3:
        raise ValueError(f"Invalid volume specification '{text}'")
    at = parts.pop()
    uri = storage_uri(storage_path(":".join(parts)))
    return Volume(storage_uri=uri, container_path=container_path(_unquoted(at)), read_only=read_only)


def _refuse_other_kinds(text: str) -> None:
    if text.startswith("secret:"):
        if text.count(":") != 2:
            raise ValueError(f"Invalid secret file specification '{text}'")
        raise ValueError(
            "secrets are not mounted as files here: keep the value in Airflow and name it in `secret_env`, "
            "as {NAME: conn:<id>.password} or {NAME: var:<key>}"
        )
    if text.startswith("disk:"):
        raise ValueError(
            "there are no persistent disks here: give a folder of the pool's storage, storage:dir:/mnt/data"
        )


def storage_path(uri: str) -> str:
    """The path below the storage's root that a `storage:` URI names; "" is the root. ValueError says what is wrong."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        raise ValueError("URI Scheme not specified. Please specify one of storage.")
    if scheme[0] != SCHEME:
        near = suggestion(scheme[1], ["storage"])
        raise ValueError(f"Invalid scheme '{scheme[0]}' (only 'storage:' is allowed){near}")
    for name, sign in (("Fragment", "#"), ("Query", "?")):
        if sign in uri:
            raise ValueError(
                f"{name} part is not allowed in storage URI. Use '%{ord(sign):02X}' to quote '{sign}' in path."
            )
    rest = uri[len(SCHEME) :]
    if rest.startswith("//"):
        _check_authority(rest[2:].partition("/")[0])
    path = "/".join(part for part in _unquoted(rest).split("/") if part not in ("", "."))
    if path.startswith("~"):
        raise ValueError(f"Cannot expand user for {uri}")
    fault = path_fault(path) if path else ""
    if fault:
        raise ValueError(f"the storage path {shortened(repr(path))} {fault}")
    return path


def _check_authority(text: str) -> None:
    found = _AUTHORITY.fullmatch(text)
    for name, end in (("user", "."), ("password", ""), ("port", "")):
        if found is None or found[name]:
            raise ValueError(f"{name.capitalize()} is not allowed in storage URI{end}")


def storage_uri(path: str) -> str:
    """The one spelling of a path below the storage's root: `storage:a/b%3Ac`."""
    return SCHEME + quote(path, safe="/", errors="surrogateescape")


def container_path(text: str) -> str:
    """An absolute path, once and simply written: `/mnt/data`. ValueError says what is wrong."""
    if not text.startswith("/"):
        raise ValueError(f"the container path {shortened(repr(text))} is not absolute: begin it with '/'")
    path = "/".join(part for part in text.split("/") if part not in ("", "."))
    fault = path_fault(path) if path else "is the root of the file system"
    if fault:
        raise ValueError(f"the container path {shortened(repr(text))} {fault}")
    return f"/{path}"


def _unquoted(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{shortened(repr(text))} is not UTF-8 when its %-signs are resolved") from None


# -- as a field ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Volumes:
    """A volume's text, or a list of texts and of {storage_uri, container_path, read_only}. Read as a tuple."""

    def read(self, item: Item, problems: Problems) -> tuple[Volume, ...] | None:
        if not isinstance(item.value, (str, list)):
            expected(item, "a volume such as storage:dir:/mnt/data, or a list of them", problems)
            return None
        before = len(problems)
        elements = [item] if isinstance(item.value, str) else list(item.elements())
        found: dict[str, Volume] = {}
        for element in elements:
            volume = _read_one(element, problems)
            if volume is not None and volume.container_path in found:
                problems.append(element.problem(f"two volumes at {volume.container_path}.", "Remove one of them."))
            elif volume is not None:
                found[volume.container_path] = volume
        return tuple(found.values()) if len(problems) == before else None

    def schema(self) -> Schema:
        one: Schema = {"anyOf": [{"type": "string"}, record_schema(Volume)]}
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": one}]}


def _read_one(item: Item, problems: Problems) -> Volume | None:
    try:
        if isinstance(item.value, str):
            return parse_volume(item.value)
        before = len(problems)
        given = read_record(Volume, item, problems, what="a volume")
        if len(problems) > before:
            return None
        place = {"storage_uri": storage_uri(storage_path(given["storage_uri"]))}
        return Volume(**{**given, **place, "container_path": container_path(given["container_path"])})
    except ValueError as error:
        problems.append(item.problem(str(error).rstrip(".") + "."))
        return None


VOLUMES = Volumes()


@dataclass(frozen=True)
class DatasetLocation:
    """A path or URL, or a folder of the pool's storage: then its URI is checked. Read as it is written."""

    def read(self, item: Item, problems: Problems) -> str | None:
        text = Text(lines=True).read(item, problems)
        if text is not None and text.startswith(SCHEME):
            try:
                storage_path(text)
            except ValueError as error:
                problems.append(item.problem(str(error).rstrip(".") + "."))
                return None
        return text

    def schema(self) -> Schema:
        return {"type": "string"}


def nested(volumes: Sequence[Volume]) -> Iterator[tuple[Volume, Volume]]:
    """(outer, inner) pairs of which one would lie inside the other: a link cannot stand in what another one shows."""
    ordered = sorted(volumes, key=lambda volume: volume.container_path.split("/"))
    outer: list[Volume] = []
    for volume in ordered:
        while outer and not volume.container_path.startswith(outer[-1].container_path + "/"):
            outer.pop()
        if outer:
            yield outer[-1], volume
        outer.append(volume)
