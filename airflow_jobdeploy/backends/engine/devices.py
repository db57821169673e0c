"""The GPUs of a container: what the engine gives it of them, and what tells its libraries which are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_AMD = "amd"
_UUID = "GPU-"
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "JOBDEPLOY_GPUS", "NVIDIA_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """Of one container with a lease; `uuids`: its own, in order.

    `seen`: those that it sees as devices, where these are more: it was made before it was known which it gets.
    """

    uuids: tuple[str, ...] = ()
    #: What libraries are told they are: UUIDs, or numbers where the pool has given them names of its own.
    told: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    #: Device files, "path" or "path:path inside"; (): the engine's runtime is asked.
    devices: tuple[str, ...] = ()
    vendor: str = ""

    @property
    def variable(self) -> str:
        """By which variable libraries are told."""
        return "ROCR_VISIBLE_DEVICES" if self.vendor == _AMD else "CUDA_VISIBLE_DEVICES"

    def environment(self) -> dict[str, str]:
        """None, when it has none."""
        if not (self.uuids or self.seen):
            empty = {"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}
            return {**empty, "JOBDEPLOY_GPUS": "", "NVIDIA_VISIBLE_DEVICES": "void"}
        return {self.variable: ",".join(self.told or self.uuids), "JOBDEPLOY_GPUS": ",".join(self.uuids)}

    def host_config(self) -> dict[str, Any]:
        """For the container's HostConfig."""
        if not (self.uuids or self.seen):
            return {}
        if self.devices:
            return {"Devices": files(self.devices)}
        ids = list(self.seen or self.uuids)
        return {"DeviceRequests": [{"Driver": "", "DeviceIDs": ids, "Capabilities": [["gpu"]]}]}


def gpus_of(
    inventory: Sequence[Mapping[str, Any]], declared: Sequence[str], uuids: Sequence[str], *, all_seen: bool = False
) -> Gpus:
    """`inventory`: the engine's GPUs (stock.py), each perhaps with "devices"; `declared`: the pool's, for any."""
    seen = [str(gpu["uuid"]) for gpu in inventory if gpu.get("uuid")] if all_seen else list(uuids)
    mine = [gpu for gpu in inventory if gpu.get("uuid") in seen]
    own = [str(path) for gpu in mine for path in gpu.get("devices") or ()]
    return Gpus(
        uuids=tuple(uuids),
        told=_told(inventory, uuids, [str(gpu["uuid"]) for gpu in mine]),
        seen=tuple(seen),
        devices=tuple(dict.fromkeys(own)) or tuple(declared),
        vendor=str(mine[0].get("vendor") or "") if mine else "",
    )


def _told(inventory: Sequence[Mapping[str, Any]], uuids: Sequence[str], seen: Sequence[str]) -> tuple[str, ...]:
    """Libraries know a GPU by its UUID, or by its number among those that the container sees."""
    if all(uuid.startswith(_UUID) for uuid in uuids):
        return tuple(uuids)
    if len({tuple(gpu.get("devices") or ()) for gpu in inventory}) == 1 and inventory[0].get("devices"):
        numbers = {str(gpu["uuid"]): int(gpu.get("index") or 0) for gpu in inventory}  # each container sees them all
    else:
        numbers = {uuid: number for number, uuid in enumerate(seen)}
    return tuple(str(numbers[uuid]) for uuid in uuids if uuid in numbers)


def files(paths: Sequence[str]) -> list[dict[str, str]]:
    """Device files as containers want them."""
    pairs = ((path, inside or path) for path, _, inside in (device.partition(":") for device in paths))
    return [{"PathOnHost": path, "PathInContainer": at, "CgroupPermissions": "rwm"} for path, at in pairs]


def refitted(inspected: Mapping[str, Any], gpus: Gpus, labels: Mapping[str, str]) -> dict[str, Any]:
    """The same container as another that was not started, but with these GPUs: by what the engine says of that one."""
    config, host = inspected["Config"], inspected["HostConfig"]
    kept = [text for text in config.get("Env") or () if text.partition("=")[0] not in _VARIABLES]
    env = [f"{name}={value}" for name, value in gpus.environment().items()]
    dropped = ("Hostname", "Domainname")
    return {
        **{key: value for key, value in config.items() if key not in dropped},
        "Env": [*kept, *env],
        "Labels": {**(config.get("Labels") or {}), **labels},
        "HostConfig": {**host, "Devices": [], "DeviceRequests": None, **gpus.host_config()},
    }
