"""One job on one host, followed while something goes wrong; and what must be true whatever went wrong."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.service.follower import Follower, Update
from airflow_jobdeploy.service.watching import Watch
from tests.servers import kernel
from tests.servers.netns import USER, Host
from tests.servers.wire import Way

#: Long enough for a machine that does other things, too; and what such a machine adds to what is measured.
PATIENCE_S, LATE_S = 60.0, 10.0

#: Counts starts in ~/starts, and those that found another attempt alive (its lock is held) in ~/overlaps.
GUARD = """\
exec 9>>"$HOME/alive"
flock -n 9 || echo "$JOBDEPLOY_JOB_ID" >> "$HOME/overlaps"
echo "$JOBDEPLOY_JOB_ID" >> "$HOME/starts"
"""


def counting(count: int, pause_s: float = 0.0) -> str:
    """Sh text that prints so many numbered lines."""
    pause = f"sleep {pause_s}; " if pause_s else ""
    return f'i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo "line $i"; {pause}done'


def held(door: str = "on") -> str:
    """Sh text that waits until `Case.let(door)`: what the test does meanwhile is done before the job goes on."""
    return f'until [ -e "$HOME/{door}" ]; do sleep 0.05; done'


def halves(count: int, pause_s: float, at: int = 5) -> str:
    """`counting`, but held after line `at`."""
    rest = counting(count, pause_s).removeprefix("i=0; ")
    return f"{counting(at, pause_s)}; {held()}; {rest}"


class Following:
    """A watch in a thread of its own, as in a triggerer; every update is kept."""

    def __init__(self, connect: Callable[[], Backend], handle: JobHandle, *, unknown_after_s: float) -> None:
        self.updates: list[Update] = []
        #: When each came, on the monotonic clock.
        self.times: list[float] = []
        self.watch = Watch(connect, unknown_after_s=unknown_after_s)
        self._news = threading.Condition()
        self._over = False
        self._follower = Follower(handle.job_id, deliver=self._take, machine=handle.machine)
        self.watch.add(self._follower)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over and not self._follower.over:
            self.watch.run_pass(1.0)

    def _take(self, update: Update) -> None:
        with self._news:
            self.updates.append(update)
            self.times.append(time.monotonic())
            self._news.notify_all()

    def until(self, wanted: Callable[[Update], bool], timeout_s: float = PATIENCE_S) -> float:
        """When the first update since the last call came that is as wanted."""
        seen = 0
        with self._news:
            until = time.monotonic() + timeout_s
            while True:
                for number in range(seen, len(self.updates)):
                    if wanted(self.updates[number]):
                        return self.times[number]
                seen = len(self.updates)
                assert self._news.wait(until - time.monotonic()), f"not within {timeout_s} s; told: {self.told}"

    def until_status(self, status: JobStatus, timeout_s: float = PATIENCE_S) -> float:
        return self.until(lambda update: update.state.status is status, timeout_s)

    def until_text(self, text: str, timeout_s: float = PATIENCE_S) -> float:
        return self.until(lambda _: text in self.text, timeout_s)

    def end(self, timeout_s: float = PATIENCE_S) -> JobState:
        """The state that the job ended with, its log read whole."""
        self.until(lambda update: update.over, timeout_s)
        return self.updates[-1].state

    @property
    def text(self) -> str:
        return "".join(update.text for update in self.updates)

    @property
    def told(self) -> str:
        """What a person would be told, in short: "UNKNOWN (Unreachable), SUCCEEDED"."""
        words: list[str] = []
        for update in self.updates:
            state = update.state
            word = f"{state.status} ({state.reason})" if state.reason else str(state.status)
            if state.status is JobStatus.PENDING or word in words[-1:]:
                continue
            words.append(word)
        return ", ".join(word for word in words if word != "RUNNING" or word is words[-1])

    def close(self) -> None:
        self._over = True
        self.watch.wake()
        self._thread.join(PATIENCE_S)
        self.watch.close()


@dataclass
class Notebook:
    """An intent store in memory; keeps copies, as a database would."""

    value: dict[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return copy.deepcopy(self.value)

    def save(self, value: Mapping[str, Any]) -> None:
        self.value = copy.deepcopy(dict(value))


@dataclass
class Case:
    """A pool of one host, and one task that submits to it. `way`: how it is reached; read at each connect."""

    host: Host
    way: Way
    unknown_after_s: float = 60.0
    notebook: Notebook = field(default_factory=Notebook)
    said: list[str] = field(default_factory=list)
    connects: int = 0
    env: dict[str, str] = field(default_factory=dict)
    guard = GUARD
    _followings: list[Following] = field(default_factory=list)
    _closing: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = WorkerPool(name="lab", kind="ssh", workers=(Worker(conn_id=self.host.name),))

    # -- what a task does ------------------------------------------------------------------------------------------

    def backend(self) -> HostedBackend:
        def connect() -> Any:
            self.connects += 1
            return self.way.client(self.host.name)

        backend = HostedBackend(worker=self.host.name, kind="ssh", connect=connect)
        self._closing.append(backend.close)
        return backend

    def submit(self, command: str, *, project: Path | None = None, **spec: Any) -> service.Submitted:
        """Submit as a task does, or as its retry: the same intent is used each time."""
        self._again = lambda: self.submit(command, project=project, **spec)
        loaded = load_spec({"command": self.guard + command, "env": self.env, **spec})
        work = service.prepare_run(loaded, pool=self.pool, resolve_secret=str, project_dir=project)
        epoch = {"max_tries": 0, "clear_number": 0}
        with service.Workers(self.pool, lambda _: self.backend()) as workers:
            return service.submit(work, workers, intents=self.notebook, epoch=epoch, say=self.said.append)

    def submit_again(self) -> service.Submitted:
        """As the task's next try does, with all as before."""
        return self._again()

    def follow(self, handle: JobHandle) -> Following:
        following = Following(self.backend, handle, unknown_after_s=self.unknown_after_s)
        self._followings.append(following)
        return following

    def started(self, command: str, **spec: Any) -> Following:
        """Submitted, and seen to run before its command goes on."""
        following = self.follow(self.submit(f"{held('seen')}\n{command}", **spec).handle)
        following.until_status(JobStatus.RUNNING)
        self.let("seen")
        return following

    def let(self, door: str = "on") -> None:
        """Let a job go on that is `held`."""
        (self.host.home / door).touch()

    def close(self) -> None:
        """Let go of all connections; jobs are not touched."""
        while self._followings:  # first: their threads use connections, and make new ones
            self._followings.pop().close()
        while self._closing:
            self._closing.pop()()

    # -- what is true ----------------------------------------------------------------------------------------------

    def job_dir(self) -> Path:
        """Of the only job of the host."""
        [found] = self.host.root.glob("hosts/*/jobs/*")
        return found

    def record(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.job_dir() / f"{name}.json").read_text())
        return found

    def supervisor(self) -> int:
        """Its pid as we see it."""
        inside = self.record("state")["pid"]
        [found] = [pid for pid in self.host.processes() if kernel.pid_inside(pid) == inside]
        return found

    def starts(self) -> int:
        return _lines(self.host.home / "starts")

    def live_attempts_max(self) -> int:
        return min(1, self.starts()) + _lines(self.host.home / "overlaps")

    def bytes_lost(self, following: Following) -> int:
        """Bytes of the log on the host that were not told; none may be told twice."""
        log = (self.job_dir() / "log").read_bytes()
        if log and not log.endswith(b"\n"):
            log += b"\n"  # a last line without an end is given one
        there = Counter(log.splitlines(keepends=True))
        told = Counter(following.text.encode().splitlines(keepends=True))
        twice = told - there
        assert not twice, f"told and not there, or twice: {list(twice)[:3]}"
        return sum(len(line) * count for line, count in (there - told).items())

    def left_behind(self) -> list[str]:
        """What should not be there once all is over and all connections are closed: processes, half-built files."""
        self.close()
        eventually(lambda: not self._processes())
        left = [f"process {line!r}" for line in self._processes().values()]
        left += [str(path) for name in ("incoming", "trash") for path in self.host.root.glob(f"hosts/*/{name}/*")]
        return left + self.host.traces()

    def _processes(self) -> dict[int, bytes]:
        return {pid: line for pid, line in self.host.processes().items() if not _is_listener(line)}


def case(host: Host, **options: Any) -> Case:
    """A case on the direct way to a host."""
    way = Way(host.address, host.user_key, host.host_key(), USER)
    return Case(host=host, way=way, **options)


def _is_listener(line: bytes) -> bool:
    return b"sshd" in line and (b"[listener]" in line or b"-E" in line.split(b"\0"))


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def eventually(check: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
    """The kernel tells nobody: look again until `check` holds; False when it did not in time."""
    until = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
