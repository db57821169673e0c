"""A real S3 server on 127.0.0.1 (moto), for tests: empty buckets, requests that can be seen and cut."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers.ports import free_port

_numbers = itertools.count(1)


@dataclass
class S3:
    """A running server."""

    url: str
    log: Path
    buckets: list[str] = field(default_factory=list)

    def fs(self, **options: Any) -> Any:
        """A filesystem of fsspec on it."""
        import s3fs

        return s3fs.S3FileSystem(
            key="access-key",
            secret="secret-key",
            endpoint_url=self.url,
            client_kwargs={"region_name": "us-east-1"},
            skip_instance_cache=True,
            **options,
        )

    def bucket(self) -> str:
        """A new, empty one."""
        name = f"bucket-{next(_numbers)}"
        self.fs().call_s3("create_bucket", Bucket=name)
        return name

    def uploads(self, bucket: str) -> list[str]:
        """Keys of the objects that are half there."""
        found = self.fs().call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads") or []
        return [upload["Key"] for upload in found]

    def requests(self, method: str, bucket: str) -> list[str]:
        """Paths of the requests so far, as its log has them."""
        lines = self.log.read_text().splitlines()
        asked = [line.split('"')[1].split() for line in lines if '"' in line]
        return [words[1] for words in asked if words[0] == method and words[1].startswith(f"/{bucket}/")]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[S3]:
    port, log = free_port(), folder / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as words:
        server = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, server, log)
        yield S3(url, log)
    finally:
        server.kill()
        server.wait()


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, f"the S3 server does not answer: {log.read_text()}"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One for all tests of a process."""
    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server
