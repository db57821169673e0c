"""`lab`: the contract's tests run once on each kind of worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.labs import DockerLab, HostedLab, Lab, MemoryLab, opened
from tests.servers.sshd import sshd as sshd

KINDS = [
    "memory",
    "local",
    pytest.param("ssh", marks=pytest.mark.sshd),
    pytest.param("docker", marks=pytest.mark.docker),
]


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A worker of each kind, empty; its jobs are ended afterwards."""
    if request.param == "memory":
        made: Lab = MemoryLab()
    elif request.param == "docker":
        made = DockerLab(request.getfixturevalue("dockerd"), tmp_path)
    else:
        server = request.getfixturevalue("sshd") if request.param == "ssh" else None
        made = HostedLab(request.param, tmp_path / "the root; 'of' jobs", server)
    with opened(made) as lab:
        yield lab
