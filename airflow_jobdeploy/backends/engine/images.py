"""Images on an engine: are they there, pull them, say how it goes, say what a failure means."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.ticking import ticking
from airflow_jobdeploy.core.words import size
from airflow_jobdeploy.errors import StagingError

#: A pull that says nothing for so long is given up, in seconds; how often progress is told.
_SILENCE_S, _TELL_S = 300.0, 5.0

_GPU = "could not select device driver"

#: Image name (None: any) -> the login of its registry, as the engine wants it; None: nobody is logged in.
Auth = Callable[[str | None], Mapping[str, Any] | None]


def found(engine: Engine, image: str) -> dict[str, Any] | None:
    """An image as the engine describes it; None: it is not there."""
    try:
        return dict(engine.get(f"/images/{quote(image, safe='/:@')}/json"))
    except EngineError as error:
        if error.is_missing or error.status == 400:
            return None
        raise


def command(described: Mapping[str, Any]) -> list[str]:
    """What an image itself would run; of a derived one, what the image does that it was made of."""
    config = described.get("Config") or {}
    kept = (config.get("Labels") or {}).get(names.COMMAND)
    if kept:
        return [str(word) for word in json.loads(kept)]
    return [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]


def bring(engine: Engine, image: str, *, pull: str, auth: Mapping[str, Any] | None, say: Callable[[str], None]) -> None:
    """Have the image on the engine, as `pull` says: missing, always, never. StagingError says why it cannot be."""
    if pull != "always" and found(engine, image) is not None:
        return
    if pull == "never" and image.startswith(f"{names.BUILT_IMAGE}:"):
        raise StagingError(
            f"image {image!r}, which was made for the `up` of this resource, was removed from {engine.worker}; without"
            f" it its builds cannot run. Load it there again, or give its name to another (docker tag IMAGE {image}),"
            " and run this build again; or run `up` anew"
        )
    if pull == "never":
        raise StagingError(
            f"image {image!r} is not on {engine.worker}, and `pull: never` keeps it from being pulled: load it there"
        )
    say(f"Pulling image {image} to {engine.worker}.")
    begun = time.monotonic()
    repository, tag = _parts(image)
    headers = {"X-Registry-Auth": _encoded(auth)} if auth else {}
    try:
        with (
            engine.receive(
                "/images/create", method="POST", headers=headers, answer_s=_SILENCE_S, fromImage=repository, tag=tag
            ) as pieces,
            ticking(engine, pieces, lambda: say("")) as ticked,
        ):
            _follow(ticked, image, auth, say)
    except EngineError as error:
        raise StagingError(_failed(image, error.said, auth)) from error
    say(f"Pulled image {image} in {time.monotonic() - begun:.1f} s.")


def _parts(image: str) -> tuple[str, str | None]:
    """Without a tag the engine would pull all of them."""
    if "@" in image:
        return image, None
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def _encoded(auth: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(dict(auth)).encode()).decode()


def _follow(pieces: Iterator[bytes], image: str, auth: Mapping[str, Any] | None, say: Callable[[str], None]) -> None:
    layers: dict[str, tuple[int, int]] = {}
    told = time.monotonic()
    for line in json_lines(pieces):
        say("")
        if line.get("error"):
            raise StagingError(_failed(image, str(line["error"]), auth))
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            layers[str(line.get("id"))] = (int(detail["current"]), int(detail["total"]))
        elif line.get("status") in ("Download complete", "Pull complete") and str(line.get("id")) in layers:
            layers[str(line["id"])] = (layers[str(line["id"])][1],) * 2
        if layers and time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            done, total = (sum(part[place] for part in layers.values()) for place in (0, 1))
            say(f"Pulling image {image}: {size(done)} of {size(total)} in {len(layers)} layers.")


def json_lines(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """What an engine tells of long work, a JSON object a line."""
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if held.strip():
        yield json.loads(held)


def _failed(image: str, said: str, auth: Mapping[str, Any] | None) -> str:
    hint = ""
    if "manifest unknown" in said or "not found" in said:
        hint = " Check its name and tag."
    elif any(sign in said for sign in ("denied", "unauthorized", "authentication required", "no basic auth")):
        who = "nobody is logged in: give the worker a `registry`" if auth is None else "the login may not pull it"
        hint = f" It does not exist, or {who}."
    elif "no space left" in said:
        hint = " Free some space on the engine's disk (docker system df)."
    return f"image {image!r} cannot be pulled: {said.rstrip('.')}.{hint}"


_UNBOUNDED = "disk_space cannot be bounded there (overlay2 needs XFS with pquota; btrfs and zfs can): leave it out"
#: What an engine says of a container that cannot be made or started -> what it means, with what to do.
_CAUSES = (
    (_GPU, "the engine has no GPU driver for containers: install the NVIDIA container toolkit there, or name the GPUs' "
     "`devices` in the pool"),
    ("custom device", "a device file of the pool's `devices` is not on the engine's machine"),
    ("nvidia-container-cli", "the engine's GPUs cannot be had"),
    ("storage-opt", _UNBOUNDED),
    ("storage opt", _UNBOUNDED),
    ("bind source path does not exist", "the folder of the pool's storage is not on the engine's machine"),
    ("no space left", "the engine's disk is full: free some space there"),
    ("Minimum memory limit", "the memory limit is too small"),
    ("Range of CPUs", "there are not so many CPUs"),
)  # fmt: skip


def explained(said: str) -> str:
    """What a failed start means, with what to do."""
    if "/bin/sh" in said and ("no such file" in said or "not found" in said):
        return f"the image has no /bin/sh, which runs the steps of a job: use an image with a shell ({said})"
    meaning = next((meaning for sign, meaning in _CAUSES if sign.lower() in said.lower()), "")
    return f"{meaning} ({said})" if meaning else said
