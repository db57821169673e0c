"""Real clients with one thing arranged: which shell, which Python, which command."""

from __future__ import annotations

import os
import shlex
import shutil
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

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return super().open([*self._command, "exec " + " ".join(shlex.quote(word) for word in argv)])


class CommandClient(LocalClient):
    """Runs another command than asked for: a worker that answers nonsense."""

    def __init__(self, *command: str) -> None:
        super().__init__("a strange host")
        self._command = command

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return super().open(self._command)


class RecordingClient(LocalClient):
    """Remembers its channels, for a test to kill what is behind them."""

    def __init__(self) -> None:
        super().__init__("this host")
        self.opened: list[LocalChannel] = []

    def open(self, argv: Sequence[str]) -> LocalChannel:
        channel = super().open(argv)
        self.opened.append(channel)
        return channel


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
