"""Who this host is. `machine` names it across restarts, `boot` until the next one.

machine = machine-id (cloned images share it) + a random id in the root (+ the hostname where the root lies on a network
filesystem that several hosts mount). boot = the kernel's boot id + the PID namespace + the start of its process 1:
containers share the first, and the kernel gives the number of a namespace that is gone to the next.
"""

from __future__ import annotations

import functools
import os
from typing import Optional

from airflow_jobdeploy.hostside import layout

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "glusterfs", "beegfs", "afs", "9p", "fuse.sshfs")


def machine(root: str) -> str:
    """`m` + 20 characters; the same for every session on this host and root. OSError: root not writable."""
    parts = [_machine_id(), _root_id(root)]
    if on_network(root):
        parts.append(os.uname().nodename)
    return "m" + layout.letters("\n".join(parts).encode(), 20)


@functools.lru_cache(maxsize=None)
def boot() -> str:
    """Differs after each restart of the host, and between PID namespaces."""
    identity = _text("/proc/sys/kernel/random/boot_id") or _sysctl("kern.bootsessionuuid") or "unknown"
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = "0"
    return "%s-%s-%s" % (identity, namespace, _first_start())


def _first_start() -> str:
    """When process 1 started, in clock ticks; "0" where that is hidden from us (hidepid)."""
    fields = (_text("/proc/1/stat") or "").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else "0"


def on_network(path: str) -> bool:
    """Does this path lie on a filesystem that other hosts may mount, too?"""
    kind = filesystem(path)
    return any(kind.startswith(name) for name in _NETWORK)


def filesystem(path: str) -> str:
    """The type of the filesystem that holds `path` ("ext4", "nfs4"); "" where nothing tells."""
    real = os.path.realpath(path)
    best, found = "", ""
    for line in (_text("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # The kernel writes blanks in mount points as octal escapes.
        point = fields[1].encode().decode("unicode_escape") if "\\" in fields[1] else fields[1]
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, fields[2]
    return found


def _machine_id() -> str:
    found = _text("/etc/machine-id") or _text("/var/lib/dbus/machine-id") or _sysctl("kern.uuid")
    return found or "host:" + os.uname().nodename


def _root_id(root: str) -> str:
    path = os.path.join(root, "machine")
    found = _text(path)
    if found:
        return found
    # Two first sessions at once: the one whose link succeeds decides.
    beside = "%s.%s" % (path, os.urandom(16).hex())
    with open(beside, "w") as file:
        file.write(os.urandom(16).hex() + "\n")
    try:
        os.link(beside, path)
    except OSError:
        if not _text(path):  # left empty by a full disk, or a filesystem without links
            os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.unlink(beside)
    return _text(path) or ""


def _text(path: str) -> Optional[str]:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _sysctl(name: str) -> Optional[str]:
    if os.path.exists("/proc/self"):  # macOS only
        return None
    import subprocess

    try:
        return subprocess.run(["sysctl", "-n", name], stdout=subprocess.PIPE, timeout=5).stdout.decode().strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
