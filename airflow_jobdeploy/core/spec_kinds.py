"""The kinds of values that only job specs have: GPUs, signals, paths inside the project."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from airflow_jobdeploy.core.fields import declared, read_record, record_schema
from airflow_jobdeploy.core.kinds import Number, Problems, Schema, Size, Text, expected
from airflow_jobdeploy.core.source import Item, described, suggestion


@dataclass(frozen=True, kw_only=True)
class GpuType:
    """So many GPUs of one type."""

    type: str = declared(Text(), "The GPU's type, such as A100.", "", required=True)
    count: int = declared(Number(whole=True, minimum=0), "How many.", 1)
    memory_bytes: int | None = declared(Size(1 << 30), "The least memory of each; a number is GB.")


@dataclass(frozen=True)
class Gpus:
    """A list of {type, count}; `name` is an older spelling of `type`. Entries with count 0 ask for nothing."""

    def read(self, item: Item, problems: Problems) -> tuple[GpuType, ...] | None:
        if not isinstance(item.value, list):
            expected(item, "a list of {type, count}", problems)
            return None
        before = len(problems)
        found = [self._one(element, problems) for element in item.elements()]
        names = [gpu.type for gpu in found]
        for index, element in enumerate(item.elements()):
            if names[index] and names[index] in names[:index]:
                problems.append(element.problem(f"the GPU type {names[index]!r} is given twice.", "Add the counts."))
        return tuple(gpu for gpu in found if gpu.count) if len(problems) == before else None

    @staticmethod
    def _one(item: Item, problems: Problems) -> GpuType:
        if isinstance(item.value, dict) and "name" in item.value and "type" not in item.value:
            renamed = {("type" if key == "name" else key): value for key, value in item.value.items()}
            item = item.holding(renamed)
        return GpuType(**read_record(GpuType, item, problems, what="a GPU"))

    def schema(self) -> Schema:
        one = record_schema(GpuType)
        one["properties"]["name"] = {"type": "string", "deprecated": True, "description": "Older spelling of type."}
        del one["required"]
        one["anyOf"] = [{"required": ["type"]}, {"required": ["name"]}]
        return {"type": "array", "items": one}


GPUS = Gpus()


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
