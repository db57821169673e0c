"""Finding and reading the files that people write: templates, job specs, worker pools."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.source import Document, Item, described, from_mapping, shortened, suggestion
from airflow_jobdeploy.core.yaml_text import parse_yaml
from airflow_jobdeploy.errors import Problem

#: Larger files are not templates, specs or pools, but data given by mistake.
MAX_BYTES = 1 << 20


def read_source(
    source: str | os.PathLike[str] | Mapping[str, Any],
    problems: list[Problem],
    *,
    label: str,
    base: Path | None = None,
    search_path: Sequence[Path] = (),
) -> Item | None:
    """Read a file or take a mapping; the result is the root Item, which holds a mapping.

    `label` names a mapping in problems ("<template>"). A relative path is looked for in `base`, then in each
    folder of `search_path`, then in the current directory. Appends to `problems`; None when there is nothing to go on
    with (what can be read past, such as a key given twice, is reported and read past).
    """
    if isinstance(source, Mapping):
        document = from_mapping(source, label, problems)
    else:
        document = _from_file(os.fspath(source), label, problems, base=base, search_path=search_path)
    if document is None:
        return None
    item = Item(document.value, document)
    if isinstance(item.value, dict):
        return item
    problems.append(item.problem(f"expected a mapping, found {described(item.value)}."))
    return None


def _from_file(
    name: str, label: str, problems: list[Problem], *, base: Path | None, search_path: Sequence[Path]
) -> Document | None:
    if "\n" in name or "\0" in name:
        hint = "Give the path of a file, or the mapping itself."
        problems.append(Problem(label, "", f"{shortened(repr(name))} is not a path.", hint))
        return None
    path, tried = find_file(name, base=base, search_path=search_path)
    if path is None:
        looked = "".join(f"\n    {place}" for place in tried)
        hint = f"{nearest_path(name, tried, ('.yaml', '.yml'))} Looked for:{looked}"
        problems.append(Problem(label, "", f"there is no file {shortened(name, 200)!r}.", hint))
        return None
    data = _read_bytes(path, problems)
    return None if data is None else parse_yaml(data, str(path), problems, path=path)


def nearest_path(name: str, tried: Sequence[Path], endings: Sequence[str] = ()) -> str:
    """ " Did you mean ...?" with the nearest name in the folders that were looked in, spelled as `name` is.

    `endings`: of the names that may be meant; none: all.
    """
    names: list[str] = []
    for folder in dict.fromkeys(path.parent for path in tried):
        try:
            names += [path.name for path in islice(folder.iterdir(), 200) if not endings or path.suffix in endings]
        except OSError:
            continue  # that the folder is not there is what the list of places says
    meant = suggestion(tried[0].name, names)
    found = next((found for found in names if repr(found) in meant), "")
    return meant.replace(repr(found), repr(str(Path(name).with_name(found)))) if found else meant


def find_file(name: str, *, base: Path | None, search_path: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """The first existing file of that name, and the places that were tried. `.yaml` may be left out."""
    given = Path(name).expanduser() if name.startswith("~/") else Path(name)
    folders = [Path()] if given.is_absolute() else [*([base] if base else []), *search_path, Path()]
    endings = ("",) if given.suffix in (".yaml", ".yml", ".json") else ("", ".yaml")
    tried = [Path(os.path.normpath(folder / f"{given}{ending}")) for folder in folders for ending in endings]
    tried = list(dict.fromkeys(tried))
    return next((path for path in tried if os.path.lexists(path) and not path.is_dir()), None), tried


def _read_bytes(path: Path, problems: list[Problem]) -> bytes | None:
    """The file's bytes; None, with a problem, when it cannot be read. Never blocks on a pipe or device."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problems.append(Problem(str(path), "", "this is not a regular file."))
            return None
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(Problem(str(path), "", f"cannot be read: {error.strerror or error}."))
        return None
    if len(data) > MAX_BYTES:
        problems.append(Problem(str(path), "", f"is larger than {MAX_BYTES >> 10} KiB.", "Is this the right file?"))
        return None
    return data


def shown(path: Path) -> str:
    """A path as a person in the current directory would write it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
