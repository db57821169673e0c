"""What an attempt leaves for others: its result and the files of its output, as its report tells. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from airflow_jobdeploy.backends.engine.seen import Seen
from airflow_jobdeploy.hostside.finish import RESULT_LIMIT


def result(seen: Seen) -> tuple[Any, str]:
    """The value of its result file, and why it has none; "": there is no such file, or it is well."""
    data = (seen.report or {}).get("result.json")
    if data is None:
        return None, ""
    if len(data) > RESULT_LIMIT:
        return None, f"the result file holds more than {RESULT_LIMIT} bytes: write large results to the output"
    try:
        return json.loads(data.decode(), parse_constant=_refuse), ""
    except (ValueError, RecursionError) as error:
        return None, f"the result file is not JSON: {error}"


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def artifacts(seen: Seen) -> dict[str, int]:
    """How many files of output it has left, and how many bytes they hold."""
    listed = listed_files(seen.report or {})
    if listed is None:
        return dict(seen.facts.get("artifacts") or {})
    more = bool(seen.facts.get("metrics")) and not any(path == "metrics.csv" for path, *_ in listed)
    return {"files": len(listed) + more, "bytes": sum(size for _, size, _, _ in listed)}


def listed_files(report: Mapping[str, bytes]) -> Sequence[tuple[str, int, str, int]] | None:
    """(path, size, sha256, mode) of the output's files, in the order of the engine's archives.

    None where the image could not tell.
    """
    if "names" not in report:
        return None
    return _listed(report["names"], report.get("sums", b""), report.get("sizes", b""))


@lru_cache(2)
def _listed(names: bytes, sums: bytes, sizes: bytes) -> Sequence[tuple[str, int, str, int]] | None:
    """Asked for several times while one job's output is fetched: thousands of lines take milliseconds."""
    paths = [name for name in names.split(b"\0") if name]
    digests, stats = sums.split(b"\n")[:-1], sizes.split(b"\n")[:-1]
    if not len(paths) == len(digests) == len(stats):
        return None
    found = []
    for name, digest, stat in zip(paths, digests, stats, strict=True):
        length, _, mode = stat.partition(b" ")
        path = name.removeprefix(b"./").decode("utf-8", "surrogateescape")
        found.append((path, int(length), digest.lstrip(b"\\")[:64].decode("ascii", "replace"), int(mode or b"0", 8)))
    return tuple(sorted(found, key=lambda file: file[0].split("/")))
