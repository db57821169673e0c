"""What a job's container is told: the files of its volume, made from a plan. See init/, which reads them.

Every word that comes from a user is quoted for POSIX sh (shlex), or a file of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from airflow_jobdeploy.backends.engine import names, slots
from airflow_jobdeploy.backends.engine.recipe import ENVIRONMENT
from airflow_jobdeploy.backends.engine.tar import Member, folder
from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside import call_main

_CONTENTS = ("script", "file", "shell")
#: A started job waits for its secrets as long as `setup_timeout` says, else so long, in seconds.
HANDOVER_S = 600.0
#: Blocks of the disk for the report of an attempt that fills it, in bytes; fewer than what counts as full.
_RESERVE = 32 * 1024
#: Files of init/, in their order: the program of process 1 is one file, since a shell reads it from there once.
INIT = (
    "begin",
    "telling",
    "naps",
    "meter",
    "processes",
    "orders",
    "children",
    "preparing",
    "programs",
    "steps",
    "leftovers",
    "resource",
    "main",
)


#: What every job has in its volume, also where nothing of ours runs beside its command.
FOLDERS = (folder(".", 0o777), *(folder(path, 0o777) for path in ("report", "output", "work", "tmp")))
#: The program of process 1, below the job's folder.
PROGRAM = "init"


@cache
def init() -> bytes:
    """The program of process 1."""
    folder = Path(__file__).with_name("init")
    return b"\n".join((folder / f"{name}.sh").read_bytes() for name in INIT)


@cache
def program() -> str:
    """The same without what is for people."""
    lines = (line.strip() for line in init().decode().splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))


def members(plan: Plan, steps: Sequence[Step], *, nothing: str = "") -> list[Member]:
    """All files of the job's volume. `nothing`: why there is nothing to do, as a sentence.

    StagingError for a path that leads out of the working directory.
    """
    found = [*FOLDERS, folder("steps", 0o755)]
    found += [
        Member("reserve", bytes(_RESERVE), 0o666),
        Member(PROGRAM, init(), 0o755),
        Member("conf", _conf(plan, len(steps), nothing), 0o644),
    ]
    if any(step.kind == "main" for step in steps):
        found += [Member("call_main.py", Path(call_main.__file__).read_bytes(), 0o644), folder("no_dataset", 0o777)]
    if plan.environment is not None:
        steps = [replace(step, python=f"{ENVIRONMENT}/bin/python") for step in steps]
    for number, step in enumerate(steps):
        found += _step(f"steps/{number}", step)
    return found


def _conf(plan: Plan, steps: int, nothing: str) -> bytes:
    limits = plan.limits
    values: Mapping[str, object] = {
        "JD_ID": plan.job_id,
        "JD_STEPS": steps,
        "JD_GRACE": _hundredths(limits.grace_s),
        "JD_SIGNAL": limits.signal.upper().removeprefix("SIG"),
        "JD_TIMEOUT": _hundredths(limits.timeout_s),
        "JD_LIFE": _hundredths(limits.life_span_s),
        "JD_DELAY": _hundredths(plan.delay_s or None),
        "JD_HANDOVER": _hundredths(limits.setup_timeout_s or HANDOVER_S) if plan.secret_env else "",
        "JD_HELD": "1" if slots.is_held(plan.to_wire()) else "",
        "JD_SETUP": _hundredths(limits.setup_timeout_s),
        "JD_SCHEDULE": _hundredths(limits.schedule_timeout_s),
        "JD_LEASE": _hundredths(plan.orphan_after_s),
        "JD_LEFTOVERS": plan.leftovers,
        "JD_CAP": limits.log_limit_bytes or "",
        "JD_BUILD": plan.build,
        "JD_NOCOPY": "" if not plan.resource_id or plan.resource is not None else "1",
        "JD_WORK": workdir(plan),
        "JD_NOTHING": nothing,
    }
    return _bytes("".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()))


def workdir(plan: Plan) -> str:
    """Where the steps run, inside the container."""
    if plan.workdir:
        return plan.workdir
    return f"{names.RESOURCE_DIR}/work" if plan.resource_id else names.WORK


def _hundredths(seconds: float | None) -> object:
    return "" if seconds is None else max(0, round(seconds * 100))


def _step(place: str, step: Step) -> Iterable[Member]:
    yield folder(place, 0o755)
    yield Member(f"{place}/name", _bytes(step.name + "\n"), 0o644)
    yield Member(f"{place}/run", _bytes(_calls(step)), 0o644)
    ok = [*step.ok_codes, *(128 + number for number in step.ok_signals)]
    yield Member(f"{place}/ok", _bytes(" ".join(str(code) for code in ok) + "\n"), 0o644)
    if step.timeout_s is not None:
        yield Member(f"{place}/timeout", _bytes(f"{_hundredths(step.timeout_s)}\n"), 0o644)
    if step.kind in _CONTENTS:
        yield Member(f"{place}/content", _bytes(step.content), 0o644)


def _calls(step: Step) -> str:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in step.env.items()]
    call = " ".join(shlex.quote(word) for word in _call(step))
    if step.kind == "argv" and not step.args:
        call += ' "$@"'  # the image's own command
    return "\n".join([*exports, call, ""])


def _call(step: Step) -> list[str]:
    if step.kind == "shell":
        return ["step_shell"]
    if step.kind == "argv":
        return ["step_argv", *step.args]
    if step.kind == "entry":
        return ["step_entry", step.python, _inside(step), *step.args]
    if step.kind == "main":
        return ["step_main", step.python, *step.args]
    if step.kind in ("script", "file"):
        return [f"step_{step.kind}", _inside(step)]
    raise StagingError(f"step {step.name!r} has kind {step.kind!r}, which docker workers do not know")


def _inside(step: Step) -> str:
    parts = [part for part in step.path.split("/") if part not in ("", ".")]
    if step.path.startswith("/") or ".." in parts or not parts or "\0" in step.path:
        raise StagingError(f"{step.path!r} (step {step.name!r}) leads out of the working directory")
    return "/".join(parts)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
