"""`make bench`: run the rows, print the table, write results.json. `make bench ROWS="submit log"` runs some of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import page
from benchmarks.lab import Lab, opened
from benchmarks.rows import ROWS, Measured, result

RESULTS = Path(__file__).with_name("results.json")

Case = Callable[[Lab], Iterator[Measured]]


def _cases() -> dict[str, Case]:
    """Subjects, in the order in which they run: what fills the machine comes last."""
    from benchmarks import artifacts, engines, hostside, imports, leases, logs, placing, staging, submit, turns, watch

    return {
        "submit": submit.raw,
        "dag_test": submit.in_dag_test,
        "serve": hostside.start,
        "serve_gpus": leases.start,
        "memory": hostside.memory,
        "killed": hostside.killed,
        "preempted": hostside.preempted,
        "import": imports.costs,
        "place": placing.place,
        "turns": turns.turns,
        "lost": turns.lost,
        "fleet": turns.fleet,
        "artifacts": artifacts.down,
        "code": staging.code,
        "data": staging.data,
        "environments": staging.environments,
        "engine": engines.submit,
        "engine_artifacts": engines.down,
        "engine_log": engines.flood,
        "engine_watch": engines.quiet,
        "log": logs.flood,
        "watch": watch.quiet,
    }


def main(wanted: list[str]) -> int:
    """0 when all was measured, whether it meets its goal or not; 2 for a name that is none."""
    with opened() as lab, _quiet(lab.dir / "stdout"):
        cases = _cases()
        unknown = sorted(set(wanted) - set(cases))
        if unknown:
            print(f"no such rows: {', '.join(unknown)}; there are: {', '.join(cases)}", file=sys.stderr)
            return 2
        for name in wanted or cases:
            _kept(_run(lab, name, cases[name]))
    lines = json.loads(RESULTS.read_text(encoding="utf-8"))
    page.write(lines)
    print(table(lines))
    return 0


@contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """What Airflow logs goes to a file, as in a task: printing it would be measured, too."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _run(lab: Lab, name: str, case: Case) -> list[Measured]:
    print(f"==> {name} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
    begun = time.monotonic()
    found = list(case(lab))
    lab.say(f"{time.monotonic() - begun:.0f} s")
    return found


def _kept(new: list[Measured]) -> None:
    """Put new lines among those of earlier runs, in the table's order; rows that are no more are dropped."""
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = {line["row"]: line for line in [*old, *map(result, new)]}
    lines = [known[row.what] for row in ROWS.values() if row.what in known]
    RESULTS.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(lines: list[dict[str, object]]) -> str:
    """For a terminal; without the reference's name, for which there is no room."""
    rows = [[cell for column, cell in enumerate(row) if column != 3] for row in (page.HEADS, *map(page.cells, lines))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lefts = [row[0].ljust(widths[0]) for row in rows]
    rights = ["  ".join(map(str.rjust, row[1:], widths[1:])) for row in rows]
    return "\n".join(f"{left}  {right}" for left, right in zip(lefts, rights, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
