"""The GPUs that a pool declares of an engine, as hosts tell theirs (hostside/fitting.py), each with its "devices".

    workers: [{url: "tcp://gpu-a:2376", devices: [/dev/nvidia0, /dev/nvidia1, /dev/nvidiactl], gpu_types: [...]}]

A file with a number is one GPU's, whatever has none is for all of them. The `gpu_types`, in their order, say what these
GPUs are. Without `devices` GPUs go by their number, as the NVIDIA runtime counts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.core.gpus import GpuWish
from airflow_jobdeploy.core.pool import Worker

#: /dev/nvidia0; /dev/dri/card0 and /dev/dri/renderD128 are the same GPU.
_NUMBERED = re.compile(r"/dev/(?:nvidia(\d+)|dri/card(\d+)|dri/renderD(\d+)|accel/accel(\d+))")
_FIRST_RENDER_NODE = 128


def declared_gpus(worker: Worker) -> tuple[Mapping[str, Any], ...]:
    """What the pool says that an engine has; () where it says nothing.

    The same device has the same "uuid" in all pools: its path, or its number.
    """
    types = [wish for wish in worker.gpu_types for _ in range(wish.count)]
    own, common = _sorted(worker.devices)
    if not worker.devices:
        return tuple(_gpu(index, str(index), kind) for index, kind in enumerate(types))
    if len(own) < len(types) or not own:  # which file belongs to which GPU cannot be told: each has all of them
        own, common = {index: [] for index in range(max(len(types), 1))}, list(worker.devices)
    found = []
    for place, (index, files) in enumerate(sorted(own.items())):
        name = _name(files[0]) if files else f"dev-gpu{index}"
        gpu = _gpu(index, name, types[place] if place < len(types) else None)
        found.append({**gpu, "devices": (*files, *common)})
    return tuple(found)


def _gpu(index: int, uuid: str, kind: GpuWish | None) -> dict[str, Any]:
    model = kind.type if kind else ""
    memory = kind.memory_bytes_min if kind else None
    return {"index": index, "uuid": uuid, "model": model, "memory_bytes": memory, "mig": False, "vendor": ""}


def _sorted(devices: Sequence[str]) -> tuple[dict[int, list[str]], list[str]]:
    """The files of each GPU, by its number; those of none."""
    own: dict[int, list[str]] = {}
    common = []
    for device in devices:
        number = _number(device)
        if number is None:
            common.append(device)
        else:
            own.setdefault(number, []).append(device)
    return own, common


def _number(device: str) -> int | None:
    """Of the file on the engine's machine, or else of what the container calls it."""
    for path in device.split(":"):
        found = _NUMBERED.fullmatch(path)
        if found is not None:
            nvidia, card, render, accel = found.groups()
            return int(render) - _FIRST_RENDER_NODE if render else int(nvidia or card or accel or 0)
    return None


def _name(device: str) -> str:
    path = device.partition(":")[0]
    kind = "/dev/dri" if path.startswith("/dev/dri/") else path.rstrip("0123456789")
    number = _number(path)
    return "dev" + re.sub(r"[^A-Za-z0-9]+", "-", kind.removeprefix("/dev")) + ("" if number is None else str(number))
