"""What a program of a MemoryHost sees of its job."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Stopped(Exception):
    """The job was asked to end (its signal). A program may catch it, tidy up and return."""


class Killed(BaseException):
    """The job was killed: grace is over. Not to be caught."""


class _Job(Protocol):
    job_id: str

    def write(self, data: bytes) -> None: ...
    def wait(self, timeout_s: float | None, *, deaf: bool) -> None: ...
    def put_output(self, path: str, data: bytes) -> None: ...
    def put_result(self, value: Any) -> None: ...
    def tell(self, line: bytes) -> None: ...
    def put_checkpoint(self, path: str, data: bytes) -> None: ...
    def get_checkpoint(self) -> dict[str, bytes]: ...
    def leave(self, program: Program) -> None: ...


class Run:
    """One step of a job. Each method raises Killed once the job has been killed."""

    def __init__(
        self,
        job: _Job,
        *,
        args: Sequence[str],
        env: Mapping[str, str],
        files: Mapping[str, bytes],
        dataset: Mapping[str, bytes] | None = None,
    ) -> None:
        self._job = job
        self.job_id = job.job_id
        #: Arguments of an `entry` or `argv` step.
        self.args = tuple(args)
        #: Environment of the step, secrets included.
        self.env = dict(env)
        #: The working directory: the shipped project, and files that earlier steps have written.
        self.files = dict(files)
        #: The dataset's files.
        self.dataset = dict(dataset or {})

    def write(self, data: bytes | str) -> None:
        """To stdout."""
        self._job.write(data.encode() if isinstance(data, str) else data)

    def say(self, line: str) -> None:
        """A line to stdout."""
        self.write(line + "\n")

    def wait(self, timeout_s: float | None = None) -> None:
        """Let `timeout_s` pass on the host's clock; None: for ever. Raises Stopped when the job is asked to end."""
        self._job.wait(timeout_s, deaf=False)

    def wait_deaf(self, timeout_s: float | None = None) -> None:
        """The same for a program that ignores its signal: only a kill ends it."""
        self._job.wait(timeout_s, deaf=True)

    def output(self, path: str, data: bytes | str) -> None:
        """Write a file below the output directory."""
        self._job.put_output(path, data.encode() if isinstance(data, str) else data)

    def result(self, value: Any) -> None:
        """Write the result file (any JSON value)."""
        self._job.put_result(value)

    def tell(self, message: Any) -> None:
        """Append a line to the messages file: {"type": "progress", "value": 0.4}, say."""
        self._job.tell(json.dumps(message).encode() + b"\n")

    def checkpoint(self, path: str, data: bytes | str) -> None:
        """Write a file to the checkpoint directory, and say that a checkpoint is complete."""
        self._job.put_checkpoint(path, data.encode() if isinstance(data, str) else data)

    def checkpointed(self) -> dict[str, bytes]:
        """The files of the checkpoint directory, also those of earlier attempts."""
        return self._job.get_checkpoint()

    def leave(self, program: Program) -> None:
        """Leave something running in the background, as `tmux new -d` does."""
        self._job.leave(program)


#: What a step does; returns its exit code (None is 0). An exception goes to the log and is exit code 1.
Program = Callable[[Run], "int | None"]
