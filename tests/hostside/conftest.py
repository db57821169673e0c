"""Real sessions on a root of their own; whatever a test leaves running is found by its environment and ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.tree import Tree
from tests.hostside.client import Serve

Open = Callable[..., Serve]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a hostile name."""
    return tmp_path / "ro ot'; echo \"é"


@pytest.fixture
def connect(root: Path) -> Iterator[Open]:
    """Opens sessions; at the end every job of the root is swept and every session closed."""
    opened: list[Serve] = []

    def make(place: Path | None = None, **options: Any) -> Serve:
        opened.append(Serve(place or root, **options))
        return opened[-1]

    yield make
    for session in opened:
        session.close()
    _clear(root)
    for inner in (path for path in root.parent.iterdir() if path != root):
        _clear(inner / "root")


def _clear(root: Path) -> None:
    """End what jobs of this root have left, and remove their temporary directories."""
    for folder in root.glob("hosts/*"):
        host = HostPaths(str(root), folder.name)
        names = [path.name for path in [*folder.glob("jobs/*"), *folder.glob("resources/*")]]
        for name in names:
            Tree(name, None).kill()
            shutil.rmtree(host.temporary(os.geteuid(), name), ignore_errors=True)


@pytest.fixture
def serve(connect: Open) -> Serve:
    return connect()


@pytest.fixture
def host(serve: Serve, root: Path) -> HostPaths:
    return HostPaths(str(root), serve.facts["machine"])
