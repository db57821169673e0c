"""DDL's task.yaml as a job spec: a file with `job_data` runs main() of main.py, as DDL did.

    job_data:
      dataset:
        dataset_location: data/        -> dataset_location
      worker_required: 1               -> worker_required
      model_location: project/         -> project_dir       (of its first release)
      requirement_location: r.txt      -> requirements      (of its first release)

All other fields of job specs may stand beside `job_data`. What is not said is as DDL has it: `call_main`, and changes
that are not committed are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_jobdeploy.core.kinds import Problems, expected
from airflow_jobdeploy.core.source import Item, shortened, suggestion

#: The key that makes a file one of DDL's.
KEY = "job_data"
_DATASET = "dataset"
#: Key of `job_data` -> our field.
FIELDS = {
    "worker_required": "worker_required",
    "model_location": "project_dir",
    "requirement_location": "requirements",
}
#: Key of `job_data.dataset` -> our field.
DATASET_FIELDS = {"dataset_location": "dataset_location", "dataset_path": "dataset_location"}
_NO_NAMES = {
    "dataset_name": "There is no list of datasets here: give dataset_location, a folder, file or storage:path."
}
#: Values of DDL's `job_type` -> `framework`.
FRAMEWORKS = {"tensorflow": "tensorflow", "tf": "tensorflow", "pytorch": "pytorch", "pt": "pytorch"}


def is_ddl(layer: Item) -> bool:
    """Is it one of DDL's files?"""
    return KEY in layer.value


def translated(layer: Item, problems: Problems) -> Iterator[tuple[str, Item]]:
    """(our field, item) for each field of a file of DDL's; `job_type` that names a framework becomes `framework`."""
    taken = {name for name in layer.value if name != KEY}
    for name, item in layer.fields():
        if name == KEY:
            yield from _not_twice(_job_data(item, problems), taken, problems)
        elif name == "job_type" and isinstance(item.value, str) and item.value in FRAMEWORKS:
            yield from _not_twice([("framework", item.holding(FRAMEWORKS[item.value]))], taken, problems)
        else:
            yield name, item


def _not_twice(found: Any, taken: set[str], problems: Problems) -> Iterator[tuple[str, Item]]:
    for name, item in found:
        if name in taken:
            problems.append(item.problem(f"{name} is given here and as a field of its own.", "Keep one."))
        else:
            taken.add(name)
            yield name, item


def _job_data(item: Item, problems: Problems) -> Iterator[tuple[str, Item]]:
    for name, child in _fields(item, "job_data", (*FIELDS, _DATASET), problems):
        if name == _DATASET:
            inner = _fields(child, "job_data.dataset", DATASET_FIELDS, problems, _NO_NAMES)
            yield from ((DATASET_FIELDS[key], value) for key, value in inner)
        else:
            yield FIELDS[name], child


def _fields(
    item: Item, what: str, known: Any, problems: Problems, hints: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Item]]:
    """The known fields of a mapping that are not null; the others are problems with the nearest name."""
    if item.value is not None and not isinstance(item.value, dict):
        expected(item, f"a mapping ({what})", problems)
    for name, child in item.fields():
        if name not in known:
            hint = (hints or {}).get(name) or suggestion(name, known) or f"It has {', '.join(known)}."
            problems.append(child.problem(f"{what} has no field {shortened(repr(name))}.", hint))
        elif child.value is not None:
            yield name, child


def defaults(place: Item, given: Mapping[str, Item]) -> dict[str, Item]:
    """What a file of DDL's means by what it does not say. `place`: its `job_data`."""
    said = {name for name, item in given.items() if item.value is not None}
    found: dict[str, Any] = {"dirty": "refuse"}
    if not said & {"call_main", "command", "entry_script"}:
        found["call_main"] = True
    return {name: place.holding(value) for name, value in found.items() if name not in said}
