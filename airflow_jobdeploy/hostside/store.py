"""Trees on a worker: kept by name, whole or not at all, the same bytes for all jobs that use one.

A tree is immutable. Its files and folders were changed last at one moment long ago: a job that writes to one leaves
another time, or another size, and the tree is not there any more for whoever asks next; what is good of it is kept
when it comes again. (As root, modes alone would keep nobody from writing.)
"""

from __future__ import annotations

import os
import stat
from typing import Dict, List, Set, Tuple

from airflow_jobdeploy.hostside import files, given, layout, manifest
from airflow_jobdeploy.hostside.layout import StorePaths, TreePaths
from airflow_jobdeploy.hostside.walk import Walk, encoded

#: When everything in a tree was changed last: the zip format knows it, and so does every filesystem.
MTIME_S = 1_000_000_000
MTIME_NS = MTIME_S * 10**9
_EXECUTABLE = 0o111


def has(store: StorePaths, name: str) -> bool:
    """Is the tree there and whole? Then it counts as used now."""
    paths = store.tree(name)
    if not os.path.isdir(paths.dir) or trouble(paths):
        return False
    given.touch(paths)
    return True


def entries(paths: TreePaths) -> List[list]:
    """The entries of a tree that is there. files.Damaged where its manifest is not the one that named it."""
    try:
        with open(paths.manifest, "rb") as file:
            text = file.read(manifest.LIMIT + 1)
    except OSError as error:
        raise files.Damaged("%s cannot be read: %s" % (paths.manifest, error.strerror)) from None
    if manifest.name_of(text) != os.path.basename(paths.dir):
        raise files.Damaged("%s is not the manifest of this tree" % paths.manifest)
    return manifest.parsed(text)


def trouble(paths: TreePaths) -> str:
    """What keeps a tree from being whole; "" when nothing does."""
    try:
        known = entries(paths)
        walk = Walk(paths.tree, entered=_check_folder)
        try:
            for entry in known:
                folder, name = walk.at(encoded(entry[0]))
                if not is_same(folder, name, entry):
                    return "%r has been changed" % entry[0]
        finally:
            walk.close()
    except (files.Damaged, Changed) as error:
        return str(error)
    except OSError as error:
        return "%s: %s" % (error.filename or paths.tree, error.strerror)
    return ""


class Changed(Exception):
    """Something was put into a folder of a tree, or taken out."""


def _check_folder(fd: int, path: bytes) -> None:
    if os.fstat(fd).st_mtime_ns != MTIME_NS:
        raise Changed("the folder %r has been changed" % os.fsdecode(path))


def is_same(folder: int, name: bytes, entry: list) -> bool:
    """Is what lies there this entry, untouched since it came? FileNotFoundError."""
    _, kind, size, content = entry
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if kind == manifest.LINK:
        return stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=folder) == encoded(content)
    if kind == manifest.FOLDER:
        return stat.S_ISDIR(found.st_mode) and found.st_mtime_ns == MTIME_NS
    return found.st_mtime_ns == MTIME_NS and found.st_size == size and _is_kind(found.st_mode, kind)


def _is_kind(mode: int, kind: str) -> bool:
    return stat.S_ISREG(mode) and bool(mode & _EXECUTABLE) == (kind == manifest.EXECUTABLE)


# -- what others have -----------------------------------------------------------------------------------------------

#: So many trees are looked through for files that need not be sent, the last used first; and so much of manifests.
_OTHERS = 12
_OTHERS_BYTES = 128 * 1024 * 1024

Known = Dict[Tuple[str, str], bytes]


def elsewhere(store: StorePaths, wanted: List[list], but: str) -> Known:
    """Where files of these contents lie already, in other trees: {(content, kind): path}."""
    missing = {(entry[3], entry[1]) for entry in wanted if entry[3]}
    found: Known = {}
    budget = _OTHERS_BYTES
    for paths in _recent(store)[:_OTHERS]:
        if not missing or (os.path.basename(paths.dir) == but and paths.dir.startswith(store.incoming)):
            continue
        try:
            budget -= os.stat(paths.manifest).st_size
            if budget < 0:
                break
            known = entries(paths)
        except (OSError, files.Damaged):
            continue  # or one whose files nobody had read when it was offered
        top = os.fsencode(paths.tree)
        for path, kind, _, content in known:
            if (content, kind) in missing:
                missing.discard((content, kind))
                found[content, kind] = top + b"/" + encoded(path)
    return found


def may_have(store: StorePaths, sizes: Set[int]) -> bool:
    """May a tree hold a file of one of these sizes? True also where there is too much to be looked through."""
    budget = _OTHERS_BYTES
    for paths in _recent(store):
        try:
            budget -= os.stat(paths.manifest).st_size
            if budget < 0:
                return True
            with open(paths.manifest, "rb") as file:
                known = manifest.parsed(file.read(manifest.LIMIT + 1))
        except (OSError, files.Damaged):
            continue  # nothing of it could be used
        if any(entry[3] and entry[2] in sizes for entry in known):  # of what came unread, and was cut, none has a name
            return True
    return False


def _recent(store: StorePaths) -> List[TreePaths]:
    """Trees, and what has come of others, those used last first."""
    found = []
    for folder in (store.trees, store.incoming):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        for name in names:
            if layout.is_name(name):
                paths = TreePaths(os.path.join(folder, name))
                try:
                    found.append((os.stat(paths.lock).st_mtime, paths))
                except OSError:
                    pass
    return [paths for _, paths in sorted(found, key=lambda pair: -pair[0])]
