"""Host ranges: `gpu[01-60]` written out."""

from __future__ import annotations

import re

from airflow_jobdeploy.core.kinds import Problems
from airflow_jobdeploy.core.source import Item, shortened

#: Most hosts of one pool.
MAX_HOSTS = 2_000
_TOO_MANY = (f"more than {MAX_HOSTS} hosts.", "Make several pools of them.")
#: Longest range.
MAX_LENGTH = 1_000

_RANGE = re.compile(r"(.*?)\[([^\[\]]*)\](.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,252})")


def is_host(text: str) -> bool:
    """Whether `text` can be a host's name or address, and nothing that a command line takes for an option."""
    return _HOST.fullmatch(text) is not None


def expand_hosts(text: str, item: Item, problems: Problems) -> list[str]:
    """`gpu[01-03,7]` -> gpu01, gpu02, gpu03, gpu7; several brackets multiply. Reports what is no range."""
    if len(text) > MAX_LENGTH:
        problems.append(item.problem(f"is longer than {MAX_LENGTH} characters."))
        return []
    found = [""]
    rest = text
    while (match := _RANGE.fullmatch(rest)) is not None:
        before, ranges, rest = match.groups()
        numbers = _numbers(ranges, item, problems)
        if numbers is None or len(found) * len(numbers) > MAX_HOSTS:
            if numbers is not None:
                problems.append(item.problem(*_TOO_MANY))
            return []
        found = [f"{host}{before}{number}" for host in found for number in numbers]
    found = [host + rest for host in found]
    wrong = next((host for host in found if not is_host(host)), None)
    if wrong is not None:
        problems.append(item.problem(f"{shortened(repr(wrong))} is not a host's name.", "Ranges look like gpu[01-60]."))
        return []
    return found


def _numbers(ranges: str, item: Item, problems: Problems) -> list[str] | None:
    found: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            problems.append(
                item.problem(f"[{shortened(ranges)}] is not a range.", "Ranges look like [01-60] or [1-3,7].")
            )
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= MAX_HOSTS:
            problems.append(item.problem(*_TOO_MANY))
            return None
        found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return found
