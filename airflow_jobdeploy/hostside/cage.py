"""A control group of a job's own, so that it gets the cores and the memory that it holds, and no more (cgroups(7)).

Only where we may make one: below our own group with version 1 (root), below the nearest group that hands its
controllers on with version 2 (root, or what systemd has delegated to the user). Elsewhere cores and memory are counted
only: an ordinary login session may not make groups. The command joins its group itself, before it becomes the command;
whether that has worked is looked up, not assumed.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Dict, List, Optional

MOUNT, OWN = "/sys/fs/cgroup", "/proc/self/cgroup"
_PERIOD_US = 100000
#: Less than this much of a core is not worth having: even a shell would take seconds to start.
_LEAST_CORES = 0.1
_CONTROLLERS = ("cpu", "memory")


class Cage:
    """The groups of one job. `folders`: by controller; empty where there are none."""

    def __init__(self, job: str, demand: Dict[str, Any], mount: str = MOUNT, own: str = OWN) -> None:
        self._limits = {key: demand[key] for key in _CONTROLLERS if demand.get(key)}
        self._mount, self._own, self._name = mount, own, "jobdeploy-" + job
        self.folders: Dict[str, str] = {}

    def make(self) -> None:
        """As far as we may."""
        for controller, limit in self._limits.items():
            parent, is_v2 = _parent(self._mount, self._own, controller)
            if parent is None:
                continue
            folder = os.path.join(parent, self._name)
            try:
                if not os.path.isdir(folder):
                    os.mkdir(folder)
                for name, value in _settings(controller, limit, is_v2):
                    _write(os.path.join(folder, name), value)
                self.folders[controller] = folder
            except OSError:  # not ours to make, or not with this limit: counted only
                if folder not in self.folders.values():
                    remove([folder])

    def doors(self) -> List[str]:
        """Files that a process writes 0 to, to be in."""
        return [os.path.join(folder, "cgroup.procs") for folder in sorted(set(self.folders.values()))]

    def join(self) -> None:
        """Called in a child that is about to become a command."""
        for door in self.doors():
            try:
                _write(door, "0")
            except OSError:  # it runs all the same; `enforced` tells
                pass

    def enforced(self, pid: int) -> List[str]:
        """The controllers whose group holds this process."""
        return sorted(controller for controller, folder in self.folders.items() if _holds(folder, pid))

    def remove(self) -> None:
        """After the last process has gone."""
        remove(list(self.folders.values()))


def possible(mount: str = MOUNT, own: str = OWN) -> List[str]:
    """The controllers by which jobs' demands are enforced here."""
    return [controller for controller in _CONTROLLERS if _parent(mount, own, controller)[0] is not None]


def remove(folders: List[str]) -> None:
    """Remove groups; the kernel may need a moment to let go of processes that have ended."""
    for folder in dict.fromkeys(folders):
        for pause_s in (0.01, 0.05, 0.2, 0.0):
            try:
                os.rmdir(folder)
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    break
                time.sleep(pause_s)  # nothing tells of it where there is only version 1


def are_groups(folders: Any, job: str) -> bool:
    """May these be removed as the groups of a job, whatever wrote them down?"""
    good = isinstance(folders, list) and all(isinstance(folder, str) for folder in folders)
    return good and all(
        os.path.normpath(folder) == folder
        and folder.startswith(MOUNT + "/")
        and os.path.basename(folder) == "jobdeploy-" + job
        for folder in folders
    )


def _parent(mount: str, own: str, controller: str) -> Any:
    """(the group to make ours in, is it version 2?); None where we may make none."""
    v2 = None
    for line in _lines(own):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            folder = _existing(os.path.join(mount, controller), path)
            return (folder if os.access(folder, os.W_OK) else None), False
        if number == "0" and not controllers:
            v2 = path
    # With version 2 a process is in one group only: that for memory, which does also for cores where it can.
    group = None if v2 is None else _handing_on(mount, v2, "memory") or _handing_on(mount, v2, "cpu")
    return (group if group is not None and controller in _handed_on(group) else None), True


def _handing_on(mount: str, path: str, controller: str) -> Optional[str]:
    """The nearest group above us that hands the controller on to its children, and lets us in."""
    folder = _existing(mount, path)
    while folder.startswith(mount):
        if controller in _handed_on(folder):
            doors = (folder, os.path.join(folder, "cgroup.procs"))
            return folder if all(os.access(door, os.W_OK) for door in doors) else None
        folder = os.path.dirname(folder)
    return None


def _handed_on(folder: str) -> List[str]:
    return " ".join(_lines(os.path.join(folder, "cgroup.subtree_control"))).split()


def _existing(mount: str, path: str) -> str:
    # In a container the path may be the host's: then the mount itself is our group.
    full = os.path.normpath(mount + "/" + path)
    return full if os.path.isdir(full) else mount


def _settings(controller: str, limit: float, is_v2: bool) -> Any:
    if controller == "memory":
        return [("memory.max" if is_v2 else "memory.limit_in_bytes", "%d" % limit)]
    quota = "%d" % (max(_LEAST_CORES, limit) * _PERIOD_US)
    if is_v2:
        return [("cpu.max", "%s %d" % (quota, _PERIOD_US))]
    return [("cpu.cfs_period_us", "%d" % _PERIOD_US), ("cpu.cfs_quota_us", quota)]


def _holds(folder: str, pid: int) -> bool:
    return str(pid) in _lines(os.path.join(folder, "cgroup.procs"))


def _write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)


def _lines(path: str) -> List[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []
