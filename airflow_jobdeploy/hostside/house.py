"""Children and signals of a supervisor: one place that waits, wakes and reaps."""

from __future__ import annotations

import os
import resource
import select
import signal
from typing import Any, Callable, Dict, List, NoReturn, Sequence, Set

from airflow_jobdeploy.hostside import kernel

#: Ignored by some parents (nohup, a background shell); a command shall find them as a login gives them.
_DEFAULTED = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD),
    *(signal.SIGPIPE, signal.SIGXFSZ),  # ignored by Python itself
)


class House:
    """Waits for signals and reaps every child, also orphans that a subreaper is given. One per process."""

    def __init__(self) -> None:
        #: Has somebody sent us SIGTERM since this was last cleared?
        self.terminated = False
        #: pid -> exit status (>= 0) or minus the signal, of direct children.
        self.ended: Dict[int, int] = {}
        self._children: Set[int] = set()
        self._bell, ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(ring, False)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A terminal's hangup or a stray Ctrl-C is no order to us.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _note(self, *_: Any) -> None:
        self.terminated = True

    def wait(self, seconds: float, also: Sequence[int] = ()) -> None:
        """Until a signal comes or one of the descriptors `also` has news, at most `seconds`; then reap."""
        try:
            if self._bell in select.select([self._bell, *also], [], [], max(0.0, seconds))[0]:
                while os.read(self._bell, 512):
                    pass
        except BlockingIOError:
            pass
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            if pid in self._children:
                self._children.discard(pid)
                self.ended[pid] = code

    def spawn(
        self, argv: List[str], env: Dict[str, str], cwd: str, log: str, first: Callable[[], None] = lambda: None
    ) -> int:
        """Start a command in a process group of its own that dies with us; its pid. OSError as execve(2) has it.

        `first`: what the child does before it becomes the command.
        """
        # Not by `subprocess`, which would be 0.8 MB of every supervisor.
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        told, tell = os.pipe()  # closed by a successful exec: no word is good news
        parent = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                _become(argv, env, cwd, output, tell, parent, first)
            os.close(tell)
            tell = -1
            complaint = _whole(told)
        finally:
            for fd in (output, told, tell):
                if fd >= 0:
                    os.close(fd)
        self._children.add(pid)
        if complaint:
            self._forget(pid)
            number, _, text = complaint.decode("utf-8", "surrogateescape").partition(" ")
            raise OSError(int(number), os.strerror(int(number)), text) if int(number) else ValueError(text)
        return pid

    def _forget(self, pid: int) -> None:
        """Of a child that did not become a command nothing is to be remembered."""
        self._children.discard(pid)
        os.waitpid(pid, 0)


def _become(
    argv: List[str], env: Dict[str, str], cwd: str, output: int, tell: int, parent: int, first: Callable[[], None]
) -> NoReturn:
    """In the child: turn into the command, or tell why not."""
    at = cwd
    try:
        os.setpgid(0, 0)
        kernel.die_with_parent()
        if os.getppid() != parent:  # it died before the line above could take effect
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in _DEFAULTED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        first()
        os.chdir(cwd)
        at = argv[0]
        os.execvpe(at, argv, env)
    except (OSError, ValueError) as error:
        word = "%d %s" % (getattr(error, "errno", 0) or 0, at if isinstance(error, OSError) else error)
        os.write(tell, word.encode("utf-8", "surrogateescape"))
    finally:
        os._exit(127)


def _whole(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 4096), b""))


def cpu_s() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def largest_child_bytes() -> int:
    """The most memory that any one child held; 0 where all stayed below what a fork of us begins with."""
    unit = 1024 if kernel.IS_LINUX else 1  # getrusage(2): kilobytes on Linux, bytes on macOS
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return most * unit if most > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else 0
