"""A look at an engine's machine: which boot, which GPUs. The API tells neither; a container of any image with sh does.

It runs for a second or two, has nothing but the GPUs (no network, no volume, no capability), and goes whatever happens:
who looks removes it, and what a killed one has left has ended by itself and goes with the next look. Its name is held
meanwhile, so two do not look at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.logs import messages
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.hostside.smi import READERS, Seen

#: A tool that has not answered by then is hung, and so is a whole look, in seconds.
_TOOL_S, _LOOK_S = 15, 60.0
#: One that has ended, or never begun, is nobody's after so long, in seconds.
_LEFT_S = 5.0
_LIMIT = 1 << 20
#: Exit statuses of a shell: there is no such tool, or it cannot run in this image.
_NO_TOOL = (126, 127)
#: No driver of the engine's gives out GPUs.
_NO_DRIVER = "could not select device driver"
_NO_TOOLKIT = (
    "its machine has NVIDIA GPUs, but the engine cannot give them to containers: install the NVIDIA container toolkit"
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen. `why`: GPUs are not known, for this reason; "": they are, `gpus` has them all."""

    boot: str = ""
    gpus: tuple[dict[str, Any], ...] = ()
    driver: str = ""
    why: str = ""


class Busy(Exception):
    """Another client looks at the same engine."""


def look(engine: Engine, places: Places, shells: Sequence[str], *, wants_gpus: bool = True) -> Look:
    """Look, by the first of the images `shells` that can tell. `wants_gpus`: at GPUs, too. Busy; EngineError."""
    found, asks = Look(why=_no_image()), wants_gpus
    for image in shells:
        try:
            output = _said(engine, places, image, gpus=asks)
        except EngineError as error:
            if asks and _NO_DRIVER in error.said:
                asks = False  # there is none for all images
                output = _tried(engine, places, image)
            elif _is_of_the_image(error):
                continue
            else:
                return Look(why=f"the engine cannot give its GPUs to a container: {error.said.rstrip('.')}")
        found = read(output, image, has_driver=asks or not wants_gpus)
        if found.boot and not found.why:
            return found
    return found


def _tried(engine: Engine, places: Places, image: str) -> str:
    try:
        return _said(engine, places, image, gpus=False)
    except EngineError as error:
        if _is_of_the_image(error):
            return ""
        raise


def _is_of_the_image(error: EngineError) -> bool:
    """Is the image gone, or without a shell?"""
    return error.is_missing or "/bin/sh" in error.said


def _no_image() -> str:
    return (
        "there is no image with a shell on the engine, by which they could be looked at: name one as the pool's `image`"
        " and load it, or say `gpu_types` and `devices` of the worker"
    )


# -- the container -----------------------------------------------------------------------------------------------------


def _said(engine: Engine, places: Places, image: str, *, gpus: bool) -> str:
    """What the program prints in a container of this image. EngineError, Busy."""
    container = _created(places, image, gpus=gpus)
    if container is None and _is_freed(engine, places):
        container = _created(places, image, gpus=gpus)
    if container is None:
        raise Busy
    try:
        engine.post(f"/containers/{container}/start")
        engine.post(f"/containers/{container}/wait", answer_s=_LOOK_S)
        with engine.receive(f"/containers/{container}/logs", stdout=True, stderr=True, timestamps=True) as pieces:
            return b"".join(message.data for message in messages(_bounded(pieces))).decode("utf-8", "replace")
    finally:
        places.remove_container(container, force=True)


def _created(places: Places, image: str, *, gpus: bool) -> str | None:
    """None: another looks."""
    try:
        return places.create(names.LOOK_NAME, _container(image, gpus=gpus))
    except EngineError as error:
        if error.is_conflict:
            return None
        raise


def _container(image: str, *, gpus: bool) -> dict[str, Any]:
    wish = {"Driver": "", "Count": -1, "Capabilities": [["gpu", "utility"]]}
    questions = [" ".join(("nvidia-smi", *question)) for question in READERS["nvidia-smi"].questions] if gpus else []
    return {
        "Image": image,
        "User": "0:0",
        "WorkingDir": "/",
        "Entrypoint": ["/bin/sh", "-c", _program(), "probe", str(_TOOL_S), *questions],
        "Cmd": [],
        "Env": [] if gpus else ["NVIDIA_VISIBLE_DEVICES=void"],
        "Labels": {names.KIND: names.HELPER_KIND},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "local"},
            **({"DeviceRequests": [wish]} if gpus else {}),
        },
    }


@cache
def _program() -> str:
    return Path(__file__).with_name("probe.sh").read_text()


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    left = _LIMIT
    for piece in pieces:
        yield piece
        left -= len(piece)
        if left <= 0:
            return


def _is_freed(engine: Engine, places: Places) -> bool:
    """Take the name from one who was killed: else it is gone as soon as it has ended."""
    try:
        found = engine.get(f"/containers/{names.LOOK_NAME}/json")
    except EngineError as error:
        if error.is_missing:
            return True
        raise
    state, now = found.get("State") or {}, places.now()
    since = seconds(state.get("FinishedAt")) or seconds(found.get("Created")) or now
    limit_s = _LOOK_S if state.get("Running") else _LEFT_S
    return now - since > limit_s and places.remove_container(found["Id"], force=True)


# -- what it prints ----------------------------------------------------------------------------------------------------

_STATUS = re.compile(r"\r?\njobdeploy-status (\d+)\r?\n")
_BOOT = re.compile(r"^jobdeploy-boot ([0-9a-f-]{36})\s*$", re.MULTILINE)


def read(output: str, image: str, *, has_driver: bool) -> Look:
    """What the program has printed in a container of `image`. `has_driver`: the engine gives GPUs to containers."""
    told = _BOOT.search(output)
    boot = told.group(1) if told else ""
    *answers, rest = _STATUS.split(output)
    texts, codes = answers[0::2], [int(code) for code in answers[1::2]]
    listed = tuple(_listed(rest))
    if not has_driver:
        return Look(boot=boot, why=_NO_TOOLKIT if listed else "")
    if not codes:
        return Look(boot=boot)
    if codes[0] in _NO_TOOL:
        why = f"nvidia-smi does not run in image {image}: name one as the pool's `image` in which it does"
        return Look(boot=boot, gpus=listed, why="" if listed else why)
    try:
        seen: Seen = READERS["nvidia-smi"].read([_BOOT.sub("", text) for text in texts], codes)
    except ValueError as error:
        return Look(boot=boot, why=f"nvidia-smi: {error}")
    return Look(boot=boot, gpus=tuple(seen.gpus), driver=seen.driver)


def _listed(text: str) -> Iterator[dict[str, Any]]:
    """GPUs as the kernel's driver lists them (/proc/driver/nvidia/gpus): it says nothing of their memory."""
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w ]+):\s*(.*?)\s*$", block, re.MULTILINE))
        uuid, minor = fields.get("GPU UUID", ""), fields.get("Device Minor", "")
        if re.fullmatch(r"GPU-[0-9A-Za-z-]{1,44}", uuid) and minor.isdigit():
            model = fields.get("Model", "")[:120]
            unknown: dict[str, Any] = {"memory_bytes": None, "mig": False, "vendor": "nvidia"}
            yield {"index": int(minor), "uuid": uuid, "model": model, **unknown}
