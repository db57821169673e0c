"""File systems for tests: small ones, to be filled, and one whose files can share blocks."""

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


@contextlib.contextmanager
def sharing(place: Path) -> Iterator[Path]:
    """A new XFS mounted on the new directory `place`; for tests marked `xfs`."""
    image = place.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(320 << 20)  # XFS takes no less than 300 MiB; nothing of it is written
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True, env={"PATH": path})
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def with_quotas(place: Path) -> Iterator[Path]:
    """A new btrfs mounted on a directory, where an engine can bound what a container writes."""
    image = place.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(400 << 20)
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    subprocess.run(["mkfs.btrfs", "-q", "-f", str(image)], check=True, env={"PATH": path}, capture_output=True)
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        # Whoever used it may have unmounted it.
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)
        image.unlink()


def free_bytes(place: Path) -> int:
    """What is free on the file system of `place`."""
    found = os.statvfs(place)
    return found.f_bfree * found.f_frsize


def make_read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
