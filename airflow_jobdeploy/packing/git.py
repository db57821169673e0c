"""Questions to git about a directory: is it a repository's, what was changed, what is a commit.

Nothing here writes to a repository: neither its index nor its stash. Answers come with NUL between names, so that any
name is read as it is.
"""

# ruff: noqa: PTH118, PTH123

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from airflow_jobdeploy.core.git_names import ref_fault
from airflow_jobdeploy.errors import StagingError, nearest

_GIT = (
    "git",
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.quotePath=false"),
    *("-c", "safe.directory=*"),
)
#: A file's line endings and the attributes of one account must not decide what a bundle holds.
_AS_COMMITTED = ("-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null")
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
#: How these are shared is the account's affair: keys, certificates, a proxy.
_TRANSPORT = re.compile(r"GIT_(SSH|SSL|HTTP|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM))")

#: A submodule, in a mode field.
LINK_MODE = "160000"


def is_installed() -> bool:
    return shutil.which("git") is not None


def environment(*, transport: bool = False) -> dict[str, str]:
    """Ours without GIT_DIR and the like: a hook that calls us means its own repository, not the project's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or (transport and _TRANSPORT.match(name))
    }
    return {**kept, **_ENVIRONMENT}


def command(where: str, *arguments: str, bare: bool = False) -> list[str]:
    """The command line of git for a folder, or for a repository without a work tree."""
    place = ("--git-dir", where) if bare else ("-C", where)
    return [*_GIT, *place, *arguments]


def asked(where: str, *arguments: str, bare: bool = False) -> tuple[int, bytes, str]:
    """Exit status, answer, what it said about errors."""
    done = subprocess.run(
        command(where, *arguments, bare=bare),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()


def told(where: str, *arguments: str, what: str, bare: bool = False) -> bytes:
    """The answer. StagingError "git cannot <what>: ..." when there is none."""
    status, answer, said = asked(where, *arguments, bare=bare)
    if status:
        raise StagingError(f"git cannot {what} in {where}: {said}")
    return answer


def names(answer: bytes) -> list[str]:
    """File names of an answer with NUL between them."""
    return [os.fsdecode(name) for name in answer.split(b"\0") if name]


# -- a folder of a work tree ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder in the work tree of a repository."""

    #: Its real path, and the way to it from the top of the work tree: "" or "sub/folder/".
    root: str
    prefix: str

    @property
    def top(self) -> str:
        """The top of the work tree."""
        return self.root[: -len(self.prefix)] or "/" if self.prefix else self.root


def folder(root: str) -> Folder | None:
    """What git knows of a folder (its real path); None: no work tree, or no git."""
    if not is_installed():
        return None
    status, answer, _ = asked(root, "rev-parse", "--is-inside-work-tree", "--show-prefix")
    inside, _, prefix = answer.partition(b"\n")
    if status or inside != b"true":
        return None
    return Folder(root=root, prefix=os.fsdecode(prefix.removesuffix(b"\n")))


@dataclass(frozen=True, kw_only=True)
class Status:
    """A work tree beside its commit. Names are from the top of the work tree."""

    #: The commit that is checked out, "" before the first one; its branch, "" when detached.
    commit: str
    branch: str
    #: (code as of `git status --short`, name), untracked files included.
    changes: tuple[tuple[str, str], ...]
    untracked: tuple[str, ...]
    #: Known to git and not there.
    deleted: frozenset[str]
    #: Whole folders end with "/".
    ignored: tuple[str, ...]


def status(where: Folder, *, whole: bool = False) -> Status:
    """Of the folder, or of the `whole` repository around it."""
    answer = told(
        where.root,
        *("status", "--porcelain=v2", "-z", "--branch", "--no-ahead-behind", "--no-renames"),
        *("--untracked-files=all", "--ignored=matching", "--ignore-submodules=none"),
        *(() if whole else ("--", ".")),
        what="tell what was changed",
    )
    head: dict[str, str] = {}
    changes: list[tuple[str, str]] = []
    untracked: list[str] = []
    ignored: list[str] = []
    deleted: set[str] = set()
    for line in names(answer):
        kind, _, rest = line.partition(" ")
        if kind == "#":
            word, _, value = rest.partition(" ")
            head[word] = value
        elif kind == "?":
            untracked.append(rest)
            changes.append(("??", rest))
        elif kind == "!":
            ignored.append(rest)
        else:  # "1 XY sub mH mI mW hH hI path", "u XY sub m1 m2 m3 mW h1 h2 h3 path"
            code, name = rest[:2], rest.split(" ", 7 if kind == "1" else 9)[-1]
            changes.append((code.replace(".", ""), name))
            if code[1] == "D":
                deleted.add(name)
    commit, branch = head.get("branch.oid", "(initial)"), head.get("branch.head", "(detached)")
    return Status(
        commit="" if commit == "(initial)" else commit,
        branch="" if branch == "(detached)" else branch,
        changes=tuple(changes),
        untracked=tuple(untracked),
        deleted=frozenset(deleted),
        ignored=tuple(ignored),
    )


def indexed(root: str) -> Iterator[tuple[bool, str]]:
    """(is it a submodule?, name from `root`) of what git tracks below a folder, each once."""
    last = None
    for line in names(told(root, "ls-files", "-s", "-z", what="list the files")):
        facts, _, name = line.partition("\t")
        if name != last:  # in the middle of a merge a name comes up to three times
            yield facts.startswith(LINK_MODE), name
        last = name


# -- commits --------------------------------------------------------------------------------------------------------


def commit_of(where: str, ref: str, *, bare: bool = False) -> str:
    """The commit that `ref` (a branch, tag, commit, or `HEAD~2`) names. StagingError with the nearest known name."""
    fault = ref_fault(ref)
    if fault:
        raise StagingError(f"ref {ref!r} {fault}")
    state, answer, _ = asked(where, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", bare=bare)
    if not state:
        return answer.decode().strip()
    _, refs, _ = asked(where, "for-each-ref", "--format=%(refname:short)", bare=bare)
    known = refs.decode(errors="replace").split("\n")
    if asked(where, "rev-parse", "--verify", "--quiet", "HEAD", bare=bare)[0] and not any(known):
        raise StagingError(f"the repository {where} has no commit yet: there is no {ref!r} to take. Commit first")
    hint = nearest(ref, filter(None, known)) or " Is it fetched?"
    raise StagingError(f"the repository {where} knows no branch, tag or commit {ref!r}.{hint}")


def subject(where: str, commit: str, *, bare: bool = False) -> str:
    """The first line of a commit's message, at most 200 characters."""
    text = told(where, "cat-file", "commit", commit, what="read the commit", bare=bare)
    _, _, message = text.partition(b"\n\n")
    return message.decode(errors="replace").strip().partition("\n")[0][:200]


def settings(where: str, *, bare: bool = False) -> bytes:
    """All configuration, for `setting` and as a part of cache keys. It may hold secrets: not to be shown."""
    return told(where, "config", "--list", "-z", what="read its configuration", bare=bare)


def setting(config: bytes, name: str) -> str:
    """The last value of a configuration variable, or ""."""
    found = ""
    for entry in config.split(b"\0"):
        key, _, value = entry.partition(b"\n")
        if key.decode(errors="replace") == name:
            found = value.decode(errors="replace")
    return found


def tree(where: str, commit: str, prefix: str, *, bare: bool = False) -> Mapping[str, str]:
    """Name from `prefix` on -> "" of a file, the commit of a submodule; of what a commit holds below a folder."""
    path = (prefix.removesuffix("/"),) if prefix else ()
    answer = told(where, "ls-tree", "-r", "-z", "--full-tree", commit, *path, what="list a commit", bare=bare)
    found = {}
    for line in names(answer):
        facts, _, name = line.partition("\t")
        mode, _, rest = facts.partition(" ")
        found[name.removeprefix(prefix)] = rest.split(" ")[1] if mode == LINK_MODE else ""
    return found


def info_attributes(where: str, *, bare: bool = False) -> bytes:
    """The attributes that stand in the repository itself."""
    found = told(where, "rev-parse", "--git-path", "info/attributes", what="be asked", bare=bare)
    try:
        with open(os.path.join(where, os.fsdecode(found[:-1])), "rb") as file:
            return file.read()
    except OSError:
        return b""  # there are none


def archive_command(where: str, commit: str, prefix: str, *, bare: bool = False) -> Sequence[str]:
    """`git archive` of a commit below a folder as a tar stream; names are from the top."""
    path = (prefix.removesuffix("/"),) if prefix else ()
    line = command(where, "archive", "--format=tar", commit, *path, bare=bare)
    return [line[0], *_AS_COMMITTED, *line[1:]]
