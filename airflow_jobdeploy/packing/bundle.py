"""Bundles: the code of a job as one tree that is named by its content, with where it comes from.

    ref            what that commit holds below the project, as `git archive` has it
    repo (+ ref)   the same of a repository without a checkout
    include        what HEAD holds; with uncommitted changes, the files as they lie there; so without git
    refuse         what HEAD holds; an error that names the changes when there are any in the whole repository

`Code` says what is asked for, `Code.bundle()` takes it as it is now, `Code.again()` makes the tree of an earlier
attempt once more, or says that it cannot.
"""

# ruff: noqa: PTH118

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from airflow_jobdeploy.core.files import shown
from airflow_jobdeploy.core.git_names import INCLUDE, REFUSE
from airflow_jobdeploy.core.manifest import FOLDER, LINK, Entry, Manifest, TreeSource
from airflow_jobdeploy.core.words import counted, size
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside.manifest import leads_out
from airflow_jobdeploy.packing import git, listing, origin
from airflow_jobdeploy.packing.clones import Clone
from airflow_jobdeploy.packing.committed import Committed
from airflow_jobdeploy.packing.ignoring import FILE as IGNORE_FILE
from airflow_jobdeploy.packing.ignoring import Ignored
from airflow_jobdeploy.packing.notes import notes_of, warnings_of
from airflow_jobdeploy.packing.worktree import Files, refusal

#: The largest bundle, unless the job says otherwise, in bytes.
LIMIT_BYTES = 2 << 30
#: How many names of a kind an error gives.
_FIRST = 10


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A TreeSource of code. `origin`: see packing.origin, and "files", "bytes", "changes" beside it."""

    manifest: Manifest
    #: The folder, or the repository.
    where: str
    parts: Mapping[str, TreeSource] = field(repr=False)
    origin: Mapping[str, Any]
    #: For the log: what goes, what stays; and what is probably not meant so.
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    #: Every sha256 is known: see TreeSource.
    version: str = ""

    @property
    def name(self) -> str:
        return self.manifest.name

    def shown(self, path: str) -> str:
        """What messages call a file of the bundle."""
        return shown(Path(self.where) / path) if self.where.startswith("/") else f"{self.where}: {path}"

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        for prefix, part in self.parts.items():
            if entry.path.startswith(prefix):
                return part.open(entry._replace(path=entry.path[len(prefix) :]), offset)
        raise StagingError(f"{entry.path!r} is not of this bundle")


@dataclass(frozen=True, kw_only=True)
class Code:
    """Where a job's code is taken from, as it was asked for."""

    #: A folder here; with `repo`: None.
    project_dir: Path | None = None
    #: An address without fault (core.git_names), and the project's folder in that repository.
    repo: str = ""
    subdir: str = ""
    ref: str = ""
    dirty: str = INCLUDE
    limit_bytes: int = LIMIT_BYTES
    #: Files here that never go: a job spec with a password in it.
    never: tuple[Path, ...] = ()
    #: What is known of a folder that is no repository: {"commit", "link", ...} of the DAG's bundle.
    given_origin: Mapping[str, Any] = field(default_factory=dict)

    def bundle(self) -> Bundle:
        """The code as it is now. StagingError with all that is wrong with it."""
        return self._of_repo(self.ref) if self.repo else self._of_folder(self.ref)

    def again(self, name: str, before: Mapping[str, Any]) -> Bundle:
        """The bundle of this name, of an earlier attempt; `before`: its origin. StagingError when it cannot be made."""
        trouble = ""
        try:
            clean = before.get("commit") and not before.get("dirty") and not before.get("given")
            bundle = self._at(str(before["commit"])) if clean else self.bundle()
            if bundle.name == name:
                return bundle
            now = origin.said(bundle.origin) or f"what lies in {self.project_dir} now"
        except StagingError as error:
            now, trouble = "what is there now", f" ({error})"
        was = origin.said(before) or "what lay there then"
        changed = " with uncommitted changes" if before.get("dirty") else ""
        raise StagingError(
            f"the project has changed since the attempt before: that ran {was}{changed}, which its worker no longer "
            f"has and which cannot be made again{trouble}; {now} is other code. Clear the task to run that"
        )

    def _at(self, commit: str) -> Bundle:
        return self._of_repo(commit) if self.repo else self._of_folder(commit, lenient=True)

    # -- where from -------------------------------------------------------------------------------------------------

    def _of_repo(self, ref: str) -> Bundle:
        if not git.is_installed():
            raise StagingError(f"the repository {self.repo} cannot be fetched: git is not installed here")
        clone = Clone(self.repo)
        commit = clone.commit(ref)
        about = origin.of_commit(clone.path, commit, branch=clone.branch(ref), bare=True, url=self.repo)
        prefix = f"{self.subdir.strip('/')}/" if self.subdir.strip("/") else ""
        return _of_commit(self, Committed(clone.path, commit, prefix, limit=self.limit_bytes, bare=True), about)

    def _of_folder(self, ref: str, *, lenient: bool = False) -> Bundle:
        """`lenient`: submodules that are not here are left out, as they were when the commit was simply HEAD."""
        root = self._root()
        where = git.folder(root)
        if where is None:
            return self._of_plain(root, ref)
        if ref:
            commit = git.commit_of(root, ref)
            return self._committed(where, commit, branch=_branch(root, ref), lenient=lenient)
        status = git.status(where, whole=self.dirty == REFUSE)
        if self.dirty == REFUSE:
            _check_clean(where, status)
        ignored = _ignored(root)
        changes = _changes(where, status, ignored)
        if changes or not status.commit:
            return self._as_it_lies(where, status, changes, ignored)
        bundle = self._committed(where, status.commit, branch=status.branch, lenient=True, status=status)
        if status.ignored and not bundle.manifest.entries:
            return self._of_plain(root, "")
        return bundle

    def _root(self) -> str:
        assert self.project_dir is not None
        root = self.project_dir.expanduser()
        if not root.is_dir():
            raise StagingError(
                f"the project directory {root} {'is no directory' if root.exists() else 'does not exist'}"
            )
        return os.path.realpath(root)

    def _of_plain(self, root: str, ref: str) -> Bundle:
        asked = f"ref {ref!r}" if ref else "dirty: refuse" if self.dirty == REFUSE else ""
        if asked:
            why = "is not in a git repository" if git.is_installed() else "cannot be asked about: git is not installed"
            instead = "leave ref out" if ref else "choose dirty: include (DDL's task.yaml means refuse; submit -d)"
            raise StagingError(f"the project {root} {why}, so {asked} cannot be honoured: `git init`, or {instead}")
        about = {**self.given_origin, "given": True} if self.given_origin else {}
        return self._of_files(root, listing.by_walk(root), about, _ignored(root))

    def _committed(
        self, where: git.Folder, commit: str, *, branch: str, lenient: bool, status: git.Status | None = None
    ) -> Bundle:
        about = origin.of_commit(where.root, commit, branch=branch)
        tree = Committed(
            where.top, commit, where.prefix, limit=self.limit_bytes, checkout=where if status is not None else None
        )
        left = _own(where, status.ignored) if status else []
        return _of_commit(self, tree, about, where=where, lenient=lenient, left=left)

    def _as_it_lies(
        self, where: git.Folder, status: git.Status, changes: Sequence[tuple[str, str]], ignored: Ignored
    ) -> Bundle:
        listed = listing.by_git(where, status)
        if listed is None:  # ignored as a whole by the repository around it
            return self._of_plain(where.root, "")
        about: dict[str, Any] = {}
        if status.commit:
            about = origin.of_commit(where.root, status.commit, branch=status.branch)
        about.update(dirty=True, changes=origin.changes(changes))
        return self._of_files(where.root, listed, about, ignored)

    def _of_files(self, root: str, listed: listing.Listing, about: dict[str, Any], ignored: Ignored) -> Bundle:
        never = {os.path.realpath(path) for path in self.never}
        kept, out = ignored.split(listed.files)
        mine = [name for name in kept if os.path.join(root, name) not in never] if never else kept
        left = sorted({*listed.left_out, *out, *(set(kept) - set(mine))})
        files = Files(root, mine)
        return _bundle(self, root, {"": files}, files.manifest.entries, about, files.pointers, left, files.skipped)


# -- of commits -----------------------------------------------------------------------------------------------------


def _of_commit(
    code: Code,
    tree: Committed,
    about: dict[str, Any],
    *,
    where: git.Folder | None = None,
    lenient: bool = False,
    left: Sequence[str] = (),
) -> Bundle:
    """`where`: the checkout, in which submodules may be found."""
    parts: dict[str, Committed] = {}
    missing: list[str] = []
    for prefix, part, lack in _with_submodules(tree, "", where):
        if part is None:
            missing.append(f"{prefix[:-1]!r} {lack}")
        else:
            parts[prefix] = part
    if missing and not lenient:
        raise refusal("commit", tree.commit[:12], missing)
    entries = [
        entry._replace(path=prefix + entry.path) if prefix else entry
        for prefix, part in parts.items()
        for entry in part.manifest.entries
    ]
    ignored = Ignored.of(tree.held.ignore)
    never = _below(code.never, where)
    mine = [entry for entry in entries if entry.path not in ignored and entry.path not in never]
    out = {*left, *({entry.path for entry in entries} - {entry.path for entry in mine})}
    out |= {prefix + name for prefix, part in parts.items() for name in part.held.exported_not}
    pointers = [prefix + name for prefix, part in parts.items() for name in part.held.pointers]
    named = where.root if where else f"{about.get('url') or tree.where}"
    longest_first = dict(sorted(parts.items(), key=lambda item: -len(item[0])))
    return _bundle(code, named, longest_first, mine, about, pointers, sorted(out), (), missing)


def _with_submodules(
    tree: Committed, prefix: str, where: git.Folder | None
) -> Iterator[tuple[str, Committed | None, str]]:
    """(prefix, its tree, "") of a commit and of the submodules below it; (prefix, None, why not) of missing ones."""
    yield prefix, tree, ""
    for name, commit in tree.held.submodules.items():
        inner = f"{prefix}{name}/"
        if where is None:
            yield inner, None, "is a submodule: they are not fetched along with `repo`"
            continue
        place = os.path.join(where.root, name)
        found = git.folder(place) if os.path.isdir(place) else None  # noqa: PTH112
        there = found is not None and not found.prefix
        if not there or git.asked(place, "cat-file", "-e", f"{commit}^{{commit}}")[0]:
            yield inner, None, f"is a submodule whose commit {commit[:12]} is not here: git submodule update --init"
            continue
        yield from _with_submodules(Committed(place, commit, "", limit=tree.limit), inner, found)


def _own(where: git.Folder, names: Sequence[str]) -> list[str]:
    """Those below the project, named from there."""
    return [name[len(where.prefix) :] for name in names if name.startswith(where.prefix)]


def _below(paths: Sequence[Path], where: git.Folder | None) -> set[str]:
    if where is None:
        return set()
    return {os.path.relpath(os.path.realpath(path), where.root) for path in paths}


def _branch(root: str, ref: str) -> str:
    """`ref`, if it is a branch; the branch that is checked out, for HEAD."""
    _, answer, _ = git.asked(root, "rev-parse", "--symbolic-full-name", "--verify", "--quiet", ref)
    name = answer.decode(errors="replace").strip()
    return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else ""


# -- of work trees --------------------------------------------------------------------------------------------------


def _check_clean(where: git.Folder, status: git.Status) -> None:
    if not status.commit:
        raise StagingError(f"the repository {where.top} has no commit yet: dirty: refuse has nothing to take. Commit")
    if status.changes:
        lines = "\n".join(f"  {line}" for line in origin.changes(status.changes))
        raise StagingError(
            f"the repository {where.top} has uncommitted changes, which dirty: refuse does not allow:\n{lines}\n"
            "Commit them (untracked files count: add them to .gitignore, or commit them, too), or use dirty: include"
        )


def _changes(where: git.Folder, status: git.Status, ignored: Ignored) -> list[tuple[str, str]]:
    """Those below the project that would go along, named from there."""
    cut = len(where.prefix)
    own = [(code, name[cut:]) for code, name in status.changes if name.startswith(where.prefix)]
    return [(code, name) for code, name in own if name not in ignored]


def _ignored(root: str) -> Ignored:
    try:
        with open(os.path.join(root, IGNORE_FILE), encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return Ignored.of(file.read())
    except FileNotFoundError:
        return Ignored(())
    except OSError as error:
        raise StagingError(f"{root}/{IGNORE_FILE} cannot be read: {error.strerror}") from error


# -- all of them ----------------------------------------------------------------------------------------------------


def _bundle(
    code: Code,
    named: str,
    parts: Mapping[str, TreeSource],
    entries: Sequence[Entry],
    about: dict[str, Any],
    pointers: Sequence[str],
    left: Sequence[str],
    skipped: Sequence[str],
    missing: Sequence[str] = (),
) -> Bundle:
    """Checked, and with its notes."""
    manifest = Manifest.of(entries)
    _check_links(named, manifest)
    _check_limit(code, named, manifest)
    about.update(files=manifest.files, bytes=manifest.bytes)
    return Bundle(
        manifest=manifest,
        where=named,
        parts=parts,
        origin=about,
        notes=notes_of(named, manifest, about, left, skipped),
        warnings=warnings_of(manifest, pointers, missing),
    )


def _check_links(named: str, manifest: Manifest) -> None:
    links = {entry.path: entry.content for entry in manifest.entries if entry.kind == LINK}
    out = [path for path, target in links.items() if target.startswith("/") or leads_out(path, target, links)]
    if out:
        lines = [
            f"{path!r} is a link to {links[path]!r}, which leads out of the project: copy it in, or make it relative"
            for path in out
        ]
        raise refusal("project", named, lines)


def _check_limit(code: Code, named: str, manifest: Manifest) -> None:
    if manifest.bytes <= code.limit_bytes:
        return
    files = sorted((entry for entry in manifest.entries if entry.kind != FOLDER), key=lambda entry: -entry.size)
    lines = "\n".join(f"  {size(entry.size):>10}  {entry.path!r}" for entry in files[:_FIRST])
    raise StagingError(
        f"the project {named} has {size(manifest.bytes)} in {counted(manifest.files, 'file')}, more than its "
        f"bundle_limit of {size(code.limit_bytes)}; the largest:\n{lines}\nLeave them out by .gitignore or "
        f"{IGNORE_FILE}, bring data as dataset_location, or raise bundle_limit"
    )
