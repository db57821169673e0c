"""A network of one's own, where abstract sockets are one's own; and processes of other accounts in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from airflow_jobdeploy.hostside import kernel, notices
from airflow_jobdeploy.hostside.abstract import PREFIX

#: No account has this number.
UID = 60178

_HOLDS = """
import json, os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
held = []
for line in sys.stdin:
    said = []
    for name in json.loads(line):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(b"\\0" + name.encode("latin-1"))
            claim.listen(100)
            held.append(claim)
            said.append(True)
        except OSError:
            said.append(False)
    print(json.dumps(said), flush=True)
"""


_KNOCKS = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
door = socket.socket(socket.AF_UNIX)
door.settimeout(10)
door.connect("\\0" + sys.argv[2])
try:
    door.sendall(sys.argv[3].encode() + b"\\n")
    sys.stdout.buffer.write(door.recv(4096))
except ConnectionError:
    pass
"""


_ANSWERS = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
door = socket.socket(socket.AF_UNIX)
door.bind("\\0" + sys.argv[2])
door.listen(100)
print(flush=True)
while True:
    caller, _ = door.accept()
    try:
        if caller.recv(4096):
            caller.sendall(sys.argv[3].encode() + b"\\n")
    except ConnectionError:
        pass
"""


@contextlib.contextmanager
def impostor(enter: tuple[str, ...], name: str, text: str, uid: int = UID) -> Iterator[None]:
    """A process of another account that holds a name, and tells everybody the same who says something to it."""
    command = [*enter, sys.executable, "-S", "-c", _ANSWERS, str(uid), name, text]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def knock(enter: tuple[str, ...], name: str, text: str, uid: int = UID) -> bytes:
    """What who holds a name tells a process of another account that says something to it; b"": it hung up."""
    command = [*enter, sys.executable, "-S", "-c", _KNOCKS, str(uid), name, text]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


class Network:
    """Processes that are started with `enter` before their command see no abstract socket of anybody else."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep 100000"], stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout
        self._holder.stdout.readline()  # it is in there by then
        self.enter = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout
        self._holder.stdout.close()

    def names(self) -> list[str]:
        """Names of ours that are held in it."""
        text = subprocess.run([*self.enter, "cat", "/proc/net/unix"], capture_output=True, check=True).stdout
        lines = [line.split() for line in text.decode("latin-1").splitlines() if " @jobdeploy/" in line]
        return [line[7][1:] for line in lines if line[3] == "00010000"]


class Stranger:
    """A process of another account, that holds the names it is told to until it ends."""

    def __init__(self, enter: tuple[str, ...] = (), uid: int = UID) -> None:
        command = [*enter, sys.executable, "-S", "-c", _HOLDS, str(uid)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hold(self, *names: bytes | str) -> list[bool]:
        """Which of them it has got."""
        assert self.process.stdin
        assert self.process.stdout
        texts = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline()))

    def notice(self, kind: bytes, values: list[Any], tag: str = "") -> None:
        """As notices.hold does."""
        pieces = notices.pieces_of(values)
        head = f"{PREFIX.decode()}{kind.decode()}/{tag or os.urandom(4).hex()}"
        names = [f"{head}/{n:x}{len(pieces):x}/{piece.decode()}" for n, piece in enumerate(pieces)]
        assert all(self.hold(*names))

    def ticket(self, model: str, *, count: int = 1, priority: int = 0, age_s: float = 1e6, for_s: float = 60) -> None:
        """A ticket in the line, by default ahead of every honest one."""
        now = kernel.boottime_s()
        wishes = [[model, count, 0, None]]
        self.notice(
            notices.TICKET, ["stranger", "", "", priority, now - age_s, now + for_s, 1, 0.001, 0, 0, None, wishes, 0]
        )

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()
