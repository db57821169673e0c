"""`lab`: this machine, and the same through a real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.labs import HostedLab, opened
from tests.servers.sshd import sshd as sshd


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.sshd)])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HostedLab]:
    """A worker of each kind, empty; its jobs are ended afterwards."""
    server = request.getfixturevalue("sshd") if request.param == "ssh" else None
    with opened(HostedLab(request.param, tmp_path / "root", server)) as lab:
        assert isinstance(lab, HostedLab)
        yield lab
