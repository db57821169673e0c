"""Builds of a template: their types, names, whitelists, and the order of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.fields import declared, read_record
from airflow_jobdeploy.core.kinds import CONTROL, Anything, Problems, Schema, Text, as_number, expected
from airflow_jobdeploy.core.source import Item, described, shortened, suggestion
from airflow_jobdeploy.core.spec_kinds import path_fault, signal_number

TYPES = ("script", "file", "sequence", "job")
#: Builds that every template has.
NEEDED = ("up", "down")
#: Most builds that one sequence runs, those of sequences in it included.
MAX_STEPS = 5_000


@dataclass(frozen=True, kw_only=True)
class Whitelist:
    """How a script may end beside exit code 0, and still count as done."""

    exit_codes: tuple[int, ...] = ()
    signals: tuple[int, ...] = ()

    def allows(self, *, exit_code: int | None = None, signal: int | None = None) -> bool:
        """Whether this end counts as done."""
        return exit_code == 0 or exit_code in self.exit_codes or signal in self.signals


@dataclass(frozen=True)
class Endings:
    """The `whitelist`: 0..255 are exit codes, multiples of 256 the wait statuses of AI Job Deploy (256 is exit code
    1), names are signals (SIGKILL). One entry or a list."""

    def read(self, item: Item, problems: Problems) -> Whitelist | None:
        entries = list(item.elements()) if isinstance(item.value, list) else [item]
        before = len(problems)
        codes, signals = set(), set()
        for entry in entries:
            number = as_number(entry.value, whole=True)
            if isinstance(entry.value, str) and number is None:
                signals.add(_signal(entry, problems))
            elif number is None:
                expected(entry, "an exit code or a signal's name", problems)
            else:
                codes.add(_exit_code(entry, int(number), problems))
        if len(problems) > before:
            return None
        return Whitelist(exit_codes=tuple(sorted(codes)), signals=tuple(sorted(signals)))

    def schema(self) -> Schema:
        one = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65280}, {"type": "string"}]}
        return {"anyOf": [one, {"type": "array", "items": one}]}


def _exit_code(item: Item, number: int, problems: Problems) -> int:
    if 0 <= number <= 255:
        return number
    if number % 256 == 0 and 0 < number <= 65280:
        return number // 256
    hint = "Exit codes are 0 to 255; 256, 512, ... 65280 are wait statuses of exit codes 1, 2, ... 255."
    problems.append(item.problem(f"{number} is neither an exit code nor the wait status of one.", hint))
    return 0


def _signal(item: Item, problems: Problems) -> int:
    number = signal_number(item.value)
    if number is None:
        problems.append(
            item.problem(f"{described(item.value)} is no signal.", "Signals are named SIGKILL, SIGTERM, ...")
        )
    return number or 0


@dataclass(frozen=True, kw_only=True)
class Build:
    """One named step of a template, not rendered yet."""

    name: str = ""
    type: str = declared(Text(TYPES), "script, file, sequence or job.", "", required=True)
    content: Any = declared(Anything(), "Text, the names of builds, or a job spec.", None, required=True)  # noqa: RUF009
    whitelist: Whitelist = declared(Endings(), "Ends that count as done.", Whitelist())  # noqa: RUF009
    item: Item

    @property
    def where(self) -> str:
        """ "file:line" of the build."""
        return self.item.where

    @property
    def content_item(self) -> Item:
        """The content with its place."""
        return self.item.child("content")

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for the digest."""
        whitelist = {"exit_codes": list(self.whitelist.exit_codes), "signals": list(self.whitelist.signals)}
        return {"type": self.type, "content": self.content, "whitelist": whitelist}


def read_builds(item: Item, problems: Problems) -> dict[str, Build]:
    """The `builds` section."""
    if not isinstance(item.value, dict):
        expected(item, "a mapping of builds", problems)
        return {}
    found = {name: read_build(name, child, problems) for name, child in item.fields()}
    return {name: build for name, build in found.items() if build is not None}


def read_build(name: str, item: Item, problems: Problems) -> Build | None:
    """One build; None when it is too wrong to be looked at further."""
    before = len(problems)
    attributes = read_record(Build, item, problems, what="a build")
    if len(problems) > before:
        return None
    build = Build(name=name, **attributes, item=item)
    _check_content(build, problems)
    fault = _name_fault(build)
    if fault:
        hint = "Its name is a path below .jd/<subdir>/tasks."
        problems.append(item.problem(f"the name {shortened(repr(name))} {fault}.", hint))
    if "whitelist" in item.value and build.type not in ("script", "job"):
        problems.append(item.child("whitelist").problem(f"a {build.type} has no exit code.", "Give it to the script."))
    return build if len(problems) == before else None


def _name_fault(build: Build) -> str:
    if not build.name.strip() or CONTROL.search(build.name):
        return "is empty, or holds a control character"
    return path_fault(build.name) if build.type in ("script", "file") else ""


def _check_content(build: Build, problems: Problems) -> None:
    content = build.content_item
    if build.type == "sequence":
        if not isinstance(content.value, list):
            expected(content, "a list of builds", problems)
        for element in content.elements():
            if not isinstance(element.value, str):
                expected(element, "a build's name", problems, f"Quote it: '{shortened(element.text)}'.")
    elif build.type == "job":
        if not isinstance(content.value, dict):
            expected(content, "a mapping (a job spec)", problems)
    elif not isinstance(content.value, str):
        expected(content, "text", problems, "Write `content: |` and the text below it, indented.")
    elif "\0" in content.value:
        problems.append(content.problem("holds a NUL character."))


def check_builds(builds: Mapping[str, Build], root: Item, broken: set[str], problems: Problems) -> None:
    """Check builds against each other: needed ones, sequences' names and cycles, files that are folders of others.

    `broken` are builds with problems of their own: they are there, but cannot be followed.
    """
    for name in NEEDED:
        if name not in builds and name not in broken:
            hint = suggestion(name, builds) or "Every template says how to bring its work up, and down again."
            problems.append(root.problem(f"the build {name!r} is missing.", hint))
    for build in builds.values():
        for element in build.content_item.elements() if build.type == "sequence" else ():
            if element.value not in builds and element.value not in broken:
                problems.append(
                    element.problem(f"there is no build {element.value!r}.", suggestion(element.value, builds))
                )
    before = len(problems)
    _check_cycles(builds, problems)
    if len(problems) == before:
        _check_sizes(builds, problems)
    _check_folders(builds, problems)


def _steps(builds: Mapping[str, Build], name: str) -> list[str]:
    build = builds.get(name)
    return [step for step in build.content if step in builds] if build and build.type == "sequence" else []


def _check_cycles(builds: Mapping[str, Build], problems: Problems) -> None:
    """Report each cycle once, at its first build. Iterative: sequences may be nested as deep as they like."""
    done: set[str] = set()
    for start in builds:
        path: dict[str, None] = {}  # an ordered set
        stack: list[tuple[str, bool]] = [(start, True)]
        while stack:
            name, entering = stack.pop()
            if not entering:
                path.popitem()
                done.add(name)
            elif name in path:
                cycle = " -> ".join([*list(path)[list(path).index(name) :], name])
                problems.append(builds[name].item.problem(f"the sequence runs itself: {shortened(cycle, 200)}."))
            elif name not in done:
                path[name] = None
                stack.append((name, False))
                stack.extend((step, True) for step in reversed(_steps(builds, name)))


def _check_folders(builds: Mapping[str, Build], problems: Problems) -> None:
    """`conf` and `conf/app.json` cannot both be files."""
    files = {name: build for name, build in builds.items() if build.type in ("script", "file")}
    for name, build in files.items():
        parts = name.split("/")
        for length in range(1, len(parts)):
            folder = "/".join(parts[:length])
            if folder in files:
                problems.append(
                    build.item.problem(f"{folder!r} is a file already, at {files[folder].where}.", "Rename one.")
                )


def _check_sizes(builds: Mapping[str, Build], problems: Problems) -> None:
    """Sequences of sequences may double at each level: count before anything is written out. Needs no cycles."""
    counts: dict[str, int] = {}
    stack = [name for name, build in builds.items() if build.type == "sequence"]
    while stack:
        name = stack.pop()
        if name in counts:
            continue
        missing = dict.fromkeys(step for step in _steps(builds, name) if step not in counts)
        if missing:
            stack.extend((name, *missing))
        else:
            counts[name] = 1 + sum(counts[step] for step in _steps(builds, name))
            if counts[name] > MAX_STEPS:
                problems.append(builds[name].item.problem(f"the sequence runs more than {MAX_STEPS} builds."))
                counts[name] = 1  # reported once


def flattened(builds: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The names of the builds that `name` runs, in order, sequences followed.

    `builds` are Builds or rendered ones of a template that has been checked.
    """
    steps: list[str] = []
    stack = [name]
    while stack:
        build = builds[stack.pop()]
        if build.type == "sequence":
            stack.extend(reversed(build.content))
        else:
            steps.append(build.name)
    return tuple(steps)
