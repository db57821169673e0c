"""Where code comes from, for the record: commit, branch, message, what was changed, the remote and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.packing import forges, git

#: How many changes are named.
FIRST = 20
_LONGEST = 200


def of_commit(where: str, commit: str, *, branch: str = "", bare: bool = False, url: str = "") -> dict[str, Any]:
    """{"commit", "branch", "message", "dirty", "url", "link"}; texts may be empty. `url`: of the remote, if known."""
    remote = url or _remote(where, branch, bare=bare)
    return {
        "commit": commit,
        "branch": branch[:_LONGEST],
        "message": git.subject(where, commit, bare=bare),
        "dirty": False,
        "url": forges.without_secrets(remote),
        "link": forges.page(remote, commit),
    }


def _remote(where: str, branch: str, *, bare: bool) -> str:
    config = git.settings(where, bare=bare)
    name = git.setting(config, f"branch.{branch}.remote") or "origin"
    return git.setting(config, f"remote.{name}.url")


def changes(found: Sequence[tuple[str, str]]) -> list[str]:
    """ "M a.py", "?? b.py": the first of them, and how many more."""
    lines = [f"{code} {name}"[:_LONGEST] for code, name in found[:FIRST]]
    return [*lines, f"and {len(found) - FIRST} more"] if len(found) > FIRST else lines


def said(origin: Mapping[str, Any]) -> str:
    """ "commit 1a2b3c4d (main: Fix the loader)", or ""."""
    if not origin.get("commit"):
        return ""
    about = ": ".join(part for part in (origin.get("branch"), origin.get("message")) if part)
    return f"commit {origin['commit'][:12]}" + (f" ({about})" if about else "")
