"""What an engine has to give out.

Cores and memory stand in what it says of itself. Its GPUs it does not tell: a container looks (probe.py), now and then,
beside whatever else goes on, and what it has seen is written down on the engine for all clients. Nobody waits for that
but who asks for GPUs, and only where nothing is known yet.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.backends.base import WorkerFacts
from airflow_jobdeploy.backends.engine import names, probe
from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.marks import Marks, Notes, marked
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.words import counted
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside import cordon as cordons
from airflow_jobdeploy.hostside.gpu_names import is_model

#: What was seen is believed for so long, and looked for anew after less where there was nothing or no answer, in
#: seconds. What is older still counts until it is known better.
_SEEN_S, _NONE_S, _FAILED_S = 3600.0, 300.0, 30.0
#: So long another client's look is waited for, in seconds, and so often.
_OTHERS_S, _TURNS = 5.0, 3
#: Images that are tried, at most.
_IMAGES = 4
_LIKELY = ("cuda", "nvidia", "torch", "tensorflow", "rapids", "triton")
#: What the engine says of a container whose GPUs cannot be had (libnvidia-container, CDI).
_GPU_TROUBLE = ("nvidia-container", "unknown device", "CDI device")
_NOT_YET = "they have not been looked at yet"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of an engine's GPUs. `why`: they are not known, for this reason; "": they are, or there are none.

    `boot`: the boot id of the machine's kernel, "" where it is not known: hosts have the same one.
    """

    gpus: tuple[Mapping[str, Any], ...] = ()
    driver: str = ""
    why: str = ""
    boot: str = ""


class Stock:
    """Of one connection to one engine. Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places, settings: Settings) -> None:
        self._engine = engine
        self._places = places
        self._settings = settings
        self._marks = Marks(engine, places)
        self._info: Mapping[str, Any] = {}
        self._looking: threading.Thread | None = None
        self._begun = -_FAILED_S
        #: Why the GPUs are not known, when they are not.
        self.trouble = ""

    def capacity(self, notes: Notes | None = None, *, looks: bool = False) -> dict[str, Any]:
        """As hostside/fitting.py has it: {"cpu", "memory", "disk", "gpus", "cordoned"}, a dict of the caller's own.

        Asked often (each look at the line): it is cheap when nothing has changed. A GPU may have "devices", the
        paths that its container gets where the engine has no NVIDIA runtime. `notes`: those of a listing, if there is
        one; `looks`: somebody wants GPUs, so what is old is looked for anew. Those that are not known are not there
        (`trouble`).
        """
        notes = self._marks.notes() if notes is None else notes
        if looks:
            self._look_if_due(notes)
        known = self.known(notes)
        self.trouble = known.why
        return {
            "cpu": float(self.described().get("NCPU") or 0),
            "memory": int(self.described().get("MemTotal") or 0),
            "disk": None,
            "gpus": [dict(gpu) for gpu in known.gpus],
            "driver": known.driver,
            "cordoned": told(notes),
            "boot_id": known.boot,
            **({"gpus_unknown": known.why} if known.why else {}),
        }

    def inventory(self) -> list[dict[str, Any]]:
        """The GPUs alone."""
        return list(self.capacity()["gpus"])

    def known(self, notes: Notes) -> Known:
        """What there is, by what was written down and what the pool declares; nobody looks."""
        declared, record = self._settings.gpus, _record(notes)
        boot = str((record or {}).get("boot") or "")
        if any(gpu.get("devices") for gpu in declared):
            return Known(gpus=tuple(_known_as(gpu, (record or {}).get("gpus") or ()) for gpu in declared), boot=boot)
        if record is None or not _is_of(record, self.described()):
            return Known(why=_NOT_YET)
        seen = tuple(_with_memory(gpu, declared) for gpu in record.get("gpus") or ())
        why = str(record.get("why") or "")
        return Known(
            gpus=seen or (declared if why else ()),
            driver=str(record.get("driver") or ""),
            why="" if seen or (declared and why) else why,
            boot=boot,
        )

    def warnings(self, notes: Notes) -> list[str]:
        """What a person should know of the GPUs."""
        record, declared = _record(notes), self._settings.gpus
        if record is None or not _is_of(record, self.described()) or any(gpu.get("devices") for gpu in declared):
            return []
        why = str(record.get("why") or "")
        if why and not record.get("gpus"):
            return [f"GPUs are not known: {why}"]
        if declared and not record.get("gpus"):
            return [
                f"the pool declares {counted(len(declared), 'GPU')}, the engine gives none to containers: {_INSTALL}"
            ]
        return []

    def doubt(self, said: str) -> None:
        """A container could not be started, for this reason: if that is its GPUs, they are looked at anew."""
        if any(sign in said for sign in _GPU_TROUBLE):
            self._marks.clear(names.STOCK)
            self._begun = -_FAILED_S

    def look(self, wait_s: float) -> None:
        """Wait until it is known which GPUs there are, at most so long; not at all where that is known."""
        notes = self._marks.notes()
        self._look_if_due(notes)
        if self.known(notes).why and self._looking is not None:
            self._looking.join(wait_s)

    def cordon(self, *, by: str, why: str, lift: bool) -> str:
        """Let all clients know that the engine takes no new jobs, or (`lift`) takes them again; what is told now."""
        if lift:
            self._marks.clear(names.CORDON)
        else:
            self._marks.write(names.CORDON, json.dumps(cordons.record({"by": by, "why": why})))
        return self.cordoned()

    def cordoned(self) -> str:
        """By whom and why it takes no new jobs; "": it takes them."""
        return told(self._marks.notes(names.CORDON))

    # -- looking -------------------------------------------------------------------------------------------------------

    def _is_fresh(self, notes: Notes) -> bool:
        record = _record(notes)
        if record is None or not _is_of(record, self.described()):
            return False
        return self._places.now() - float(record.get("at") or 0) < _lasts_s(record)

    def _look_if_due(self, notes: Notes) -> None:
        """Let somebody look, beside us, where what was seen is old."""
        if self._is_fresh(notes):
            return
        if (self._looking is not None and self._looking.is_alive()) or time.monotonic() - self._begun < _FAILED_S:
            return
        self._begun = time.monotonic()
        other = Stock(self._engine.another(), self._places, self._settings)
        self._looking = threading.Thread(target=other.see, name=f"jobdeploy-look-{self._engine.worker}", daemon=True)
        self._looking.start()

    def see(self) -> None:
        """Look, and write down what was seen, unless another client does. By a connection of its own."""
        with contextlib.suppress(WorkerError):  # the next look will tell
            self._places = _beside(self._engine)
            self._marks = Marks(self._engine, self._places)
            for _ in range(_TURNS):
                if self._is_fresh(self._marks.notes()):
                    break
                try:
                    self._see()
                    break
                except probe.Busy:
                    self._marks.await_next(names.STOCK, _OTHERS_S)
        self._engine.drop()

    def _see(self) -> None:
        has_devices = any(gpu.get("devices") for gpu in self._settings.gpus)
        found = probe.look(self._engine, self._places, self._shells(), wants_gpus=not has_devices)
        if has_devices and (before := _record(self._marks.notes())) and not before.get("declared"):
            return  # another pool has seen more
        self._write(found, declared=has_devices)

    def _write(self, found: probe.Look, *, declared: bool) -> None:
        if found.gpus and (other := self._other_name()):
            found = probe.Look(boot=found.boot, why=_OTHER_NAMES % other)
        record = {
            "at": self._places.now(),
            "of": _engine_of(self.described()),
            "boot": found.boot,
            "gpus": found.gpus,
            "driver": found.driver,
            "why": found.why,
            **({"declared": True} if declared else {}),
        }
        self._marks.write(names.STOCK, json.dumps(record))

    def _other_name(self) -> str:
        """A GPU that a job holds under a name which it had before it was seen, or that another pool gives it."""
        found = self._engine.get("/containers/json", all=True, filters={"name": [_HOLDER]})
        held = (str(name).rpartition(_HOLDER)[2] for each in found for name in each.get("Names") or ())
        return next((name for name in held if not name.startswith(_UUID)), "")

    def _shells(self) -> Sequence[str]:
        """Images that are there: the pool's, those of our jobs, then others, those first that look like it."""
        ours = {"label": [f"{names.KIND}={names.JOB_KIND}"]}
        jobs = self._engine.get("/containers/json", all=True, filters=ours)
        used = [str((job.get("Labels") or {}).get(names.IMAGE) or "") for job in jobs]
        tags = [str(tag) for image in self._engine.get("/images/json") for tag in image.get("RepoTags") or ()]
        there = sorted(
            (tag for tag in tags if not tag.startswith(("<none>", names.NOTHING_IMAGE))),
            key=lambda tag: not any(word in tag for word in _LIKELY),
        )
        wanted = dict.fromkeys(image for image in (self._settings.image, *used) if image)
        known = [image for image in wanted if self._places.has_image(image)]
        return list(dict.fromkeys([*known, *there]))[:_IMAGES]

    # -- what was written down -----------------------------------------------------------------------------------------

    def described(self) -> Mapping[str, Any]:
        """What the engine says of itself, asked for once: it takes it as long as some twenty other questions."""
        if not self._info:
            self._info = self._engine.get("/info")
            self._places.set_clock(str(self._info.get("SystemTime", "")))
        return self._info


#: Before the number of a device's name (core.engine_gpus).
_NVIDIA = "dev-nvidia"
_HOLDER, _UUID = "jobdeploy-gpu-", "GPU-"
_OTHER_NAMES = (
    "a job holds one under the name %r, by what its pool declares (devices, gpu_types): until it ends nobody can tell"
    " which that is; let all pools of this engine declare its GPUs alike"
)
_INSTALL = "install the NVIDIA container toolkit there, or name their `devices`"


def told(notes: Notes) -> str:
    """By whom and why an engine takes no new jobs, in words; "" when it takes them."""
    text = marked(names.CORDON, notes)
    if text is None:
        return ""
    try:
        return cordons.in_words(dict(json.loads(text)))
    except (ValueError, TypeError):
        return "cordoned by somebody, in a way that cannot be read"


def facts_of(worker: str, machine: str, info: Mapping[str, Any], listing: Listing, stock: Stock) -> WorkerFacts:
    """What an engine says of itself at connect, and what is written down there."""
    live = sum(entry["State"] in ("running", "paused") for entry in listing.containers.values())
    kept = ("ServerVersion", "Driver", "CgroupVersion", "Runtimes", "Architecture", "OSType")
    known = stock.known(listing.notes)
    return WorkerFacts(
        worker=worker,
        machine=machine,
        hostname=str(info.get("Name", "")),
        root=str(info.get("DockerRootDir", "")),
        cpu_count=float(info.get("NCPU") or 0),
        memory_bytes=int(info.get("MemTotal") or 0),
        live_jobs=live,
        gpus=known.gpus,
        driver=known.driver,
        cordoned=told(listing.notes),
        warnings=(*(str(text) for text in info.get("Warnings") or ()), *stock.warnings(listing.notes)),
        extra={**{key: info.get(key) for key in kept}, "boot_id": known.boot},
    )


def _beside(engine: Engine) -> Places:
    places = Places(engine)
    places.set_clock(str(engine.get("/info").get("SystemTime", "")))
    return places


def _record(notes: Notes) -> dict[str, Any] | None:
    try:
        found = json.loads(marked(names.STOCK, notes) or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _lasts_s(record: Mapping[str, Any]) -> float:
    if record.get("why"):
        return _FAILED_S
    return _SEEN_S if record.get("gpus") or record.get("declared") else _NONE_S


def _engine_of(info: Mapping[str, Any]) -> str:
    """Changes when what it has may be another: a new kernel, a new engine, a runtime that was installed."""
    parts = [info.get("KernelVersion"), info.get("ServerVersion"), *sorted(info.get("Runtimes") or ())]
    devices = [device.get("ID") for device in info.get("DiscoveredDevices") or ()]
    return " ".join(str(part) for part in (*parts, *devices))


def _is_of(record: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    return record.get("of") == _engine_of(info)


def _known_as(gpu: Mapping[str, Any], seen: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A declared device under the UUID by which pools know it that declare none: one GPU has one name."""
    number = str(gpu["uuid"]).removeprefix(_NVIDIA)
    uuids = (str(each["uuid"]) for each in seen if each.get("vendor") == "nvidia" and str(each.get("index")) == number)
    return {**gpu, "uuid": next(uuids, str(gpu["uuid"]))}


def _with_memory(gpu: Mapping[str, Any], declared: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One whose memory could not be seen has what the pool says of its type."""
    if gpu.get("memory_bytes") is not None:
        return gpu
    like = (
        each for each in declared if each.get("model") and is_model(str(each["model"]), str(gpu.get("model") or ""))
    )
    return {**gpu, "memory_bytes": next((each.get("memory_bytes") for each in like), None)}
