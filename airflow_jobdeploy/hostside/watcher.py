"""Which of a set of jobs have changed: told by the kernel where it can (bell.py), else by looking.

What rings is looked at once, soon; the rest is looked at now and then: jobs whose directory cannot have a bell, and
those that change by the mere passing of time, at `SOON_S` after a request and ever more seldom; all others every
`SWEEP_S`, in case that something was missed. A thousand quiet jobs cost nothing in between.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Optional, Set, Tuple

from airflow_jobdeploy.hostside import files, logs
from airflow_jobdeploy.hostside.bell import Bell
from airflow_jobdeploy.hostside.judge import Judge

#: Between two looks, in seconds: soon after a request or an end, then ever more seldom. Grown logs are told every
#: LOOK_S at most. Where there is much to look at, looks take no more than a share of the time.
SOON_S, LOOK_S, LATEST_S = 0.01, 0.25, 1.0
_SLOWER, _SHARE = 1.25, 0.01
SWEEP_S = 60.0
#: Times of directories are this coarse, in nanoseconds: within it a second change may not show.
_COARSE = 50_000_000


class Watcher:
    """Watches the jobs `names`; their states at the start are in `first`."""

    def __init__(self, judge: Judge, names: Any, bell: Optional[Bell] = None) -> None:
        self._judge = judge
        self._bell = bell or Bell()
        #: Those that the bell does not ring for.
        self._silent = {name for name in names if not self._bell.add(name, judge.job(name).paths.dir)}
        #: Those to be looked at, whatever their signs.
        self._due: Set[str] = set()
        self.first = judge.views(names)
        self._seen: Dict[str, Tuple[Any, Any]] = {}
        for name, state in self.first.items():
            self._note(name, state)
        self._looked = self._swept = time.monotonic()
        self._pause_s = SOON_S

    def close(self) -> None:
        self._bell.close()

    # -- when to look ---------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """A request was answered: it may have consequences soon."""
        self._pause_s = SOON_S

    @property
    def fd(self) -> Optional[int]:
        """Readable when it is time for `changes`; None while the pause after the last look lasts."""
        return self._bell.fd if self._left_s() <= 0 else None

    def patience_s(self) -> float:
        """When `changes` is to be called at the latest, beside when `fd` is readable."""
        if self._silent or self._due or self._left_s() > 0:
            return self._left_s()
        return max(0.0, self._swept + SWEEP_S - time.monotonic())

    def _left_s(self) -> float:
        return max(0.0, self._looked + self._pause_s - time.monotonic())

    # -- looking --------------------------------------------------------------------------------------------------

    def changes(self) -> Dict[str, Optional[dict]]:
        """States that differ from those told last. Nothing when it is not yet time to look, or no sign was seen."""
        if self._left_s() > 0:
            return {}
        begun = time.monotonic()
        rung, self._due = self._bell.rung() | self._due, set()
        names = rung | self._silent
        if begun - self._swept >= SWEEP_S:
            self._swept, names = begun, set(self._seen)
        told: Dict[str, Optional[dict]] = {}
        has_moved = False
        for name in names:
            before = self._seen[name][1]
            if name in rung or self._shows(name):
                state = self._judge.views([name])[name]
                latest = self._note(name, state)
                if latest != before:
                    told[name] = state
                    has_moved = has_moved or _phase(latest) != _phase(before) or _is_passing(latest)
        if names:
            self._looked = time.monotonic()
            calm = SOON_S if has_moved else LOOK_S if told else min(LOOK_S, self._pause_s * _SLOWER)
            self._pause_s = min(LATEST_S, max(calm, (self._looked - begun) / _SHARE))
        return told

    def _shows(self, name: str) -> bool:
        """Does a job that nothing rings for show a sign of change?"""
        signs, essence = self._seen[name]
        return self._signs(name, essence) != signs or not self._is_quiet(name, essence)

    def _note(self, name: str, state: Optional[dict]) -> Any:
        """Remember what was seen of a job, and how it is to be watched from here on."""
        essence = _essence(state)
        self._seen[name] = (self._signs(name, essence), essence)
        if name in self._silent:
            if essence is not None and self._bell.add(name, self._judge.job(name).paths.dir):
                self._silent.discard(name)
                self._due.add(name)  # what happened before there was a bell
        elif essence is None:
            self._silent.add(name)  # forgotten: should it come back, it is another directory
        if not self._is_quiet(name, essence):
            self._due.add(name)
        return essence

    def _signs(self, name: str, essence: Any) -> Any:
        # Each rewrite of a record is a rename: it shows in the directory's time.
        paths = self._judge.job(name).paths
        try:
            changed = os.stat(paths.dir).st_mtime_ns
        except OSError:
            return None
        fresh = time.time_ns() if abs(time.time_ns() - changed) < _COARSE else 0
        # Of most jobs there are no messages, and that their file is made shows in the directory's time.
        told = _size(paths.messages) if essence and essence.get("messages") else 0
        return changed, logs.size(paths), told, fresh

    def _is_quiet(self, name: str, essence: Any) -> bool:
        """Is there nothing to be found out without a sign: ended, unknown, not started, or held by a supervisor?"""
        if essence is None or essence.get("phase") in (None, "ended"):
            return True
        job = self._judge.job(name)
        if essence["phase"] == "claimed":
            return not (job.plan().get("limits") or {}).get("setup_timeout_s")
        return files.is_locked(job.paths.lock) is True


def _essence(state: Optional[dict]) -> Any:
    """What of a state is worth telling."""
    if state is None:
        return None
    history = [(entry["status"], entry["reason"]) for entry in state.get("history", ())]
    return {**{key: value for key, value in state.items() if key not in ("running_s", "usage")}, "history": history}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _is_passing(essence: Any) -> bool:
    """Is it in a phase that will be over in a moment, most likely? Then a grown log is no reason to look seldom."""
    return bool(essence) and essence.get("phase") in ("starting", "setup")


def _phase(essence: Any) -> Any:
    return essence and (essence.get("phase"), essence.get("status"), essence.get("reason"))
