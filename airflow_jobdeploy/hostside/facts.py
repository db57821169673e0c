"""What a host says of itself at the start of a session."""

from __future__ import annotations

import errno
import os
import pwd
import sys
import time
from typing import Any, Dict, List, Tuple

from airflow_jobdeploy.hostside import cage, cordon, evidence, files, identity, kernel, layout, process, protocol
from airflow_jobdeploy.hostside.gpus import Gpus
from airflow_jobdeploy.hostside.jobdir import retire
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.smi import Seen

#: Directories that nobody finished building are garbage after this long, in seconds.
_STALE_S = 86400.0
_LOGIND = "/etc/systemd/logind.conf.d"


#: What GPUs there are is believed for so long in the same boot; and so long a session waits for it otherwise.
_GPUS_S, _GPU_WAIT_S = 3600.0, 0.5


def hello(host: HostPaths, mode: str, seen: Gpus) -> Dict[str, Any]:
    """Identity, size, GPUs, and what a person should know (`warnings`)."""
    found = capabilities(host)
    gpus, driver, trouble = _gpus(host, seen)
    return {
        "protocol": protocol.PROTOCOL,
        "layout": layout.LAYOUT,
        "machine": host.machine,
        "boot": identity.boot(),
        "hostname": os.uname().nodename,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "root": host.root,
        "cpu_count": cpus(),
        "memory_bytes": evidence.memory_limit()[0],
        "disk_free_bytes": evidence.free_bytes(host.root) or 0,
        "live_jobs": live_jobs(host),
        "gpus": gpus,
        "driver": driver,
        "cordoned": cordon.told(host.cordon),
        "warnings": [*_warnings(found, mode), *trouble],
        "extra": found,
    }


def _gpus(host: HostPaths, seen: Gpus) -> Tuple[List[dict], str, List[str]]:
    """(the GPUs, the driver's version, warnings): what is written down, so that no session waits for a slow tool."""
    try:
        cached = files.read_json(host.gpus) or {}
    except files.Damaged:
        cached = {}
    if cached.get("boot") == identity.boot() and 0 <= kernel.boottime_s() - cached.get("at", 0) < _GPUS_S:
        return cached["gpus"], cached["driver"], []
    found, why = seen.look(_GPU_WAIT_S)
    if found is None:
        return [], "", [protocol.GPUS_UNKNOWN + why]
    if seen.has_tools:
        note_gpus(host, found)
    return found.gpus, found.driver, []


def note_gpus(host: HostPaths, found: Seen) -> None:
    """For later sessions."""
    record = {"boot": identity.boot(), "at": kernel.boottime_s(), "gpus": found.gpus, "driver": found.driver}
    try:
        files.write_json(host.gpus, record)
    except OSError:  # full or read-only: they look themselves
        pass


def cpus() -> int:
    """The cores that we may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def capabilities(host: HostPaths) -> Dict[str, Any]:
    """What works here; the rest is done without, as `warnings` tells."""
    return {
        "proc": process.HAS_PROC,
        "ctypes": kernel.HAS_CTYPES,
        "locks": _locks_work(host),
        "noexec": bool(os.statvfs(host.root).f_flag & getattr(os, "ST_NOEXEC", 0)),
        "filesystem": identity.filesystem(host.root),
        "enforces": cage.possible(),
    }


def _locks_work(host: HostPaths) -> bool:
    path = os.path.join(host.host, "locktest.%d" % os.getpid())
    lock = files.Lock(path)
    try:
        return lock.take() and files.is_locked(path) is True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        return True  # cannot be tried now; what runs here can still be read
    finally:
        lock.release()
        files.forget_file(path)


def _warnings(found: Dict[str, Any], mode: str) -> List[str]:
    told = []
    if not found["proc"]:
        told.append("no /proc on this system: what a command leaves behind is neither found nor waited for")
    elif not found["ctypes"]:
        told.append("this Python lacks ctypes: detached processes are found by environment only, logs not capped")
    if not found["locks"]:
        told.append("the filesystem of the root has no working locks: jobs are told alive by pid and start time")
    if mode == "login" and _kills_user_processes():
        told.append(
            "KillUserProcesses=yes in logind.conf ends jobs when the last session of this user ends: "
            "run `loginctl enable-linger` for the user once"
        )
    return told


def _kills_user_processes() -> bool:
    if not os.path.isdir("/run/systemd/system"):
        return False
    if os.path.exists("/var/lib/systemd/linger/" + pwd.getpwuid(os.geteuid()).pw_name):
        return False
    says = False
    for path in ["/etc/systemd/logind.conf", *(path for path in _inside(_LOGIND) if path.endswith(".conf"))]:
        for line in _lines(path):
            key, _, value = line.partition("=")
            if key.strip() == "KillUserProcesses":
                says = value.strip().lower() in ("yes", "true", "1", "on")
    return says


def _inside(folder: str) -> List[str]:
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except OSError:
        return []


def _lines(path: str) -> List[str]:
    try:
        with open(path, errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def live_jobs(host: HostPaths) -> int:
    """Jobs under supervision now, of all pools."""
    return sum(1 for name in job_names(host) if _is_live(host, name))


def _is_live(host: HostPaths, name: str) -> bool:
    paths = host.job(name)
    return not os.path.exists(paths.exit) and files.is_locked(paths.lock) is True


def job_names(host: HostPaths) -> List[str]:
    """All jobs that have a directory."""
    try:
        return [name for name in os.listdir(host.jobs) if layout.is_name(name)]
    except FileNotFoundError:
        return []


def sweep_stale(host: HostPaths) -> None:
    """Remove what killed sessions left half-built."""
    for folder in (host.incoming, host.trash):
        for path in _inside(folder)[:100]:
            try:
                old = time.time() - os.lstat(path).st_mtime > _STALE_S
            except OSError:
                continue
            if old:
                try:
                    retire(host, path)
                except OSError:  # read-only: a later session will do it
                    return
