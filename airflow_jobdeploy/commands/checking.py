"""`validate` and `render`: what is in a file, before anything runs. Neither needs a metadata database."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.screen import complain, harmless, painted, print_data, with_word, wrapped
from airflow_jobdeploy.commands.sources import (
    POOL,
    SPEC,
    TEMPLATE,
    check_one_place,
    folders,
    given_overrides,
    given_params,
    recognised,
)
from airflow_jobdeploy.commands.values import UsageError
from airflow_jobdeploy.core.containers import container_problems
from airflow_jobdeploy.core.demand import demand_problems
from airflow_jobdeploy.core.pool import WorkerPool, load_pool
from airflow_jobdeploy.core.render import RenderedBuild, RenderedTemplate
from airflow_jobdeploy.core.source import in_order
from airflow_jobdeploy.core.spec import JobSpec, load_spec
from airflow_jobdeploy.core.support import image_notes, on_host, storage_notes, unmountable, unsupported
from airflow_jobdeploy.core.template import Template, load_template
from airflow_jobdeploy.errors import InputError, JobDeployError, Problem, SpecError, TemplateError, nearest
from airflow_jobdeploy.hooks import files

#: Stands for the id that `up` will choose.
_TRIAL = "00000000"


# -- validate -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of checking one file."""

    file: str
    kind: str
    summary: str = ""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        problems = [
            {name: getattr(p, name).strip() for name in ("where", "path", "message", "hint")} for p in self.problems
        ]
        return {
            "file": self.file,
            "kind": self.kind,
            "ok": not self.problems,
            "summary": self.summary,
            "problems": problems,
            "warnings": list(self.warnings),
        }


@command
def validate(args: Namespace) -> int:
    """Check files."""
    checked = [_checked(name, args.worker_pool) for name in args.files]
    if args.output in ("json", "yaml"):
        print_data([one.to_dict() for one in checked], args.output)
    else:
        for one in checked:
            _tell(one)
    return PROBLEM if any(one.problems for one in checked) else 0


def _tell(one: Checked) -> None:
    word = "wrong" if one.problems else "ok"
    count = f"{len(one.problems)} problem{'s' * (len(one.problems) != 1)}" if one.problems else one.summary
    print(f"{with_word(word, sys.stdout)}{' ' * (7 - len(word))}{one.file}: {one.kind}{', ' * bool(count)}{count}")
    for problem in one.problems:
        for line in wrapped(harmless(str(problem)), sys.stdout, taken=7):
            print(" " * 7 + line)
    for warning in one.warnings:
        complain(warning, "warning")


def _checked(name: str, pool_name: str | None) -> Checked:
    kind = "file"
    try:
        path, kind = recognised(name)
        summary, warnings = _CHECKS[kind](path, pool_name)
    except InputError as error:
        return Checked(file=name, kind=kind, problems=error.problems)
    return Checked(file=name, kind=kind, summary=summary, warnings=warnings)


def _pool(name: str | None, default: str | None = None) -> tuple[WorkerPool, tuple[str, ...]]:
    """The pool to check against, and a warning when the file's own pool is not known here."""
    from airflow_jobdeploy.commands.lookup import pool_named

    if name:
        return pool_named(name), ()
    try:
        return pool_named(default or "local"), ()
    except JobDeployError:
        return WorkerPool.local(), (f"The worker pool {default!r} is not known here: checked for pool 'local'.",)


def _check_template(path: Path, pool_name: str | None) -> tuple[str, tuple[str, ...]]:
    template = load_template(path, base=Path(), search_path=folders())
    pool, _ = _pool(pool_name)
    asked = template.asked
    missing = [name for name, spec in asked.items() if spec.required and name != "project"]
    warnings: tuple[str, ...] = ()
    if not missing:  # everything can be rendered, so everything can be checked
        warnings = service.prepare_up(template, {}, pool=pool, resolve_secret=_refuse, commit=_TRIAL).warnings
    needs = f", of which {', '.join(missing)} must be given" if missing else ""
    return f"{_count(asked, 'param')}{needs}; {_count(template.builds, 'build')}", warnings


def _refuse(reference: str) -> str:
    raise JobDeployError(f"{reference} is not looked up while a file is checked")


def _count(things: Any, noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _check_spec(path: Path, pool_name: str | None) -> tuple[str, tuple[str, ...]]:
    spec = load_spec(path, base=Path(), search_path=folders())
    pool, warnings = _pool(pool_name, spec.worker_pool)
    notes = (*image_notes(spec, pool), *storage_notes(spec, pool), *warnings)
    asked, problems = on_host(spec, pool)
    problems += unsupported(asked, kind=pool.kind) + unmountable(asked, pool)
    problems += container_problems(asked, pool, has_project=bool(spec.project_dir or spec.repo))
    if not warnings:  # else the presets and labels of its pool are not known
        problems += demand_problems(asked, pool)
    if problems:
        raise SpecError(in_order(problems))
    return spec.job_name or "", (*spec.warnings, *notes)


def _check_pool(path: Path, pool_name: str | None) -> tuple[str, tuple[str, ...]]:
    pool = load_pool(path)
    return f"{pool.kind}, {_count(pool.workers, 'worker')}", ()


_CHECKS: Mapping[str, Callable[[Path, str | None], tuple[str, tuple[str, ...]]]] = {
    TEMPLATE: _check_template,
    SPEC: _check_spec,
    POOL: _check_pool,
}


# -- render ---------------------------------------------------------------------------------------------------------


@command
def render(args: Namespace) -> int:
    """Show what would run."""
    check_one_place(args)
    path, kind = recognised(args.file)
    _RENDERERS[kind](args, path)
    return 0


def _render_template(args: Namespace, path: Path) -> None:
    template = load_template(path, base=Path(), search_path=folders())
    rendered = template.render(given_params(args, template), filled=_filled(args, template))
    for warning in rendered.warnings:
        complain(warning, "warning")
    names = [args.build] if args.build else list(rendered.builds)
    if args.build and args.build not in rendered.builds:
        hint = nearest(args.build, rendered.builds) or f"It has {', '.join(rendered.builds)}."
        raise TemplateError([Problem(str(path), "builds", f"the template has no build {args.build!r}.", hint)])
    if args.output in ("json", "yaml"):
        print_data(_as_data(rendered, names), args.output)
        return
    steps = rendered.steps(args.build) if args.build else tuple(rendered.builds.values())
    for index, step in enumerate(steps):
        print("\n" * bool(index), end="")
        _print_build(rendered, step, with_head=len(steps) > 1)


def _filled(args: Namespace, template: Template) -> dict[str, str]:
    """What `up` fills in; the id is chosen then."""
    import getpass

    project = Path(args.project_dir).expanduser().resolve() if args.project_dir else None
    return {
        "id": _TRIAL,
        "project": str(project or args.workdir or template.name),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": files.commit_of(project) or ("" if project else _TRIAL),
        "user": getpass.getuser(),
    }


def _as_data(rendered: RenderedTemplate, names: list[str]) -> dict[str, Any]:
    builds = {name: {"type": rendered.builds[name].type, "content": _content(rendered.builds[name])} for name in names}
    steps = {name: [step.name for step in rendered.steps(name)] for name in names}
    return {
        "params": dict(rendered.params),
        "values": dict(rendered.values),
        "options": rendered.options.to_dict(),
        "secrets": list(rendered.secrets),
        "builds": {name: {**build, "steps": steps[name]} for name, build in builds.items()},
    }


def _content(build: RenderedBuild) -> Any:
    if isinstance(build.content, JobSpec):
        return build.content.to_dict()
    return list(build.content) if isinstance(build.content, tuple) else build.content


def _print_build(rendered: RenderedTemplate, build: RenderedBuild, *, with_head: bool) -> None:
    """A heading (a comment, as the texts are mostly scripts), then the text."""
    content = _content(build)
    if with_head:
        what = f": {', '.join(step.name for step in rendered.steps(build.name))}" if build.type == "sequence" else ""
        print(painted(f"# -- {build.name} ({build.type}{what})", "cyan", sys.stdout))
    if isinstance(content, str):
        print(harmless_text(content))
    elif isinstance(content, dict):
        print_data(content, "yaml")


def harmless_text(text: str) -> str:
    """A script as it is where it goes to a pipe or file; on a terminal nothing that it would obey."""
    text = text.removesuffix("\n")
    return "\n".join(harmless(line.expandtabs()) for line in text.split("\n")) if sys.stdout.isatty() else text


def _render_spec(args: Namespace, path: Path) -> None:
    _refuse_build(args, path)
    spec = load_spec(path, overrides=given_overrides(args) or None, base=Path(), search_path=folders())
    for warning in spec.warnings:
        complain(warning, "warning")
    print_data(spec.to_dict(), "json" if args.output == "json" else "yaml")


def _render_pool(args: Namespace, path: Path) -> None:
    _refuse_build(args, path)
    if args.params:
        raise UsageError(f"{path} is a worker pool: it takes no params")
    print_data(load_pool(path).to_dict(), "json" if args.output == "json" else "yaml")


def _refuse_build(args: Namespace, path: Path) -> None:
    if args.build:
        raise UsageError(f"{path} is no template: it has no builds")


_RENDERERS: Mapping[str, Callable[[Namespace, Path], None]] = {
    TEMPLATE: _render_template,
    SPEC: _render_spec,
    POOL: _render_pool,
}
