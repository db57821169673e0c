"""From the worker straight to an object store, on a real S3 server, and what is done where that cannot be."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.folder import Folder
from airflow_jobdeploy.packing.objects import LISTING, ObjectFolder
from tests.servers.s3 import S3
from tests.service.conftest import Desk
from tests.service.test_fetch import ended, sessions

FILES = """cd "$JOBDEPLOY_OUTPUT_DIR"; echo 1 > a; : > empty; mkdir d; seq 400000 > "d/ü &?%2F"
head -c 3000000 /dev/urandom > big"""
NAMES = {"a", "empty", "d/ü &?%2F", "big"}


@pytest.fixture
def place(s3: S3) -> ObjectFolder:
    path = f"{s3.bucket()}/p x"
    return ObjectFolder(s3.fs(), path, f"s3://{path}")


def fetch(desk: Desk, handle: Any, place: Any, **wanted: Any) -> Any:
    with desk.workers() as workers:
        return service.fetch(workers, handle, place, service.Wanted(**wanted), say=desk.said.append)


def found(place: ObjectFolder) -> dict[str, bytes]:
    place._fs.invalidate_cache()
    names = place._fs.find(place._path)
    there = {name.removeprefix(place._path + "/"): place._fs.cat_file(name) for name in names}
    return {name: data for name, data in there.items() if name != LISTING}


def test_files_go_straight_and_only_once(desk: Desk, place: ObjectFolder, tmp_path: Path) -> None:
    handle = ended(desk, FILES)
    report = fetch(desk, handle, place, direct=True)
    assert "The worker sends its files straight to s3://" in desk.said[-1]
    fetch(desk, handle, Folder(tmp_path / "here"))
    assert found(place) == {name: (tmp_path / "here" / name).read_bytes() for name in NAMES}
    assert report.bytes == sum(file["size"] for file in report.files)
    assert (fetch(desk, handle, place).skipped, fetch(desk, handle, place, direct=False).bytes) == (4, 0)
    assert "Signature" not in " ".join(desk.said)


def test_what_was_changed_after_the_end_does_not_become_an_object(
    desk: Desk, place: ObjectFolder, tmp_path: Path
) -> None:
    handle = ended(desk, FILES)
    (big,) = (tmp_path / "root").glob("hosts/*/jobs/*/output/big")
    data = bytearray(big.read_bytes())
    data[-1] ^= 1
    big.write_bytes(data)
    with pytest.raises(
        StagingError, match=r"cannot go straight.*'big' was not sent \(changed\): it is not what the manif"
    ):
        fetch(desk, handle, place, direct=True)
    assert set(found(place)) == NAMES - {"big"}
    with pytest.raises(StagingError, match="'big' is not what the manifest says"):
        fetch(desk, handle, place)
    assert set(found(place)) == NAMES - {"big"}


def test_a_connection_that_breaks_is_made_again(desk: Desk, place: ObjectFolder) -> None:
    handle = ended(desk, 'cd "$JOBDEPLOY_OUTPUT_DIR"; for i in 1 2 3; do head -c 20000000 /dev/urandom > $i; done')
    killed: list[int] = []

    def progress(files: int, total: int, moved: int, goal: int) -> None:
        if not killed and files:
            killed.extend(sessions())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with desk.workers() as workers:
        wanted = service.Wanted(direct=True)
        report = service.fetch(workers, handle, place, wanted, say=desk.said.append, progress=progress)
    assert killed
    assert any(line.startswith("Worker local cannot be asked, again in") for line in desk.said)
    assert {name: len(data) for name, data in found(place).items()} == dict.fromkeys("123", 20_000_000)
    assert len(report.files) == 3


def test_a_folder_is_no_object_store(desk: Desk, tmp_path: Path) -> None:
    handle = ended(desk, FILES)
    with pytest.raises(StagingError, match="is no object store"):
        fetch(desk, handle, Folder(tmp_path / "here"), direct=True)
    assert len(fetch(desk, handle, Folder(tmp_path / "here")).files) == 4


class Elsewhere(ObjectFolder):
    """A store whose URLs lead to another address than this machine uses for it."""

    address = ""

    def signed(self, file: Any, expires_s: float) -> str:
        url = super().signed(file, expires_s)
        return self.address + url[url.index("/", 8) :]


@dataclass
class Refusing:
    """A server that takes nothing, and quotes what it was asked; `meanwhile` is done before it answers."""

    url: str
    meanwhile: Callable[[], None] = lambda: None


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            made.meanwhile()
            body = f"<Error><Code>AccessDenied</Code><Resource>{self.path}</Resource></Error>".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Refusing(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def test_a_store_that_refuses_the_worker(desk: Desk, s3: S3, refusing: Refusing) -> None:
    path = s3.bucket()
    place = Elsewhere(s3.fs(), path, f"s3://{path}")
    place.address = refusing.url
    handle = ended(desk, FILES)
    with pytest.raises(
        StagingError, match=r"'empty' was not sent \(refused\): the store answered 403 \(AccessDenied\)"
    ):
        fetch(desk, handle, place, direct=True)
    assert found(place) == {}
    assert len(fetch(desk, handle, place).files) == 4
    assert "Files go through this machine: 'empty' was not sent (refused)" in " ".join(desk.said)
    assert set(found(place)) == NAMES
    assert "Signature" not in " ".join(desk.said)


def test_the_urls_are_in_no_file_of_the_worker_and_in_no_command_line(
    desk: Desk, s3: S3, refusing: Refusing, tmp_path: Path
) -> None:
    path = s3.bucket()
    place = Elsewhere(s3.fs(), path, f"s3://{path}")
    place.address = refusing.url
    commands: list[bytes] = []
    written: list[Path] = []

    def look() -> None:
        for pid in (name for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError):  # it has ended
                commands.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        files = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
        written.extend(path for path in files if b"Signature=" in path.read_bytes())

    refusing.meanwhile = look
    fetch(desk, ended(desk, FILES), place)
    assert any(b"\0upload\0" in line for line in commands)
    assert not [line for line in commands if refusing.url.encode() in line]
    assert not written


def test_a_store_that_the_worker_cannot_reach(desk: Desk, s3: S3) -> None:
    path = s3.bucket()
    place = Elsewhere(s3.fs(), path, f"s3://{path}")
    place.address = "http://127.0.0.1:9"
    handle = ended(desk, FILES)
    assert len(fetch(desk, handle, place).files) == 4
    assert "'empty' was not sent (unreachable): 127.0.0.1: Connection refused" in " ".join(desk.said)


def test_this_machine_by_name_is_another_one_on_a_worker(s3: S3) -> None:
    from airflow_jobdeploy.core.pool import WorkerPool
    from airflow_jobdeploy.testing import MemoryHost

    host = MemoryHost()

    def write(run: Any) -> None:
        run.output("x", b"1")

    host.programs["make"] = write
    desk = Desk(pool=WorkerPool.local(), connect=lambda worker: host.backend())
    handle = ended(desk, "make")
    path = s3.bucket()
    fetch(desk, handle, ObjectFolder(s3.fs(), path, f"s3://{path}"))
    assert desk.said[-1] == "Files go through this machine: 127.0.0.1 is another machine there."
    fetch(desk, handle, ObjectFolder(s3.fs(), f"{path}/again", f"s3://{path}/again"), direct=True)
    assert s3.fs().cat_file(f"{path}/again/x") == b"1"
