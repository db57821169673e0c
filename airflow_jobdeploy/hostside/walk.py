"""Ways through a tree by descriptors: each folder is opened once, and no link is walked through."""

from __future__ import annotations

import os
import stat
from typing import Callable, List, Optional, Tuple

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def encoded(path: str) -> bytes:
    """A path of a manifest as the kernel has it, whatever the locale."""
    return path.encode("utf-8", "surrogateescape")


class Walk:
    """Gives the folder of one path after the other; in sorted order none is opened twice.

    `make`: folders that are missing are made, and those that are there opened to us. `entered` is told each
    descriptor. OSError: a folder is missing, or something else stands in its place.
    """

    def __init__(self, top: str, make: bool = False, entered: Optional[Callable[[int, bytes], None]] = None) -> None:
        self._make = make
        self._entered = entered
        self._above = b""
        #: The folders that are open: name and descriptor, the top first.
        self._open: List[Tuple[bytes, int]] = [(b"", os.open(top, _OPEN))]
        self._enter(b"")

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    @property
    def top(self) -> int:
        return self._open[0][1]

    def at(self, path: bytes) -> Tuple[int, bytes]:
        """(descriptor of its folder, its name there)"""
        above, _, name = path.rpartition(b"/")
        if above != self._above:
            self._go(above)
        return self._open[-1][1], name

    def _go(self, above: bytes) -> None:
        parts = above.split(b"/") if above else []
        same = 0
        while same < len(parts) and same + 1 < len(self._open) and self._open[same + 1][0] == parts[same]:
            same += 1
        while len(self._open) > same + 1:
            os.close(self._open.pop()[1])
        self._above = b"/".join(parts[:same])
        for count in range(same, len(parts)):
            self._open.append((parts[count], self._opened(parts[count])))
            self._above = b"/".join(parts[: count + 1])
            self._enter(self._above)

    def _opened(self, name: bytes) -> int:
        folder = self._open[-1][1]
        if self._make:
            try:
                os.mkdir(name, 0o700, dir_fd=folder)
            except FileExistsError:
                pass
        return os.open(name, _OPEN, dir_fd=folder)

    def _enter(self, path: bytes) -> None:
        fd = self._open[-1][1]
        if self._make and not os.fstat(fd).st_mode & stat.S_IWUSR:
            os.fchmod(fd, 0o700)
        if self._entered is not None:
            self._entered(fd, path)
