"""The trees of an attempt, brought to its worker and given to its claimed job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_jobdeploy.backends.base import DATASET, WORK, TreeGone, TreeReport
from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.service.insisting import Insisting
from airflow_jobdeploy.service.sending import Sending
from airflow_jobdeploy.service.taking import Takes

Say = Callable[[str], None]


@dataclass(frozen=True)
class Staging:
    """Of one attempt. What its worker has is used; the rest is sent, from what was taken or as it can be had again."""

    takes: Takes
    sending: Sending
    say: Say
    ask: Insisting

    def stage(self, intent: Intent, plan: Plan) -> Intent:
        """The intent with the names of all trees. Raises StagingError, WorkerUnreachable, WorkerError."""
        if plan.bundle:
            self._give(plan, WORK, plan.bundle, self.takes.at_hand(intent), lambda: self.takes.source(intent))
        if not self.takes.has_dataset:
            return intent
        name = self._give(plan, DATASET, intent.dataset, self.takes.dataset_at_hand(intent), self._dataset)
        if intent.dataset not in ("", name):
            self.say("The dataset has changed since the attempt before: this one reads it as it is now.")
        return intent.following(dataset=name)

    def _dataset(self) -> TreeSource:
        assert self.takes.dataset is not None
        return self.takes.dataset

    def _give(
        self, plan: Plan, role: str, name: str, at_hand: TreeSource | None, source: Callable[[], TreeSource]
    ) -> str:
        """Give the job its tree of this role ("": not known before it has been sent); its name."""
        for is_last in (False, False, True):
            name = self._brought(plan, role, name, at_hand, source)
            try:
                self.ask(plan.worker, lambda to: to.use_tree(plan.job_id, role, name))  # noqa: B023 - used at once
            except TreeGone:  # evicted or damaged in between
                if is_last:
                    raise
            else:
                break
        return name

    def _brought(
        self, plan: Plan, role: str, name: str, at_hand: TreeSource | None, source: Callable[[], TreeSource]
    ) -> str:
        what = "project" if role == WORK else "dataset"
        if at_hand is None and name and self.sending.has(name):
            self.say(f"The {what} of the attempt before is on worker {plan.worker}: it is used again.")
            return name
        report = self.sending.bring(at_hand or source(), what)
        self._learned(role, report)
        return report.name

    def _learned(self, role: str, report: TreeReport) -> None:
        if role == DATASET and report.manifest is not None and self.takes.dataset is not None:
            self.takes.dataset.learn(report.manifest)
