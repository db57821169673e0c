"""Repositories without a checkout: fetched into a cache, one at a time, from addresses that are only addresses.

A nightly run fetches into the same copy for years: git packs it anew when it thinks fit, and copies that nobody has
asked for a month go.
"""

# ruff: noqa: PTH118, PTH123

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from airflow_jobdeploy.core.git_names import SCHEMES, ref_fault
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import caching, forges, git

#: A fetch may take so long, in seconds.
FETCH_S = 600.0
#: A copy that nobody has asked for so long is removed, in seconds.
UNUSED_S = 30 * 86400.0
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_HEAD = "refs/jobdeploy/head"


class Clone:
    """A bare copy of a repository, below the cache folder. `url`: without fault (core.git_names)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = forges.without_secrets(url) or url
        try:
            self._folder = caching.folder("repositories")
        except OSError as error:
            raise StagingError(f"no place to fetch {self.shown} to: {error}. Set XDG_CACHE_HOME") from error
        self.path = os.path.join(self._folder, caching.key(url) + ".git")

    def commit(self, ref: str) -> str:
        """The commit of a branch, tag or commit as the remote has it now ("": of its HEAD).

        A whole commit id that is here already is not asked for again. StagingError when git cannot fetch.
        """
        fault = ref_fault(ref)
        if fault:
            raise StagingError(f"ref {ref!r} {fault}")
        with self._locked():
            self._made()
            if not (_SHA.match(ref) and self._has(ref)):
                self._fetch(ref)
                git.asked(self.path, "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet", bare=True)
                self._remove_unused()
            return git.commit_of(self.path, ref or _HEAD, bare=True)

    def _has(self, commit: str) -> bool:
        return git.asked(self.path, "cat-file", "-e", f"{commit}^{{commit}}", bare=True)[0] == 0

    def branch(self, ref: str) -> str:
        """`ref` if it is a branch, else "" (of the remote's HEAD: a branch at the same commit)."""
        if ref:
            name = f"refs/heads/{ref}"
            return ref if git.asked(self.path, "show-ref", "--verify", "--quiet", name, bare=True)[0] == 0 else ""
        line = ("for-each-ref", "--format=%(refname:lstrip=2)", f"--points-at={_HEAD}", "refs/heads")
        names = git.asked(self.path, *line, bare=True)[1].decode(errors="replace").split()
        return next((name for name in ("main", "master") if name in names), names[0] if names else "")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(f"{self.path}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(lock.name)  # used now, see _remove_unused
            yield

    def _remove_unused(self) -> None:
        """Copies of other repositories that were not asked for lately. Their locks stay: one may be waited for."""
        with os.scandir(self._folder) as found:
            locks = [entry.path for entry in found if entry.name.endswith(".git.lock") and _is_old(entry)]
        for path in locks:
            with open(path, encoding="ascii") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(lock.fileno()).st_mtime > UNUSED_S:  # not used in this moment
                    shutil.rmtree(path.removesuffix(".lock"), ignore_errors=True)

    def _made(self) -> None:
        git.told(self._folder, "init", "--quiet", "--bare", "--template=", self.path, what="make a repository")

    def _fetch(self, ref: str) -> None:
        wanted = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", f"+HEAD:{_HEAD}"]
        said = self._fetched("--prune", "--no-tags", *wanted)
        if said and ".lock" in said:  # of a fetch that was killed: nobody else is at work here
            shutil.rmtree(self.path, ignore_errors=True)
            self._made()
            said = self._fetched("--prune", "--no-tags", *wanted)
        if said and "HEAD" in said:  # nothing is checked out there: its branches may be fetched all the same
            said = self._fetched("--prune", "--no-tags", *wanted[:2])
        if said:
            raise StagingError(f"git cannot fetch {self.shown}: {said}")
        git.asked(self.path, "update-ref", "--no-deref", "HEAD", _HEAD, bare=True)  # `HEAD~2` means the remote's
        if _SHA.match(ref) and not self._has(ref):
            self._fetched(ref)  # of no branch: some servers give it when asked by name

    def _fetched(self, *what: str) -> str:
        """What went wrong, or ""."""
        line = git.command(
            self.path, "fetch", "--quiet", "--force", "--no-auto-gc", "--no-recurse-submodules", bare=True
        )
        options = [option for option in what if option.startswith("--")]
        refs = [option for option in what if not option.startswith("--")]
        try:
            done = subprocess.run(
                [*line, *options, "--end-of-options", self.url, *refs],
                env={
                    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
                    **git.environment(transport=True),
                    "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=FETCH_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it took longer than {FETCH_S:g} s"
        return done.stderr.decode(errors="replace").strip() if done.returncode else ""


def _is_old(entry: os.DirEntry[str]) -> bool:
    return time.time() - entry.stat().st_mtime > UNUSED_S
