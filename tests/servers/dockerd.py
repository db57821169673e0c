"""A real dockerd of the test's own: its socket, its data, its network namespace, its images; stopped by its pid.

No registry is asked for anything: the image is a tar of this machine's static busybox.
Needs root, dockerd, busybox (static), unshare: mark the tests with `docker`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

#: The image of the tests: sh and what busybox has.
IMAGE = "jobdeploy-test/box:1"
#: One without a shell, for tests that add it.
BARE_IMAGE = "jobdeploy-test/bare:1"
_SBIN = ":/usr/sbin:/usr/local/sbin:/sbin"
_START_S, _STOP_S = 90.0, 30.0


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + _SBIN)
    assert found, f"{name} is missing; mark the test with `docker`"
    return found


@dataclass
class Dockerd:
    """One engine. `options`: more arguments of dockerd; `path`: where it looks for programs first."""

    dir: Path
    options: tuple[str, ...] = ()
    path: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def socket(self) -> Path:
        return self.dir / "docker.sock"  # short: a socket's path has 107 bytes

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, timeout_s: float = 20.0, url: str = "") -> Any:
        """A client of the docker SDK; `url`: another way to the engine."""
        import docker

        client = docker.APIClient(base_url=url or self.url, timeout=timeout_s, version="auto")
        client.trust_env = False
        return client

    def session(self) -> Any:
        """A client that has not asked yet whether anybody is there."""
        import docker

        return docker.APIClient(base_url=self.url, timeout=5.0, version="1.41")

    def start(self) -> None:
        """Start it, also after a kill: what that left of pid files is removed."""
        for name in ("pid", "exec/containerd/containerd.pid"):
            (self.dir / name).unlink(missing_ok=True)
        command = [_program("unshare"), "--net", _program("dockerd"), "--host", self.url, "--bridge=none"]
        command += ["--iptables=false", "--ip-forward=false", "--ip-masq=false", "--log-level=warn"]
        command += ["--data-root", str(self.dir / "data"), "--exec-root", str(self.dir / "exec")]
        command += ["--pidfile", str(self.dir / "pid"), "--shutdown-timeout=3", *self.options]
        config = self.dir / "daemon.json"
        config.write_text("{}")
        env = {**os.environ, "PATH": f"{self.path}:{os.environ.get('PATH', os.defpath)}{_SBIN}".lstrip(":")}
        with (self.dir / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config-file", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
        self._await_answer()

    def _await_answer(self) -> None:
        until = time.monotonic() + _START_S
        while True:
            try:
                self.client(5.0).ping()
            except Exception as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > until:
                    tail = (self.dir / "log").read_text(errors="replace")[-2000:]
                    raise AssertionError(f"dockerd does not answer: {error}\n{tail}") from error
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """As a crash: containers go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it and everything that it started."""
        if self._process is None:
            return
        if self._process.poll() is None:
            with contextlib.suppress(Exception):
                self.wipe()
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid in _pids_below(self.dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._unmount()

    def wipe(self) -> None:
        """Remove all containers and volumes; images stay."""
        client = self.client()
        for container in client.containers(all=True):
            with contextlib.suppress(Exception):
                client.remove_container(container["Id"], force=True, v=True)
        for volume in client.volumes()["Volumes"] or ():
            with contextlib.suppress(Exception):
                client.remove_volume(volume["Name"], force=True)
        client.close()

    def _unmount(self) -> None:
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in sorted((p for p in points if p.startswith(f"{self.dir}/")), reverse=True):
            subprocess.run([_program("umount"), "--lazy", point], check=False)

    def add_image(self, name: str = IMAGE) -> None:
        """A busybox with sh, /tmp and a user `ml` (1000)."""
        repository, _, tag = name.rpartition(":")
        self.client().import_image_from_data(_busybox(), repository=repository, tag=tag)

    def add_bare_image(self, name: str = BARE_IMAGE, command: tuple[str, ...] = ()) -> None:
        """One program, /busybox, and no shell; `command`: what it runs of itself."""
        repository, _, tag = name.rpartition(":")
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(_program("busybox"), "busybox", recursive=False)
        changes = [f"CMD {json.dumps(command)}"] if command else []
        self.client().import_image_from_data(out.getvalue(), repository=repository, tag=tag, changes=changes)


def _pids_below(folder: Path) -> list[int]:
    """Processes whose command line names our private folder: containerd and its shims."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(f"{folder}/".encode()) or f"={folder}/".encode() in word for word in words):
                    found.append(int(entry.name))
    return found


def _busybox() -> bytes:
    program = Path(_program("busybox"))
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777), ("proc", 0o755), ("etc", 0o755), ("home/ml", 0o777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(program, "bin/busybox", recursive=False)
        for name in names:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            if name != "busybox":
                tar.addfile(entry)
        passwd = b"root:x:0:0::/:/bin/sh\nml:x:1000:1000::/home/ml:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(passwd)
        tar.addfile(entry, io.BytesIO(passwd))
    return out.getvalue()


@contextlib.contextmanager
def started(*options: str, disk: str = "", path: str = "") -> Iterator[Dockerd]:
    """An engine with the test image, for as long as the block lasts. `disk`: its size ("40m"), in memory."""
    folder = Path(tempfile.mkdtemp(prefix="jdd-"))
    engine = Dockerd(folder, options, path)
    if disk:
        (folder / "data").mkdir()
        command = [_program("mount"), "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(folder / "data")]
        subprocess.run(command, check=True)  # unmounted by `stop`
    try:
        engine.start()
        engine.add_image()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """An engine for all tests of this process."""
    with started() as engine:
        yield engine
