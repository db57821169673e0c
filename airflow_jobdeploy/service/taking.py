"""What a job takes along: its code, its dataset, and what follows from the code.

It is taken once, when work is prepared, and looked at, so that every problem is heard before anything starts. A task
that comes back takes nothing anew: the intent of its job says which trees it has, and only where a worker has lost one
it is made again, or that is an error. A clear takes everything as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.core.plan import Environment
from airflow_jobdeploy.errors import Problem, SpecError, StagingError
from airflow_jobdeploy.packing.bundle import Bundle, Code
from airflow_jobdeploy.packing.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What follows from a job's code. `warnings`: odd, but no error."""

    environment: Environment | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one attempt runs with, by name: as its intent has it."""

    bundle: str = ""
    dataset: str = ""
    #: Where the code is from: packing.bundle.
    code: Mapping[str, Any]
    environment: Environment | None = None

    @classmethod
    def of(cls, intent: Intent) -> Taken:
        environment = Environment.from_dict(intent.environment) if intent.environment else None
        return cls(bundle=intent.bundle, dataset=intent.dataset, code=intent.code, environment=environment)

    def noted(self) -> dict[str, Any]:
        """As fields of an intent."""
        environment = self.environment.to_dict() if self.environment else {}
        return {"bundle": self.bundle, "dataset": self.dataset, "code": self.code, "environment": environment}


#: Of work that takes nothing along.
NOTHING = Taken(code={})


class Takes:
    """The trees of one piece of work. `look` sees what follows from the code; SpecError for what is wrong with it.

    `glance`: what is wrong with code that cannot be taken as it lies, as far as that can be seen.
    """

    def __init__(
        self,
        code: Code | None = None,
        dataset: Callable[[], Dataset] | None = None,
        look: Callable[[Bundle | None], Seen] = lambda bundle: Seen(),
        glance: Callable[[], Sequence[Problem]] = lambda: (),
    ) -> None:
        self.code = code
        self._dataset = dataset
        self._look = look
        self._glance = glance

    # -- as it is now -----------------------------------------------------------------------------------------------

    @cached_property
    def bundle(self) -> Bundle | None:
        """The code. StagingError with all that is wrong with it."""
        return self.code.bundle() if self.code else None

    @cached_property
    def seen(self) -> Seen:
        """What follows from the code. SpecError, StagingError."""
        return self._look(self.bundle)

    @cached_property
    def dataset(self) -> Dataset | None:
        """The dataset. StagingError when it is missing, empty, unreadable."""
        return self._dataset() if self._dataset else None

    def now(self) -> Taken:
        """All of it, taken and looked at. SpecError, StagingError."""
        bundle, dataset = self.bundle, self.dataset
        return Taken(
            bundle=bundle.name if bundle else "",
            dataset=dataset.manifest.name if dataset and dataset.manifest.is_known else "",
            code=bundle.origin if bundle else {},
            environment=self.seen.environment,
        )

    @property
    def has_dataset(self) -> bool:
        return self._dataset is not None

    def problems(self, *, beside: Sequence[Problem]) -> list[Problem]:
        """Take it, and say what is wrong. StagingError, unless there are other problems to be said first."""
        try:
            self.now()
        except SpecError as error:
            return list(error.problems)
        except StagingError as error:
            also = list(self._glance())
            if not beside and not also:
                raise
            return also if beside else [*also, Problem("the project", "", str(error))]
        return []

    def notes(self) -> tuple[str, ...]:
        """For the log: what goes and what stays, and what is odd about it."""
        found = list(self.bundle.notes) if self.bundle else []
        found += [f"Warning: {warning}." for warning in (self.bundle.warnings if self.bundle else ())]
        return (*found, *self.seen.warnings, *(self.dataset.notes if self.dataset else ()))

    @property
    def at_once(self) -> list[TreeSource]:
        """What has been taken by now."""
        taken = (self.__dict__.get("bundle"), self.__dict__.get("dataset"))
        return [source for source in taken if source is not None]

    # -- as an earlier attempt had it -------------------------------------------------------------------------------

    def kept(self, intent: Intent) -> Taken | None:
        """What the attempt of the intent has taken; None when that was no code, and now there is some."""
        if self.code is None:  # what its spec asks for may have changed, and names no file of a project
            return Taken(dataset=intent.dataset, code={}, environment=self.seen.environment)
        return Taken.of(intent) if intent.bundle else None

    def at_hand(self, intent: Intent) -> TreeSource | None:
        """The code of an intent, if it is what was just taken."""
        taken = self.bundle if "bundle" in self.__dict__ else None
        return taken if taken is not None and taken.name == intent.bundle else None

    def dataset_at_hand(self, intent: Intent) -> TreeSource | None:
        """The dataset of an intent, if it is what was just listed."""
        taken = self.dataset if "dataset" in self.__dict__ else None
        is_it = taken is not None and taken.manifest.is_known and taken.manifest.name == intent.dataset
        return taken if is_it else None

    def source(self, intent: Intent) -> TreeSource:
        """The code of an intent, to be sent. StagingError when it is no longer to be had."""
        assert self.code is not None
        return self.at_hand(intent) or self.code.again(intent.bundle, intent.code)


#: Of work that takes nothing along.
TAKES_NOTHING = Takes()
