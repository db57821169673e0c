"""Real clients with one thing arranged: which shell, which Python, which command."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from airflow_jobdeploy.backends.channel import Client, LocalChannel, LocalClient
from airflow_jobdeploy.backends.hosted import HostedBackend


class ShellClient(LocalClient):
    """Hands the command line to a login shell as sshd does: `$SHELL -c LINE`, in an environment of its own."""

    def __init__(self, shell: str, home: Path, **env: str) -> None:
        super().__init__(f"host with {Path(shell).name}")
        self._command = ["/usr/bin/env", "-i", f"HOME={home}", f"PATH={os.defpath}"]
        self._command += [f"{name}={value}" for name, value in env.items()]
        self._command += [shell, "-c"]
        #: Is it open only when it has said something? Then what it says comes before any time is over.
        self.awaits_noise = False

    def open(self, argv: Sequence[str]) -> LocalChannel:
        channel = super().open([*self._command, "exec " + " ".join(shlex.quote(word) for word in argv)])
        assert not self.awaits_noise or channel.wait(60)
        return channel


class CommandClient(LocalClient):
    """Runs another command than asked for: a worker that answers nonsense."""

    def __init__(self, *command: str) -> None:
        super().__init__("a strange host")
        self._command = command

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return super().open(self._command)


class RecordedChannel(LocalChannel):
    """What is behind it goes on when it is closed: stopped, it would be waited for in vain."""

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        super().close()


class RecordingClient(LocalClient):
    """Remembers its channels, for a test to kill or stop what is behind them."""

    def __init__(self) -> None:
        super().__init__("this host")
        self.opened: list[LocalChannel] = []

    def open(self, argv: Sequence[str]) -> LocalChannel:
        self.opened.append(RecordedChannel(argv))
        return self.opened[-1]

    def close(self) -> None:
        for channel in self.opened:
            channel.close()


@contextmanager
def host(client: Client, root: Path | str, *, kind: str = "ssh", **options: object) -> Iterator[HostedBackend]:
    backend = HostedBackend(worker="h", kind=kind, connect=lambda: client, root=str(root), **options)  # type: ignore[arg-type]
    try:
        yield backend
    finally:
        backend.close()


#: Login shells that this machine has, and the file that each reads before a command.
SHELLS = {
    shell: rc
    for shell, rc in (("sh", ""), ("bash", ".bashrc"), ("fish", ".config/fish/config.fish"), ("tcsh", ".tcshrc"))
    if shutil.which(shell)
}


def with_rc(home: Path, name: str, text: str) -> None:
    """Give a home directory a start-up file; `name` may be "": a shell that reads none."""
    if name:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
