"""Be told of changes in directories instead of looking: inotify(7), through ctypes.

The kernel tells of what this host does, whatever the filesystem: all who write a job's records are on its host.
A user may have few bells at a time (fs.inotify.max_user_instances, 128): whoever gets none goes on looking.
"""

from __future__ import annotations

import os
import struct
from typing import Dict, Optional, Set

from airflow_jobdeploy.hostside import kernel

# linux/inotify.h
_MODIFY, _CLOSE_WRITE, _MOVED_TO, _DELETE_SELF, _MOVE_SELF = 0x2, 0x8, 0x80, 0x400, 0x800
_OVERFLOW, _ONLY_DIRECTORIES = 0x4000, 0x01000000
#: A file written or given its name; closed by a writer, which for a lock means that its holder is gone.
_MASK = _MODIFY | _CLOSE_WRITE | _MOVED_TO | _DELETE_SELF | _MOVE_SELF | _ONLY_DIRECTORIES
_EVENT = struct.Struct("iIII")


class Bell:
    """Rings when something changes directly inside one of its directories."""

    def __init__(self) -> None:
        #: Readable when something has changed; None where there is no inotify, or no more of it.
        self.fd: Optional[int] = kernel.inotify()
        self._names: Dict[int, str] = {}

    def add(self, name: str, directory: str) -> bool:
        """Ring for `directory` from now on, as `name`. False: not possible here, or no such directory."""
        number = -1 if self.fd is None else kernel.inotify_add(self.fd, directory, _MASK)
        if number >= 0:
            self._names[number] = name
        return number >= 0

    def rung(self) -> Set[str]:
        """The names whose directories have changed since the last call; all of them when the kernel lost count."""
        found: Set[str] = set()
        while self.fd is not None:
            try:
                data = os.read(self.fd, 64 * 1024)
            except BlockingIOError:
                break
            found |= self._named(data)
        return found

    def _named(self, data: bytes) -> Set[str]:
        found, position = set(), 0
        while position < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            if mask & _OVERFLOW:
                return set(self._names.values())
            if number in self._names:
                found.add(self._names[number])
        return found

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None
