"""A plan as the configuration of its container (Docker Engine API, "ContainerCreate")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.backends.engine import names, storage
from airflow_jobdeploy.backends.engine.devices import Gpus, files
from airflow_jobdeploy.backends.engine.recipe import ENVIRONMENT

#: The engine's log keeps the bytes as they are (json-file replaces what is no UTF-8), and rotates nothing of itself.
_LOG = {"Type": "local", "Config": {"max-size": "1000g", "max-file": "1", "compress": "false"}}
#: A cap is kept in so many files; the oldest goes when the newest is full.
_LOG_FILES = 5
#: What an engine may not let a job have for less than this, in bytes.
_LOG_SMALLEST = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Security:
    """How containers are shut in. Defaults are safe for what runs as root in its image, too."""

    #: "user[:group]" instead of the image's.
    user: str = ""
    read_only: bool = False
    cap_drop: tuple[str, ...] = ("ALL",)
    cap_add: tuple[str, ...] = ()
    no_new_privileges: bool = True
    #: Device files of the engine's GPUs, "path" or "path:path inside"; (): its runtime is asked for them.
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trees:
    """The trees of a job, by name; "": none."""

    work: str = ""
    dataset: str = ""


NO_TREES = Trees()


def mounts(plan: Mapping[str, Any], trees: Trees, *, opens: bool = False) -> list[dict[str, Any]]:
    """All volumes of a job's container. Nothing of this machine's, nor the engine's socket, is ever among them.

    `opens`: those that are new get the modes of the image's folders: for NOTHING_IMAGE.
    """
    written = {str(plan["job_id"]): names.JOB, names.uid_volume(str(plan["uid"])): names.CHECKPOINT}
    if plan.get("resource_id"):
        written[names.resource_volume(str(plan["resource_id"]))] = names.RESOURCE_DIR
    found = [volume(name, place, copies=opens) for name, place in written.items()]
    if plan.get("orphan_after_s") is not None:
        found.append(volume(names.LEASES_VOLUME, names.LEASES))
    if trees.work:
        found.append(volume(names.tree_volume(trees.work), names.BUNDLE, read_only=True))
    if trees.dataset:
        found.append(volume(names.tree_volume(trees.dataset), names.DATASET, read_only=True))
    return found


def volume(name: str, target: str, *, read_only: bool = False, copies: bool = False) -> dict[str, Any]:
    """A named volume in a container; `copies`: when it is new, it becomes what the image has at that place."""
    return {
        "Type": "volume",
        "Source": name,
        "Target": target,
        "ReadOnly": read_only,
        "VolumeOptions": {"NoCopy": not copies},
    }


def container(
    plan: Mapping[str, Any],
    *,
    image: str,
    labels: Mapping[str, str],
    trees: Trees,
    security: Security,
    command: Sequence[str] = (),
    shared: str = "",
    gpus: Gpus | None = None,
) -> dict[str, Any]:
    """The container that runs an attempt. `command`: the image's own, for a job that names none; `gpus`: those of its
    lease, None: it has none."""
    return {
        "Image": image,
        "Entrypoint": ["/bin/sh", f"{names.JOB}/init"],
        "Cmd": list(command),
        "Env": [f"{name}={value}" for name, value in _environment(plan, trees, security, gpus).items()],
        "WorkingDir": "/",
        "Labels": {**labels, names.STAGE: names.READY},
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": False,
        **({"User": security.user} if security.user else {}),
        "HostConfig": {
            "Mounts": [*mounts(plan, trees), *_secrets(plan), *storage.mounts(plan), *_shared(shared)],
            "LogConfig": _log(plan),
            **_limits(plan.get("container") or {}),
            **_shut_in(security),
            **(_gpus(plan.get("container") or {}, security.devices) if gpus is None else gpus.host_config()),
        },
    }


def claim(plan: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """A container that is never started: it holds the name of an attempt, and its volumes."""
    return {
        "Image": names.NOTHING_IMAGE,
        "Cmd": ["nothing"],
        "Labels": {**labels, names.STAGE: names.CLAIM},
        "HostConfig": {"Mounts": mounts(plan, NO_TREES, opens=True), "NetworkMode": "none"},
    }


def opener(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A container that is never started: where it was mounted first, anybody may write into a job's volumes."""
    return {**helper({}), "HostConfig": {"Mounts": mounts(plan, NO_TREES, opens=True), "NetworkMode": "none"}}


def helper(volumes: Mapping[str, str], labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A container that is never started, to reach volumes through: {volume: place}."""
    return {
        "Image": names.NOTHING_IMAGE,
        "Cmd": ["nothing"],
        "Labels": {names.KIND: names.HELPER_KIND, **(labels or {})},
        "HostConfig": {"Mounts": [volume(name, place) for name, place in volumes.items()], "NetworkMode": "none"},
    }


def _secrets(plan: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Memory, as a volume: unlike a tmpfs of the container's own the engine can write into it while the job runs."""
    if not plan.get("secret_names"):
        return []
    driver = {"type": "tmpfs", "device": "tmpfs", "o": "size=16m,mode=0777,nosuid,nodev,noexec"}
    options = {
        "NoCopy": True,
        "Labels": {names.KIND: names.SECRETS_KIND, names.UID: str(plan["uid"])},
        "DriverConfig": {"Name": "local", "Options": driver},
    }
    return [{"Type": "volume", "Target": names.SECRETS, "VolumeOptions": options}]


def builder(image: str, place: str, labels: Mapping[str, str], limit_s: int) -> dict[str, Any]:
    """A container that makes a derived image, as root of the image, with the engine's usual capabilities: installers
    give files away. `place`: a folder that does not become part of the image."""
    return {
        "Image": image,
        "User": "0:0",
        "WorkingDir": "/",
        "Entrypoint": ["/bin/sh", f"{place}/build.sh", "await", str(limit_s)],
        "Cmd": [],
        "Labels": {names.KIND: names.HELPER_KIND, **labels},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": [{"Type": "volume", "Target": place}],
            "LogConfig": _LOG,
            "SecurityOpt": ["no-new-privileges:true"],
        },
    }


def _shared(root: str) -> Sequence[dict[str, Any]]:
    """A folder of the engine's machine, at the same place."""
    return [{"Type": "bind", "Source": root, "Target": root}] if root else []


def _environment(plan: Mapping[str, Any], trees: Trees, security: Security, gpus: Gpus | None) -> dict[str, str]:
    temporary = f"{names.RESOURCE_DIR}/tmp" if plan.get("resource_id") else f"{names.JOB}/tmp"
    ours = {
        "JOBDEPLOY_JOB_ID": str(plan["job_id"]),
        "JOBDEPLOY_ATTEMPT": str(plan.get("attempt", 1)),
        "JOBDEPLOY_OUTPUT_DIR": names.OUTPUT,
        "JOBDEPLOY_CHECKPOINT_DIR": names.CHECKPOINT,
        "JOBDEPLOY_RESULT_FILE": f"{names.REPORT}/result.json",
        "JOBDEPLOY_EXIT_FILE": f"{names.REPORT}/exit_file",
        "JOBDEPLOY_MESSAGES_FILE": names.MESSAGES,
        "TMUX_TMPDIR": temporary,
        "TMPDIR": temporary,
        "PYTHONUNBUFFERED": "1",
    }
    if trees.dataset:
        ours["JOBDEPLOY_DATASET_DIR"] = f"{names.DATASET}/{names.TREE}"
    ours.update(storage.environment(plan, read_only_root=security.read_only))
    if gpus is not None:
        ours.update(gpus.environment())
    elif not (plan.get("container") or {}).get("gpus"):
        ours["NVIDIA_VISIBLE_DEVICES"] = "void"  # where NVIDIA's runtime is the engine's own, images ask for all
    given = dict(plan.get("env", {}))
    if plan.get("environment") and given.get("PATH"):
        given["PATH"] = f"{ENVIRONMENT}/bin:{given['PATH']}"
    return {"LANG": "C.UTF-8", **given, **ours}


def _log(plan: Mapping[str, Any]) -> dict[str, Any]:
    cap = (plan.get("limits") or {}).get("log_limit_bytes")
    if not cap:
        return _LOG
    size = max(_LOG_SMALLEST, int(cap) // (_LOG_FILES - 1))
    return {"Type": "local", "Config": {"max-size": str(size), "max-file": str(_LOG_FILES), "compress": "false"}}


def _limits(wanted: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if wanted.get("cpu_count") is not None:
        found["NanoCpus"] = round(float(wanted["cpu_count"]) * 1e9)
    if wanted.get("memory_bytes") is not None:
        found["Memory"] = found["MemorySwap"] = int(wanted["memory_bytes"])  # no swap beside it
    if wanted.get("shm_size_bytes") is not None:
        found["ShmSize"] = int(wanted["shm_size_bytes"])
    if wanted.get("pids_limit") is not None:
        found["PidsLimit"] = int(wanted["pids_limit"])
    if wanted.get("disk_space_bytes") is not None:
        found["StorageOpt"] = {"size": str(int(wanted["disk_space_bytes"]))}
    return found


def _gpus(wanted: Mapping[str, Any], devices: Sequence[str]) -> dict[str, Any]:
    if not wanted.get("gpus"):
        return {}
    if not devices:
        return {"DeviceRequests": [{"Driver": "", "Count": int(wanted["gpus"]), "Capabilities": [["gpu"]]}]}
    return {"Devices": files(devices)}


def _shut_in(security: Security) -> dict[str, Any]:
    return {
        "ReadonlyRootfs": security.read_only,
        "CapDrop": list(security.cap_drop),
        "CapAdd": list(security.cap_add),
        "SecurityOpt": ["no-new-privileges:true"] if security.no_new_privileges else [],
        **({"Tmpfs": {"/tmp": "rw,nosuid,nodev,mode=1777"}} if security.read_only else {}),
    }
