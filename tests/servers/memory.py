"""Turns at the kernel's count of processes that it killed for want of memory: there is one for the whole machine.

A job that is killed by hand while a test beside it lets one be killed for memory counts as killed for memory, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def _turn(operation: int) -> Iterator[None]:
    """The kernel frees the lock when its holder is killed."""
    with (Path(tempfile.gettempdir()) / "jobdeploy-test-memory").open("a") as file:
        fcntl.flock(file, operation)
        yield


@pytest.fixture
def memory_kills() -> Iterator[None]:
    """The kernel may kill for memory meanwhile."""
    with _turn(fcntl.LOCK_EX):
        yield


@pytest.fixture
def no_memory_kills() -> Iterator[None]:
    """No other test lets the kernel kill for memory meanwhile."""
    with _turn(fcntl.LOCK_SH):
        yield
