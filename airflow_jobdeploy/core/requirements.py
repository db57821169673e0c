"""What a job's Python environment is made of: `requirements` -> lines that any worker can install from.

A list of lines, or the name of a requirements file of the project. The lines are those of pip's requirements files
(https://pip.pypa.io/en/stable/reference/requirements-file-format/), less what means something on one machine only:

    numpy==2.1.0 ; python_version < "3.13"     specifiers, extras, markers
    pkg @ https://host/pkg.whl                 URLs, also git+https://
    numpy==2.1.0 --hash=sha256:...             hashes
    -r more.txt, -c pins.txt                   files of the project: what they hold takes their place
    --index-url, --extra-index-url, --find-links, --no-index, --trusted-host, --no-binary, --only-binary, --pre,
    --prefer-binary, --require-hashes          kept

Comments, blank lines and blanks are left out, continued lines are joined: what does not matter makes no other
environment. Files are read through a function, so that they may come from a folder, a commit or an archive.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from airflow_jobdeploy.core.kinds import CONTROL, Many, Problems, Schema, Text, expected
from airflow_jobdeploy.core.plan import Environment
from airflow_jobdeploy.core.source import Item, in_order, shortened
from airflow_jobdeploy.errors import Problem, SpecError, nearest

#: The file that a project in DDL's form has for its packages, without being asked.
UNASKED = "requirements.txt"
#: The most lines of one environment.
MOST_LINES = 5000

#: Text of a file of the project by its relative path; None: there is no such file.
Read = Callable[[str], str | None]

_SHORT = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-i": "--index-url", "-f": "--find-links"}
_INCLUDES = ("--requirement", "--constraint")
_WITH_VALUE = ("--index-url", "--extra-index-url", "--find-links", "--trusted-host", "--no-binary", "--only-binary")
_FLAGS = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")
_OPTION = re.compile(r"(--[a-z-]+|-[a-z])(?:\s*=\s*|\s+|$)?(.*)", re.DOTALL)
_COMMENT = re.compile(r"(^|\s+)#.*$")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:")
_LOCAL = re.compile(r"[./~]|.*[/\\]|.*\.(whl|zip|tar\.gz|tgz|tar\.bz2)$")
#: `://user:password@`, and tokens in the place of a user; `${NAME}` is fine.
_PASSWORD = re.compile(r"://([^/@\s:]*:(?!\$\{)[^/@\s]+|(?!\$\{)[^/@\s:]{20,})@")
_HASH = re.compile(r"[a-z0-9]+:[0-9a-f]{16,128}")

_PROJECT = "The project is the job's working directory; leave the line out. For a src/ layout set PYTHONPATH in `env`."
_WHEELS = "Give it an index, or list the worker's folder of wheels: --find-links /an/absolute/path."


@dataclass(frozen=True)
class Requirements:
    """A list of lines, read as a tuple; or the path of a file in the project, read as text."""

    def read(self, item: Item, problems: Problems) -> tuple[str, ...] | str | None:
        if isinstance(item.value, str):
            return _file_name(item, problems)
        if not isinstance(item.value, list):
            expected(item, "a list of packages, or the path of a requirements file in the project", problems)
            return None
        lines = Many(Text(lines=True)).read(item, problems)
        if lines is None:
            return None
        before = len(problems)
        for element in item.elements():
            _Reader(None, problems).line(str(element.value), element.where, element.path)
        return lines if len(problems) == before else None

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "array", "items": Text(lines=True).schema()}, {"type": "string", "minLength": 1}]}


def _file_name(item: Item, problems: Problems) -> str | None:
    name = posixpath.normpath(item.value) if item.value.strip() else ""
    if CONTROL.search(item.value):
        problems.append(item.problem("holds several lines, or a control character.", "Write a list, a line each."))
    elif not name or name == ".":
        problems.append(item.problem("must not be empty.", "Leave it out, or write [] for no packages."))
    elif name.startswith(("/", "../")) or name == "..":
        problems.append(item.problem(f"{shortened(repr(item.value))} leads out of the project.", "Put the file in it."))
    else:
        return name
    return None


def environment_of(
    wanted: Sequence[str] | str | None, read: Read | None, *, where: str, python: str = "", unasked: bool = False
) -> Environment | None:
    """The environment of the Python `python` that `wanted`, a spec's `requirements`, asks for; None: it asks for none.

    `read`: the project's files, None without a project. `where`: file:line of `wanted`. `unasked`: take the project's
    requirements.txt where the spec says nothing (DDL's rule; `requirements: []` turns that off). Raises SpecError with
    all problems of all files.
    """
    if wanted is None and unasked and read is not None and read(UNASKED) is not None:
        wanted = UNASKED
    if not wanted:
        return None
    problems: Problems = []
    reader = _Reader(read or (lambda path: None), problems, has_project=read is not None)
    if isinstance(wanted, str):
        reader.include(wanted, where, "requirements")
    else:
        for number, line in enumerate(wanted):
            reader.line(line, where, f"requirements[{number}]")
    if problems:
        raise SpecError(in_order(problems))
    if not any(not line.startswith("-") for line in reader.requirements):
        return None
    return Environment(requirements=tuple(reader.requirements), constraints=tuple(reader.constraints), python=python)


@dataclass
class _Reader:
    """Collects lines, following includes. `read` None: they are not followed."""

    read: Read | None
    problems: Problems
    has_project: bool = True
    requirements: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    #: The files that are being read, the outermost first; whether each is one of constraints.
    chain: tuple[str, ...] = ()
    in_constraints: bool = False

    def include(self, path: str, where: str, place: str = "") -> None:
        """Take the lines of a file of the project."""
        assert self.read is not None
        if path in self.chain:
            self._problem(where, place, f"{path} includes itself: {' -> '.join([*self.chain, path])}.")
            return
        text = self.read(path)
        if text is None:
            self._problem(where, place, *self._missing(path))
            return
        outer, self.chain = self.chain, (*self.chain, path)
        for number, line in logical_lines(text):
            self.line(line, f"{path}:{number}")
        self.chain = outer

    def _missing(self, path: str) -> tuple[str, str]:
        package = f"A package is written as a list: [{path}]." if "/" not in path and "." not in path else ""
        if not self.has_project:
            return f"{path!r} is to be a file of the project, and there is none.", package or "Give project_dir."
        return f"the project has no file {path!r} that could be read as text.", package

    def line(self, text: str, where: str, place: str = "") -> None:
        """Take one line."""
        line = " ".join(_COMMENT.sub("", text).split())
        if CONTROL.search(text.replace("\t", " ")):
            self._problem(where, place, "holds a line break or a control character.", "Write one package a line.")
        elif _PASSWORD.search(line):
            hint = "Write ${NAME} in its place, and set NAME in `secret_env`."
            self._problem(where, place, "a password must not be written here.", hint)
        elif line.startswith("-"):
            self._option(line, where, place)
        elif line:
            fault, hint = _requirement_fault(line)
            if fault:
                self._problem(where, place, fault, hint)
            else:
                self._keep(line, where, place)

    def _option(self, line: str, where: str, place: str) -> None:
        match = _OPTION.fullmatch(line)
        name = _SHORT.get(match[1], match[1]) if match else line.split()[0]
        value = match[2].strip() if match else ""
        fault, hint = _option_fault(name, value)
        if fault:
            self._problem(where, place, fault, hint)
        elif name in _INCLUDES:
            self._follow(name, value, where, place)
        else:
            self._keep(f"{name} {value}".strip(), where, place)

    def _follow(self, name: str, value: str, where: str, place: str) -> None:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.chain[-1]) if self.chain else "", value))
        if path.startswith(("/", "../")) or path in (".", "..") or _URL.match(value):
            hint = "Put the file into the project, and name it from there."
            self._problem(where, place, f"{name} {shortened(value)} is no file of the project.", hint)
        elif self.read is not None:
            outer, self.in_constraints = self.in_constraints, self.in_constraints or name == "--constraint"
            self.include(path, where, place)
            self.in_constraints = outer

    def _keep(self, line: str, where: str, place: str) -> None:
        # Where to look for packages is said once for all: installers read it in requirements only.
        kept = self.constraints if self.in_constraints and not line.startswith("-") else self.requirements
        if len(self.requirements) + len(self.constraints) == MOST_LINES:
            self._problem(where, place, f"more than {MOST_LINES} lines.", "Does a file include another many times?")
        if len(kept) < MOST_LINES and line not in kept:
            kept.append(line)

    def _problem(self, where: str, place: str, message: str, hint: str = "") -> None:
        if len(self.problems) < 100:
            self.problems.append(Problem(where, place, message, hint))


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""(number of its first line, line) with those joined that end in "\\", as pip does; comments never continue."""
    begun = 0
    parts: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        begun = begun if parts else number
        if line.endswith("\\") and not _COMMENT.match(line):
            parts.append(line[:-1])
            continue
        # A comment line ends what is continued, and is none of it.
        yield begun, "".join([*parts, " " + line if parts and _COMMENT.match(line) else line])
        parts = []
    if parts:
        yield begun, "".join(parts)


def _option_fault(name: str, value: str) -> tuple[str, str]:
    """(what is wrong with an option, what to do), or two empty texts."""
    known = (*_INCLUDES, *_WITH_VALUE, *_FLAGS)
    if name == "--editable":
        return f"-e {shortened(value)}: an environment is shared by jobs, so nothing in it can be edited.", _PROJECT
    if name not in known:
        hint = nearest(name, known).strip() or f"These are known: {', '.join(known)}."
        return f"the option {shortened(name)} cannot be used here.", hint
    if name in _FLAGS:
        return (f"{name} takes no value.", "") if value else ("", "")
    if not value or re.search(r"[\s'\"\\\\]", value):
        return (
            f"{name} needs one value without blanks and quotes, found {shortened(repr(value))}.",
            "Write an option a line.",
        )
    if name == "--find-links" and not _URL.match(value) and not value.startswith("/"):
        hint = "Give a URL, or the absolute path of a folder on the worker."
        return f"--find-links {shortened(value)}: nobody can tell where that is on a worker.", hint
    return "", ""


def _requirement_fault(line: str) -> tuple[str, str]:
    from packaging.requirements import InvalidRequirement, Requirement

    head, *options = re.split(r"\s(?=--)", line)
    for option in options:
        name, _, value = option.replace("=", " ", 1).partition(" ")
        if name != "--hash":
            return f"the option {shortened(name)} of a requirement cannot be used here.", "Only --hash can."
        if not _HASH.fullmatch(value.strip()):
            return f"{shortened(option)} is no hash.", "Write --hash=sha256:<64 hexadecimal digits>."
    if _URL.match(head):
        return _url_fault(head)
    name = re.split(r"[;\[]", head)[0].strip()
    if "@" not in name and _LOCAL.match(name):
        return f"{shortened(head)} is a path on this machine.", _PROJECT if name.rstrip("/") in (".", "..") else _WHEELS
    try:
        found = Requirement(head)
    except InvalidRequirement as error:
        why = str(error).splitlines()[0]
        return f"{shortened(repr(head))} is no requirement: {why}.", "Write name==version, say."
    return _url_fault(found.url) if found.url else ("", "")


def _url_fault(url: str) -> tuple[str, str]:
    if re.match(r"(\w+\+)?file:", url, re.IGNORECASE):
        return f"{shortened(url)} is a path on one machine.", _WHEELS
    return "", ""
