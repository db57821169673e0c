"""A commit that lies checked out, unchanged: what `git archive` would give is read where it lies."""

# ruff: noqa: PTH115

from __future__ import annotations

import hashlib
import os

from airflow_jobdeploy.core.manifest import EXECUTABLE, FILE, LINK, Entry, Manifest
from airflow_jobdeploy.packing import git, ignoring
from airflow_jobdeploy.packing.digests import POINTER, open_file
from airflow_jobdeploy.packing.held import Held

#: Files up to this size, in bytes, are read as a whole.
_WHOLE = 64 * 1024 * 1024
#: What is kept of each file: enough for a `.jobdeployignore`.
_FIRST_BYTES = 64 * 1024


def plain_checkout(where: git.Folder, commit: str) -> Held | None:
    """What `git archive` would give, read where it lies checked out: half the time, and no copy.

    Every file is compared with the id of what was committed. None: something is not just as it was committed, or
    an attribute may change it on its way out.
    """
    if _has_attributes(where, commit):
        return None
    entries: list[Entry] = []
    submodules: dict[str, str] = {}
    small: dict[str, bytes] = {}
    for line in git.names(git.told(where.root, "ls-files", "-s", "-v", "-z", what="list the files")):
        facts, _, name = line.partition("\t")
        tag, mode, blob, stage = facts.split(" ")
        if mode == git.LINK_MODE:
            submodules[name] = blob
            continue
        found = _as_committed(where.root, name, mode, blob) if (tag, stage) == ("H", "0") else None
        if found is None or name.rpartition("/")[2] == ".gitattributes":
            return None
        entries.append(found[0])
        small[name] = found[1]
    return Held(
        manifest=Manifest.of(entries),
        pointers=tuple(name for name, data in small.items() if data.startswith(POINTER)),
        submodules=submodules,
        ignore=small.get(ignoring.FILE, b"").decode(errors="replace"),
        plain=True,
    )


def _has_attributes(where: git.Folder, commit: str) -> bool:
    """Of the repository itself, or in a folder above; those below are seen when all files are listed."""
    parts = where.prefix.split("/")[:-1]
    above = ["/".join((*parts[:depth], ".gitattributes")) for depth in range(len(parts))]
    if above and git.told(where.top, "ls-tree", "--full-tree", commit, "--", *above, what="list a commit"):
        return True
    return bool(git.info_attributes(where.top))


def _as_committed(root: str, name: str, mode: str, blob: str) -> tuple[Entry, bytes] | None:
    """The entry of a file or link, and its first bytes; None when it is other than was committed."""
    try:
        if mode == "120000":
            target = os.readlink(f"{root}/{name}")
            data = os.fsencode(target)
            return (Entry(name, LINK, 0, target), b"") if _blob_id(data, blob) == blob else None
        descriptor = open_file(root, name)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > _WHOLE:
                return None
            data = os.read(descriptor, size_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError:
        return None  # git archive can do without it
    if len(data) != size_bytes or _blob_id(data, blob) != blob:
        return None
    kind = EXECUTABLE if mode == "100755" else FILE
    return Entry(name, kind, size_bytes, hashlib.sha256(data).hexdigest()), data[:_FIRST_BYTES]


def _blob_id(data: bytes, like: str) -> str:
    """As git names a file's content; `like`: a name of the same repository."""
    whole = b"blob %d\0" % len(data) + data
    return (hashlib.sha1(whole, usedforsecurity=False) if len(like) == 40 else hashlib.sha256(whole)).hexdigest()
