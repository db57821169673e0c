"""Finding and reading the files that people write: templates, job specs, worker pools."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.source import Document, Item, described, from_mapping, shortened
from airflow_jobdeploy.core.yaml_text import parse_yaml
from airflow_jobdeploy.errors import InputError, Problem

#: Larger files are not templates, specs or pools, but data given by mistake.
MAX_BYTES = 1 << 20


def read_source(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    error: type[InputError],
    label: str,
    base: Path | None = None,
    search_path: Sequence[Path] = (),
) -> Item:
    """Read a file or take a mapping; the result is the root Item, which holds a mapping.

    `label` names a mapping in problems ("<template>"). A relative path is looked for in `base`, then in each
    folder of `search_path`, then in the current directory. Raises `error` with every problem found.
    """
    problems: list[Problem] = []
    if isinstance(source, Mapping):
        document: Document | None = from_mapping(source, label, problems)
    else:
        document = _from_file(os.fspath(source), label, problems, base=base, search_path=search_path)
    if document is not None and not problems and not isinstance(document.value, dict):
        problems.append(
            Item(document.value, document).problem(f"expected a mapping, found {described(document.value)}.")
        )
    if problems or document is None:
        raise error(problems)
    return Item(document.value, document)


def _from_file(
    name: str, label: str, problems: list[Problem], *, base: Path | None, search_path: Sequence[Path]
) -> Document | None:
    if "\n" in name or "\0" in name:
        hint = "Give the path of a file, or the mapping itself."
        problems.append(Problem(label, "", f"{shortened(name)!r} is not a path.", hint))
        return None
    path, tried = find_file(name, base=base, search_path=search_path)
    if path is None:
        looked = "".join(f"\n    {place}" for place in tried)
        problems.append(Problem(label, "", f"there is no file {shortened(name, 200)!r}.", f"Looked for:{looked}"))
        return None
    return parse_yaml(_read_bytes(path, problems), str(path), problems, path=path)


def find_file(name: str, *, base: Path | None, search_path: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """The first existing file of that name, and the places that were tried. `.yaml` may be left out."""
    given = Path(name).expanduser() if name.startswith("~/") else Path(name)
    folders = [Path()] if given.is_absolute() else [*([base] if base else []), *search_path, Path()]
    endings = ("",) if given.suffix in (".yaml", ".yml", ".json") else ("", ".yaml")
    tried = [Path(os.path.normpath(folder / f"{given}{ending}")) for folder in folders for ending in endings]
    return next((path for path in tried if os.path.lexists(path) and not path.is_dir()), None), tried


def _read_bytes(path: Path, problems: list[Problem]) -> bytes:
    """The file's bytes; b"" with a problem when it cannot be read. Never blocks on a pipe or device."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problems.append(Problem(str(path), "", "this is not a regular file."))
            return b""
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(Problem(str(path), "", f"cannot be read: {error.strerror or error}."))
        return b""
    if len(data) > MAX_BYTES:
        problems.append(Problem(str(path), "", f"is larger than {MAX_BYTES >> 10} KiB.", "Is this the right file?"))
        return b""
    return data
