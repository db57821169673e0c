"""The kinds of values that only job specs have: signals, interpreters, paths inside the project."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from airflow_jobdeploy.core.kinds import Problems, Schema, Text, expected
from airflow_jobdeploy.core.source import Item, described, suggestion


def signal_number(name: str) -> int | None:
    """9 for SIGKILL, KILL, sigkill; None for what is no signal."""
    upper = name.strip().upper()
    full = upper if upper.startswith("SIG") else f"SIG{upper}"
    known = signal.Signals.__members__.get(full)
    return None if known is None else int(known)


@dataclass(frozen=True)
class SignalName:
    """A signal's name (SIGINT, INT). Read as SIGINT."""

    def read(self, item: Item, problems: Problems) -> str | None:
        number = signal_number(item.value) if isinstance(item.value, str) else None
        if number is None:
            hint = suggestion(item.value.upper(), signal.Signals.__members__) if isinstance(item.value, str) else ""
            expected(item, "a signal's name such as SIGINT", problems, hint)
            return None
        if number in (signal.SIGKILL, signal.SIGSTOP):
            problems.append(
                item.problem(f"{item.value} gives a job no time to end.", "Use `grace: 0` to kill at once.")
            )
        return signal.Signals(number).name

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^([sS][iI][gG])?[A-Za-z0-9]+$"}


SIGNAL = SignalName()


@dataclass(frozen=True)
class Python:
    """An interpreter: a version (3.11, read as python3.11), a program's name or a path."""

    def read(self, item: Item, problems: Problems) -> str | None:
        if isinstance(item.value, (str, int, float)) and not isinstance(item.value, bool):
            text = item.value if isinstance(item.value, str) else item.text
            if re.fullmatch(r"[23](\.\d+)?", text):
                return f"python{text}"
            if re.match(r"\d+(\.\d+)*", text):
                expected(item, "a version such as 3.11, a name or a path", problems, "Give the first two numbers.")
                return None
        return Text(lines=True).read(item, problems)

    def schema(self) -> Schema:
        return {"type": ["string", "number"]}


def path_fault(name: str) -> str:
    """Why `name` is no relative path that stays below its folder; "" when it is one."""
    parts = name.split("/")
    if not name or "\0" in name:
        return "is empty, or holds a NUL character"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leaves its folder by '..'"
    if "" in parts or "." in parts:
        return "has an empty part"
    if any(len(part.encode()) > 255 for part in parts) or len(name.encode()) > 1000:
        return "is too long for a file's name"
    return ""


@dataclass(frozen=True)
class RelativePath:
    """A path inside the project: relative, without `..`. `./` in front is left out."""

    def read(self, item: Item, problems: Problems) -> Any:
        text = Text(lines=True).read(item, problems)
        if text is None:
            return None
        path = str(PurePosixPath(text)) if not text.startswith("/") else text
        fault = path_fault(path)
        if not fault:
            return path
        problems.append(item.problem(f"{described(text)} {fault}.", "Give a path inside the project."))
        return None

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}
