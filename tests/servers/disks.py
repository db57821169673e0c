"""Small file systems, to be filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small(place: Path, size: str) -> Iterator[Path]:
    """A file system of `size` ("64k") mounted on the new directory `place`; only root may have one."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a small file system")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        # Lazily: a process that is just ending may still stand in it.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
