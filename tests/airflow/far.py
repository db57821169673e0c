"""An SSH host for the tasks of a whole Airflow, at the end of a wire that can be made slow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.hosted import HostedBackend
from tests.servers import sshd
from tests.servers.sshd import Sshd
from tests.servers.wire import Wire, wired


class Far:
    """The pool `far`."""

    #: Bytes a second: a stop gets through a transfer's buffers in time, and the transfer takes minutes.
    SLOW = 400_000

    def __init__(self, host: Sshd, wire: Wire) -> None:
        self.host = host
        self.wire = wire

    @property
    def home(self) -> Path:
        return self.host.home

    def settings(self) -> dict[str, str]:
        """For Airflow: the connection."""
        extra = {"key_file": str(self.host.key_file), "host_key": self.host.host_key, "look_for_keys": "false"}
        connection = {
            "conn_type": "ssh",
            "host": "127.0.0.1",
            "port": self.wire.port,
            "login": self.host.user,
            "extra": extra,
        }
        return {"AIRFLOW_CONN_FAR": json.dumps(connection)}

    def project(self) -> Path:
        """A project that takes minutes at `SLOW`: bytes that no compression makes fewer."""
        folder = self.host.dir / "project"
        if not folder.exists():
            folder.mkdir()
            (folder / "data").write_bytes(os.urandom(64 * 1024 * 1024))
        return folder

    def warm_up(self) -> None:
        """Bring the runner there, so that what is slow later is the project."""
        backend = HostedBackend(worker="far", kind="ssh", connect=self.host.client)
        try:
            backend.facts()
        finally:
            backend.close()


@pytest.fixture(scope="session")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """An SSH host for the tasks of `airflow`."""
    with sshd.running(tmp_path_factory.mktemp("far")) as host, wired("127.0.0.1", host.port) as wire:
        yield Far(host, wire)
