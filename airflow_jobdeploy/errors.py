"""Every error this package raises on purpose.

    JobDeployError
    +-- InputError            bad text from a person; lists every problem at once
    |   +-- TemplateError
    |   +-- SpecError
    |   +-- PoolError
    +-- PlacementError        no worker of the pool can take the job
    +-- StagingError          code or data could not be brought to the worker
    +-- WorkerError           the worker cannot do what was asked, and says why
    |   +-- WorkerUnreachable it cannot be asked at all; says nothing about the job
    |   +-- WorkerChanged     another machine answers under its name
    +-- JobFailed             the job ended otherwise than well
        +-- JobCancelled
        +-- JobTimedOut
        +-- WorkerLost

Each message says what happened, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class JobDeployError(Exception):
    """Root of the tree: catch this one to catch all of them."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file or mapping.

    `where` is "file:line[:column]" or "<overrides>"; `path` is the place inside the document
    ("builds.up.content[2]", may be empty); `hint` says what to do.
    """

    where: str
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: {self.path}: " if self.path else f"{self.where}: "
        return place + self.message + (f" {self.hint.strip()}" if self.hint else "")


class InputError(JobDeployError):
    """Text written by a person is wrong; `problems` holds everything that was found."""

    #: What the text is, for the heading.
    noun = "input"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{len(self.problems)} problems in the {self.noun}:\n{lines}"


class TemplateError(InputError):
    """A template, or the params given to it, are wrong."""

    noun = "template"


class SpecError(InputError):
    """A job spec is wrong, or asks for what the pool or this release cannot honour."""

    noun = "job spec"


class PoolError(InputError):
    """A worker pool's definition is wrong."""

    noun = "worker pool"


class PlacementError(JobDeployError):
    """No worker of the pool can take the job."""


class StagingError(JobDeployError):
    """Code or data could not be brought to, or fetched from, the worker."""


class WorkerError(JobDeployError):
    """The worker answered that it cannot do what was asked."""


class WorkerUnreachable(WorkerError):
    """The worker cannot be asked now. Nothing follows from this about its jobs.

    `lasting`: it cannot be until somebody changes something (a key, a name, a missing Python); else it may just be
    rebooting.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class WorkerChanged(WorkerError):
    """Another machine than the one that took the job answers under the worker's name."""


class JobFailed(JobDeployError):
    """The job ended otherwise than well.

    Attributes: `status`, `reason` (machine-readable words of `core.status`), `exit_code` (int or None).
    """

    def __init__(self, message: str, *, status: str = "FAILED", reason: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.exit_code = exit_code


class JobCancelled(JobFailed):
    """Somebody stopped the job."""


class JobTimedOut(JobFailed):
    """A limit of time ended the job."""


class WorkerLost(JobFailed):
    """The worker rebooted or was lost, and the job with it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for a misspelt name, or "" when nothing is near."""
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
