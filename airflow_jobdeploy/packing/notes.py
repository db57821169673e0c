"""What is said about a bundle: what goes, what stays, what is large, what is probably not meant to go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.core.manifest import Manifest
from airflow_jobdeploy.core.words import counted, size
from airflow_jobdeploy.packing import origin

#: Files from this size on are named, in bytes.
LARGE_BYTES = 50 * 1000 * 1000
#: Names of files that often hold secrets.
_SECRET = re.compile(
    r"(?:^|/)(?:\.env(?:\.(?!example$|sample$|template$)[^/]*)?|id_(?:rsa|dsa|ecdsa|ed25519)|[^/]*\.pem|\.netrc|\.pypirc)$"
)
_FIRST = 10


def notes_of(
    named: str, manifest: Manifest, about: Mapping[str, Any], left: Sequence[str], skipped: Sequence[str]
) -> tuple[str, ...]:
    """Lines for the log."""
    commit = origin.said(about)
    lines = [
        f"Code: {counted(manifest.files, 'file')}, {size(manifest.bytes)} of {named}"
        + (f" at {commit}" if commit else "")
    ]
    if about.get("changes"):
        lines.append(f"The code includes uncommitted changes: {', '.join(about['changes'])}")
    if left:
        lines.append(f"Left out: {some(left)}")
    if skipped:
        lines.append(f"Skipped (no regular files): {some(skipped)}")
    large = sorted((entry for entry in manifest.entries if entry.size >= LARGE_BYTES), key=lambda entry: -entry.size)
    if large:
        named_large = [f"{entry.path!r} ({size(entry.size)})" for entry in large]
        lines.append(f"Large files: {', '.join(named_large[:_FIRST])}{_more(len(large))}")
    return tuple(lines)


def warnings_of(manifest: Manifest, pointers: Sequence[str], missing: Sequence[str]) -> tuple[str, ...]:
    """Sentences about what is probably not meant so."""
    found = []
    there = dict.fromkeys(entry.path for entry in manifest.entries)
    sent = [path for path in pointers if path in there]
    if sent:
        found.append(f"pointers of Git LFS go instead of files: {some(sent)}. Run `git lfs pull` first")
    if missing:
        found.append(f"left out: {'; '.join(missing[:_FIRST])}{_more(len(missing))}")
    secret = [path for path in there if _SECRET.search(path)]
    if secret:
        found.append(
            f"files that may hold secrets are sent to the worker: {some(secret)}. Leave them out by .gitignore or "
            ".jobdeployignore, and use secret_env"
        )
    return tuple(found)


def some(names: Sequence[str]) -> str:
    """The first names, quoted, and how many more."""
    return ", ".join(repr(name) for name in names[:_FIRST]) + _more(len(names))


def _more(count: int) -> str:
    return f" and {count - _FIRST} more" if count > _FIRST else ""
