"""What process 1 of a container has reported (init/telling.sh).

A report with nothing special in it is also the target of a link: an engine says where a link leads in a tenth of the
time that it takes to hand out files. All else is read from these.

    .../said/1/<exit code>/<1: a success>/<number of the last step>/<time> <status> <reason> <phase>/...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Of a file of the report no more is read than this, in bytes.
REPORT_LIMIT = 16 * 1024 * 1024
#: The link, in the report; and in a report that was made from it.
SHORT = "short"
_MARK, _SUCCESSES, _LINK_WORDS = "said/1/", ("0", "1"), 4


class Standing(NamedTuple):
    """What process 1 says of the attempt. `left`: how many processes it waits for, or nothing."""

    phase: str
    status: str
    reason: str
    step: str
    left: str


def standing(report: Mapping[str, bytes] | None) -> Standing | None:
    """What process 1 said last; None: nothing yet."""
    told = entries(report)
    if not told:
        return None
    _, status, reason, phase, left, step = told[-1]
    return Standing(phase, status, reason, step, left)


def entries(report: Mapping[str, bytes] | None) -> list[list[str]]:
    """[time, status, reason, phase, leftovers, step]: the whole lines of the history."""
    lines = (report or {}).get("history", b"").decode("utf-8", "replace").split("\n")[:-1]
    rows = [line.split(" ", 5) for line in lines]
    return [["" if word == "-" else word for word in row] for row in rows if len(row) == 6 and row[0].isdigit()]


def of_link(link: str, plan: Mapping[str, Any]) -> dict[str, bytes] | None:
    """The files of the report, but for those that nobody reads; None: they must be asked for."""
    code, ok, last, *history = [*link.partition(_MARK)[2].split("/"), "", ""]
    history = [entry for entry in history if entry]
    steps = plan.get("steps") or ()
    is_whole = all(len(entry.split(" ")) == _LINK_WORDS for entry in history)
    if not (code.isdigit() and ok in _SUCCESSES and last.isdigit() and history and is_whole and int(last) < len(steps)):
        return None
    step = str(steps[int(last)].get("name", ""))
    facts = f"step={step}\nstatus={code}\n" + ("ok=1\n" if ok == "1" else "")
    lines = "".join(f"{entry} - {step}\n" for entry in history)
    return {"facts": facts.encode(), "history": lines.encode(), "names": b"", "end": b"", SHORT: b""}


def is_short(report: Mapping[str, bytes] | None) -> bool:
    """Was it made from a link? Then there is nothing beside it: no message, no output."""
    return SHORT in (report or {})
