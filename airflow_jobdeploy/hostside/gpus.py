"""The GPUs of this host, as the vendors' own tools tell: nvidia-smi, and rocm-smi where there is one.

A tool may be missing (no GPUs), fail (a driver that was updated under it) or hang for ever (a GPU that fell off the
bus): it is a child of ours with its output in a pipe, read when it comes, killed when it is late, and no second one is
started while a killed one has not gone. So nobody ever waits for a tool longer than they want to (`Gpus.look`).
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import kernel, process
from airflow_jobdeploy.hostside.smi import READERS, Seen

if TYPE_CHECKING:
    import subprocess

#: A tool that has not answered by then is hung, and killed.
HUNG_S = 15.0
#: What was seen is believed for so long; a process that has ended meanwhile is seen by its pid.
FRESH_S = 10.0
#: Where drivers put their tools, beside PATH: a container's toolkit, ROCm, Windows.
_BESIDE = ("/usr/bin", "/usr/local/bin", "/usr/local/nvidia/bin", "/opt/rocm/bin", "/usr/lib/wsl/lib")
_LIMIT = 1 << 20


class Gpus:
    """What is known of the GPUs, for one process of ours. `path`: where to look for the tools first."""

    def __init__(self, path: str) -> None:
        self._path = path
        #: Is there a tool that could tell? None: not looked yet.
        self.has_tools: Optional[bool] = None
        self._running: Optional[_Looking] = None
        self._found: Optional[Seen] = None
        self._at = self._begun = 0.0
        self._why = ""

    def look(self, wait_s: float, fresh_s: float = FRESH_S, since: float = 0.0) -> Tuple[Optional[Seen], str]:
        """(what was seen, why it is not to be had). Waits for a look that is not older than `fresh_s` seconds, and that
        has begun after `since` (time.monotonic).

        That is at most `wait_s` for each run of the tools, however many ask meanwhile; what is late comes with a later
        call. Without a tool there are no GPUs, and that is known at once.
        """
        age_s = time.monotonic() - self._at
        if self._found is not None and age_s <= fresh_s and self._begun >= since:
            return self._found, ""
        if self._found is None and self._why and age_s <= min(fresh_s, FRESH_S):
            return None, self._why  # it has just failed
        if not self._is_running(wait_s):
            return Seen([], "", {}), ""
        assert self._running is not None
        self._running.wait(wait_s)
        if self._running.is_over:
            self._take(self._running)
        if self._found is not None and time.monotonic() - self._at <= max(fresh_s, FRESH_S):
            if self._begun >= since:
                return self._found, ""
            self._is_running(0.0)  # that one had begun too soon
        return None, self._why or "the GPUs are being looked for: %s" % self._running_text()

    def _is_running(self, wait_s: float) -> bool:
        """Let the tools run, if they do not yet; False when there are none."""
        if self._running is not None and self._running.is_over and self._running.has_gone(wait_s):
            self._running = None  # what had to be killed has let go
        if self._running is None:
            tools = self._tools()
            self.has_tools = bool(tools)
            self._running = _Looking(tools) if tools else None
        return self._running is not None

    def _running_text(self) -> str:
        return self._running.text() if self._running is not None else "no answer yet"

    def _take(self, looking: _Looking) -> None:
        self._found, self._why = looking.result()
        self._at, self._begun = time.monotonic(), looking.begun
        if looking.has_gone():  # one that cannot be killed stays on record: no other is started beside it
            self._running = None

    def _tools(self) -> List[Tuple[str, str]]:
        """(kind, path) of the tools that are here."""
        folders = dict.fromkeys([*self._path.split(os.pathsep), *_BESIDE])
        found = []
        for kind in READERS:
            places = (os.path.join(folder, kind) for folder in folders if folder)
            tool = next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), None)
            if tool is not None:
                found.append((kind, tool))
        return found

    def fds(self) -> List[int]:
        """To wait for beside others: readable when a look that runs has come further."""
        return self._running.fds() if self._running is not None else []

    def close(self) -> None:
        """End what still looks."""
        if self._running is not None:
            self._running.kill()


class _Looking:
    """One look: the tools that run, and what they have said."""

    def __init__(self, tools: List[Tuple[str, str]]) -> None:
        self.begun = time.monotonic()
        self._killed_at = 0.0
        self._asked = [_Ask(kind, tool) for kind, tool in tools]

    @property
    def is_over(self) -> bool:
        return all(ask.is_over for ask in self._asked)

    def has_gone(self, wait_s: float = 0.0) -> bool:
        """Has the kernel let go of all its processes? Who was killed needs a moment, in a hung driver for ever."""
        until = self._killed_at + min(wait_s, 1.0)
        while not all(ask.is_gone for ask in self._asked):
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)  # bounded, and only after a tool was killed
        return True

    def fds(self) -> List[int]:
        return [fd for ask in self._asked for fd in ask.fds()]

    def wait(self, wait_s: float) -> None:
        """Take what comes, until all is there or `wait_s` have passed since the begin; kill what hangs."""
        until = self.begun + wait_s
        while not self.is_over:
            left = max(0.0, min(until, self.begun + HUNG_S) - time.monotonic())
            for fd in select.select(self.fds(), [], [], left)[0]:
                for ask in self._asked:
                    ask.take(fd)
            if time.monotonic() - self.begun >= HUNG_S:
                self.kill()
            elif time.monotonic() >= until:
                return

    def kill(self) -> None:
        self._killed_at = time.monotonic()
        for ask in self._asked:
            ask.kill("it has not answered for %d s: is its driver hung?" % HUNG_S)

    def text(self) -> str:
        return ", ".join("%s has run for %.1f s" % (ask.tool, time.monotonic() - self.begun) for ask in self._asked)

    def result(self) -> Tuple[Optional[Seen], str]:
        """All that the tools have seen; None, and why, when one could not tell."""
        gpus: List[dict] = []
        driver, users = "", {}  # type: str, Dict[str, List[dict]]
        for ask in self._asked:
            found, why = ask.result()
            if found is None:
                return None, why
            gpus += found.gpus
            driver = driver or found.driver
            users.update(found.processes)
        for entry in (entry for entries in users.values() for entry in entries):
            entry.update(_whose(entry["pid"]))
        return Seen(gpus, driver, users), ""


class _Ask:
    """One tool, and the answers to each of its questions."""

    def __init__(self, kind: str, tool: str) -> None:
        self.tool = tool
        self._reader = READERS[kind]
        self._children = [_child([tool, *question]) for question in self._reader.questions]
        self._said = [bytearray() for _ in self._children]
        self._killed = ""

    def fds(self) -> List[int]:
        return [child.stdout.fileno() for child in self._children if child.stdout and not child.stdout.closed]

    @property
    def is_over(self) -> bool:
        return not self.fds()

    @property
    def is_gone(self) -> bool:
        return all(child.poll() is not None for child in self._children)

    def take(self, fd: int) -> None:
        for child, said in zip(self._children, self._said):
            if child.stdout and not child.stdout.closed and child.stdout.fileno() == fd:
                data = os.read(fd, 1 << 16)
                said += data
                if len(said) > _LIMIT:
                    _end(child)
                if not data or len(said) > _LIMIT:
                    child.stdout.close()

    def kill(self, why: str) -> None:
        for child in self._children:
            if child.stdout and not child.stdout.closed:
                self._killed = why
                child.stdout.close()
            _end(child)

    def result(self) -> Tuple[Optional[Seen], str]:
        if self._killed:
            return None, "%s: %s" % (self.tool, self._killed)
        texts = [bytes(said).decode("utf-8", "replace") for said in self._said]
        codes = [_status(child) for child in self._children]
        try:
            return self._reader.read(texts, codes), ""
        except ValueError as error:
            return None, "%s: %s" % (self.tool, error)


def _child(command: List[str]) -> subprocess.Popen[bytes]:
    import subprocess  # here: most hosts have no such tool, and it is 10 ms of each session

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/"), "LANG": "C"},
        cwd="/",
        start_new_session=True,
        preexec_fn=kernel.die_with_parent,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whoever still is in its group goes; one that the kernel holds (state D) goes when it lets go."""
    try:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        pass  # gone, as it should be
    child.poll()


def _status(child: subprocess.Popen[bytes]) -> int:
    import subprocess

    try:
        return child.wait(1.0)
    except subprocess.TimeoutExpired:
        _end(child)
        return -1


def _whose(pid: int) -> Dict[str, Any]:
    """Its user and start; "" and None where it is not to be seen from here (another PID namespace)."""
    found = process.look(pid)
    if found is None:
        return {"user": "", "uid": None, "start": None}
    try:
        uid = os.stat("/proc/%d" % pid).st_uid
    except OSError:
        return {"user": "", "uid": None, "start": None}
    return {"user": user_name(uid), "uid": uid, "start": found.start}


def user_name(uid: int) -> str:
    """The account's name, "user 1234" where it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "user %d" % uid


def still_there(entry: dict) -> bool:
    """Is a process that was seen on a GPU still alive? One that we cannot see is believed to be."""
    return entry.get("start") is None or process.is_alive(entry["pid"], entry["start"])
