"""Work: what is ready to be submitted, and what job specs and templates have in common when it is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.capacity import UNBOUNDED, Allowance, allowance
from airflow_jobdeploy.core.demand import NOTHING, Demand, asked, demand_of
from airflow_jobdeploy.core.plan import JobKey, Limits, Plan, Step
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.sequels import Recovery
from airflow_jobdeploy.core.spec import JobSpec, TemplateOptions
from airflow_jobdeploy.errors import Problem, SpecError
from airflow_jobdeploy.service.taking import TAKES_NOTHING, Taken, Takes

#: A worker that has been silent for so long is lost, in seconds: by then a job that asked for it has stopped itself.
WORKER_LOST_AFTER_S = 90.0

#: Between the end of such a job, grace and all, and the moment when it counts as stopped, in seconds.
LOST_MARGIN_S = 15.0

#: No job stops itself for less silence: a connection that breaks is there again within that, in seconds.
LEAST_SILENCE_S = 15.0

NO_RECOVERY = Recovery()


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a job asks of its worker, and how it stands in line for that."""

    demand: Demand = NOTHING
    #: Labels of workers that will do.
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    priority: str = "normal"
    #: What the pool allows who asks.
    allowance: Allowance = UNBOUNDED


NO_NEED = Need()

ResolveSecret = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What distinguishes one attempt from the next: chosen by `submit`."""

    uid: str
    attempt: int
    worker: str
    resource: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """Checked work, ready to be submitted as often as it takes."""

    key: JobKey
    render: Callable[[Identity], Plan]
    #: Its code and its dataset.
    takes: Takes = TAKES_NOTHING
    need: Need = NO_NEED
    #: To be told to the author: accepted spellings that mean something else, and the like.
    warnings: tuple[str, ...] = ()
    makes_resource: bool = False
    #: The resource and worker that a later build of a template belongs to.
    resource: str = ""
    worker: str = ""
    schedule_timeout_s: float | None = None
    recovery: Recovery = NO_RECOVERY
    grace_s: float = 10.0
    #: The job stops itself after so much silence, in seconds; None: it goes on.
    orphan_after_s: float | None = None
    #: Why later attempts stay on the worker of the one before; "": they need not.
    stays: str = ""

    @property
    def lost_after_s(self) -> float | None:
        """Silence after which the job has surely stopped itself: with its grace, and room for both clocks."""
        return None if self.orphan_after_s is None else self.orphan_after_s + self.grace_s + LOST_MARGIN_S

    def noted(self) -> dict[str, Any]:
        """What an intent says of it."""
        return {"lost_after_s": self.lost_after_s, "unending": self.recovery.restart == "always"}

    def plan(
        self,
        identity: Identity,
        taken: Taken,
        *,
        slots: int | None,
        delay_s: float = 0.0,
        life_left_s: float | None = None,
    ) -> Plan:
        """The plan of one attempt with its trees, to be started by its worker after `delay_s`.

        `life_left_s`: what the attempts before have left of its life_span.
        """
        plan = self.render(identity)
        limits = plan.limits if life_left_s is None else replace(plan.limits, life_span_s=life_left_s)
        code = {"code": {"bundle": taken.bundle, **taken.code}} if taken.bundle else {}
        return replace(
            plan,
            limits=limits,
            slots=slots,
            delay_s=delay_s,
            orphan_after_s=self.orphan_after_s,
            ships_project=bool(taken.bundle),
            bundle=taken.bundle,
            dataset={"tree": taken.dataset} if self.takes.has_dataset else plan.dataset,
            environment=taken.environment,
            description={**plan.description, **code},
        )


@dataclass(frozen=True, kw_only=True)
class Payer:
    """Whom the quotas of a pool count."""

    user: str = ""
    #: The team of Airflow's own that the DAG belongs to; "": Airflow has no teams, or it belongs to none.
    team: str = ""


NOBODY = Payer()


def need_of(wanted: JobSpec | TemplateOptions, pool: WorkerPool, payer: Payer, problems: list[Problem]) -> Need:
    """What a job stands in line for. Adds to `problems` what the pool cannot have."""
    if payer.team and wanted.team not in (None, payer.team):
        text = f"the DAG belongs to Airflow's team {payer.team!r}: its job cannot count as one of {wanted.team!r}."
        problems.append(Problem(wanted.given.get("team", "<job_spec>"), "team", text, "Leave it out."))
    allowed = allowance(pool.quotas, owner=payer.user, team=payer.team or wanted.team or "")
    if isinstance(wanted, TemplateOptions):
        return Need(demand=asked(wanted), priority=allowed.priority(None), allowance=allowed)
    try:
        demand = demand_of(wanted, pool)
    except SpecError as error:
        problems += error.problems
        return NO_NEED
    return Need(demand=demand, where=wanted.where, priority=allowed.priority(wanted.priority), allowance=allowed)


def resolved(references: Mapping[str, str], resolve_secret: ResolveSecret) -> dict[str, str]:
    return {name: resolve_secret(reference) for name, reference in references.items()}


def limits(wanted: JobSpec | TemplateOptions) -> Limits:
    return Limits(
        timeout_s=wanted.timeout_s,
        setup_timeout_s=wanted.setup_timeout_s,
        schedule_timeout_s=wanted.schedule_timeout_s,
        grace_s=wanted.grace_s,
        signal=wanted.signal if isinstance(wanted, JobSpec) else Limits.signal,
        log_limit_bytes=wanted.log_limit_bytes,
        keep_for_s=Limits.keep_for_s if wanted.keep_for_s is None else wanted.keep_for_s,
        life_span_s=wanted.life_span_s if isinstance(wanted, JobSpec) else None,
    )


def spec_step(spec: JobSpec, name: str) -> Step:
    """`command` is sh text and wins; a script takes `args`; `args` alone are the command line."""
    common: dict[str, Any] = {"name": name}
    if name != "job":  # a build: what a spec gives its job, the step gives itself
        common.update(env=spec.env, timeout_s=spec.timeout_s)
    if spec.command is not None:
        return Step(kind="shell", content=spec.command, **common)
    if spec.call_main:
        return Step(kind="main", path="main.py", args=spec.args or (), python=spec.python or "", **common)
    if spec.entry_script is not None:
        return Step(kind="entry", path=spec.entry_script, args=spec.args or (), python=spec.python or "", **common)
    return Step(kind="argv", args=spec.args or (), **common)


def orphan_after_s(wanted: JobSpec | TemplateOptions, recovery: Recovery) -> float | None:
    """Only a job that stops itself may be started elsewhere while its worker is silent."""
    asks = recovery.preemptible or "worker_lost" in recovery.retry_on
    if (wanted.on_orphan or ("stop" if asks else "continue")) == "continue":
        return None
    given = wanted.worker_lost_after_s if isinstance(wanted, JobSpec) else None
    lost_after_s = WORKER_LOST_AFTER_S if given is None else given
    return max(min(lost_after_s, LEAST_SILENCE_S), lost_after_s - wanted.grace_s - LOST_MARGIN_S)
