"""One attempt, from its lock to its exit record. See DESIGN: the job directory, the tree, leftovers, limits.

    lock -> "waiting" (slot) -> "setup" (environment) -> "running" (steps) -> "leftovers"
         -> "finishing" (outcome in state.json) -> exit.json

It is commanded only by files (stop.json) and SIGTERM, and outlives whoever started it. Killed at any point it leaves
what `recover` needs: before the outcome is in state.json the job is ProcessLost, from then on its outcome stands.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Callable, Dict, List, Optional, Sequence

from airflow_jobdeploy.hostside import (
    environment,
    evidence,
    files,
    finish,
    house,
    kernel,
    logs,
    moves,
    orphan,
    stage,
    steps,
    takedown,
    verdict,
    volumes,
)
from airflow_jobdeploy.hostside.bounds import Bounds, Cut
from airflow_jobdeploy.hostside.jobdir import Job, NewerLayout, age_s, enter, stamp
from airflow_jobdeploy.hostside.meter import TICK_S, Meter
from airflow_jobdeploy.hostside.steps import SetupError
from airflow_jobdeploy.hostside.tree import Tree

#: How long what a command left may take to end by itself before it is signalled: `> >(tee log)` still writes.
SETTLE_S = 1.0
#: The longest pause between two looks at a running job, in seconds; and where it stops when nobody asks for it.
_SLOWEST_TICK_S, _ORPHAN_TICK_S = 300.0, 5.0
#: The next look at a job comes when it is so much older again: 6 looks in its first 5 minutes.
_SELDOMER = 3.0


class Supervisor:
    """Runs the steps of one claimed job whose lock is ours."""

    def __init__(self, job: Job, state: dict, home: house.House, holding: stage.Slots) -> None:
        self.job = job
        self.plan = job.plan()
        self.state = state
        self.home = home
        self.limits: Dict[str, Any] = self.plan.get("limits") or {}
        self.bounds = Bounds(job, home)
        self.holding = holding
        self.trees = stage.Trees(job)
        self.tree = Tree(job.id, os.getpid())
        self.status: Optional[int] = None
        self.is_ok = False
        self.setup = ""
        self.cut = Cut()
        self.facts: Dict[str, Any] = {}
        self.disk: Dict[str, Any] = {}
        self.meter = Meter(job, self.limits, self.tree)
        self.secrets: Dict[str, str] = {}
        self.workdir = job.paths.dir
        self._ran_s: Optional[float] = None
        #: The command that runs, or ran last.
        self._pid = 0

    def run(self) -> None:
        """The whole attempt; returns when exit.json stands."""
        try:
            self._attempt()
        except Cut as cut:
            self.cut, self._ran_s = cut, None
            self._end_tree()
        except (SetupError, environment.Refused, files.Damaged, NewerLayout) as error:
            self.setup = str(error)
            self.disk = getattr(error, "facts", {})
            self._end_tree()
        except OSError as error:
            self.setup = "cannot set up the job: %s" % error
            self._end_tree()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                path = error.filename or self.job.paths.dir
                self.disk = {"disk_free_bytes": evidence.free_bytes(self.job.paths.dir) or 0, "disk_path": path}
        outcome = self._outcome()
        self.state["outcome"] = outcome
        self._enter("finishing", self.state["status"], self.state["reason"])
        self.holding.leave()
        finish.persist(self.job, self.state, outcome, self.home.wait)

    def _attempt(self) -> None:
        nothing = takedown.nothing_to_do(self.job.host, self.plan)
        if nothing:
            self.status, self.is_ok, self.facts["hint"] = 0, True, nothing
            return
        todo = stage.todo(self.job)
        self._queue()
        place = self._place()
        ends_resource = bool(self.plan.get("resource_id")) and self.plan.get("build") in takedown.ENDS
        if ends_resource:
            takedown.announce(self.job.host, self.plan["resource_id"], self.job.id)
        self._enter("running", "RUNNING", "")
        try:
            self.status, self.is_ok = 0, True  # no step at all is a success, too
            for number, step in enumerate(todo):
                self._run_step(number, step, place)
                if not self.is_ok:
                    break
            self._settle()
        finally:
            if ends_resource and not self.is_ok:
                takedown.withdraw(self.job.host, self.plan["resource_id"])
        if ends_resource and self.is_ok:
            takedown.take_down(self.job.host, self.plan["resource_id"], self._pause)
            takedown.close(self.job.host, self.plan)

    # -- before the command ---------------------------------------------------------------------------------------

    def _queue(self) -> None:
        """Take what the job holds while it runs: a lease of the host, one of the pool's slots; or wait for it."""
        delay_s = float(self.plan.get("delay_s") or 0.0)
        if delay_s:
            self._enter("waiting", "PENDING", "Backoff")
            ready = kernel.boottime_s() + delay_s
            while kernel.boottime_s() < ready:
                self._pause(ready - kernel.boottime_s())
        bound = self.limits.get("schedule_timeout_s")
        until = kernel.boottime_s() + bound if bound else None
        self.bounds.check()
        while moves.moved_to(self.job) is not None or not self.holding.take():
            self._note_place()
            limit = {"limit": "schedule_timeout", "limit_s": bound}
            self._pause(self.holding.tick_s(), until, limit, self.holding.fds())
        self.state["facts"], self.state["groups"] = self.holding.facts(), self.holding.groups
        self.facts.update(self.state["facts"])
        if self.holding.groups:
            self._save()

    def _note_place(self) -> None:
        """Where it stands in line, for whoever asks."""
        facts = self.holding.facts()
        if self.state["reason"] != "Queued" or self.state.get("facts") != facts:
            self.state["facts"] = facts
            self._enter("waiting", "PENDING", "Queued")

    def _place(self) -> steps.Place:
        self.secrets = files.read_json(self.job.paths.secrets) or {}
        self.trees.take()
        place = stage.place(self.job, self.secrets, self.bounds.check)
        self.workdir = place.workdir
        if self.plan.get("environment"):
            from airflow_jobdeploy.hostside import provide  # seldom needed: not in every supervisor's memory

            self._enter("setup", "PENDING", "Setup")
            provide.give_environment(self.job, place, self._helped)
        return place

    def _helped(self, argv: List[str], env: Dict[str, str]) -> int:
        """Run a helper of ours, within setup_timeout; its exit status, or minus the signal that ended it."""
        pid = self.home.spawn(argv, env, self.job.paths.dir, self.job.paths.log)
        self.tree.groups.add(pid)
        self._await(pid, "setup_timeout", self.limits.get("setup_timeout_s"))
        return self.home.ended[pid]

    # -- the command ----------------------------------------------------------------------------------------------

    def _run_step(self, number: int, step: dict, place: steps.Place) -> None:
        self.state["step"] = step.get("name", "")
        before, self.status, self.is_ok = self.status, None, False
        argv = steps.prepare(step, number, place)
        if argv is None:
            self.status, self.is_ok = before, True
            return
        if self.state.get("started") is None:
            self.meter.begin()
            self.state["started"] = stamp()
            self.bounds.command_starts()
        self.bounds.check()
        self._save()
        env = {**place.env, **step.get("env", {}), **environment.own(self.job), **self.holding.environment()}
        try:
            pid = self.home.spawn(argv, env, self.workdir, self.job.paths.log, self.holding.join)
        except (OSError, ValueError) as error:
            raise SetupError("cannot run %s: %s" % (argv[0], error)) from None
        self.tree.groups.add(pid)
        self._pid = pid
        if self.holding.look_at(pid):
            self.state["facts"] = self.holding.facts()
            self.facts.update(self.state["facts"])
            self._save()
        self._await(pid, "timeout", step.get("timeout_s"))
        self.status = self.home.ended[pid]
        self.is_ok = verdict.is_ok(self.status, step)
        self._ran_s = age_s(self.state["started"])
        self.disk = (
            {} if self.is_ok else evidence.full_disk([self.job.paths.dir, self.workdir, *volumes.links(self.job)])
        )

    def _await(self, pid: int, limit: str, bound: Optional[float]) -> None:
        until = kernel.boottime_s() + bound if bound else None
        while pid not in self.home.ended:
            try:
                self._pause(self._tick_s(), until, {"limit": limit, "limit_s": bound})
            except Cut:
                if pid not in self.home.ended:
                    raise

    def _settle(self) -> None:
        """What the command left behind: waited for, or ended and named in the log."""
        waits = self.plan.get("leftovers") == "wait" and self.is_ok
        if waits:
            self._await_leftovers()
            return
        if not self.tree.members():
            return
        patience = kernel.boottime_s() + min(SETTLE_S, self.bounds.grace_s())
        while self.tree.members() and kernel.boottime_s() < patience:
            self.home.wait(0.05)
        left = self.tree.members()
        if not left:
            return
        self.facts["left_behind"] = ["%d %s" % (member.pid, member.comm) for member in left[:20]]
        self._note_last_lines()
        logs.append(self.job.paths, "[left behind by the command, stopped: %s]" % ", ".join(self.facts["left_behind"]))
        self._end_tree()

    def _await_leftovers(self) -> None:
        left = self.tree.members()
        waited = bool(left)
        while left:
            if self.facts.get("leftovers") != len(left) or self.state["phase"] != "leftovers":
                self.facts["leftovers"] = len(left)
                self.state["facts"] = self.facts
                self._enter("leftovers", "RUNNING", "Leftovers")
            self._pause(self._tick_s())
            left = self.tree.members(thorough=False) or self.tree.members()
        self.facts.pop("leftovers", None)
        self._ran_s = age_s(self.state["started"]) if self.state.get("started") else None
        code = finish.exit_file_code(self.job)
        if code is not None:
            self.status, self.is_ok = code, code == 0 or code in self._last_ok_codes()
        elif waited:
            by = takedown.announced_by(self.job)
            if by:
                raise Cut(stop={"reason": "taken down", "by": "down"})
            self.facts["exit_unknown"] = True

    def _last_ok_codes(self) -> List[int]:
        todo = stage.todo(self.job)
        return list(todo[-1].get("ok_codes", ())) if todo else []

    # -- meanwhile ------------------------------------------------------------------------------------------------

    def _pause(self, seconds: float, until: Any = None, limit: Any = None, also: Sequence[int] = ()) -> None:
        """Wait for a signal, news on `also`, or `seconds`; Cut when an order has come or a deadline has passed."""
        self.bounds.wait(seconds, until, also)
        self.meter.look()
        self.holding.tidy()
        self.bounds.check(until, limit)

    def _tick_s(self) -> float:
        """Orders come with a signal, ends too: what is left to look after is memory, the seldomer the older the job.

        A thousand quiet jobs shall cost their host next to nothing. A log with a cap, or a job that may become an
        orphan, needs more.
        """
        if self.limits.get("log_limit_bytes") or not self.state.get("started"):
            return TICK_S
        slowest = _SLOWEST_TICK_S if orphan.after_s(self.job) is None else _ORPHAN_TICK_S
        return min(slowest, max(TICK_S, _SELDOMER * age_s(self.state["started"])))

    # -- the end --------------------------------------------------------------------------------------------------

    def _end_tree(self) -> None:
        from airflow_jobdeploy.hostside import messages  # needed at the end only

        self._note_last_lines()
        begun = kernel.boottime_s()
        wait: Callable[[float], None] = self.home.wait
        order = self.cut.preempt if self.cut.stop is None else None
        if order is not None:
            self._enter(self.state["phase"], "RUNNING", "Preempted")
        number = verdict.signal_number((order or {}).get("signal") or self.limits.get("signal", "SIGTERM"))
        news = messages.Checkpoints(self.job.paths.messages)

        def left_s() -> float:
            if order is not None and news.came():  # it has saved what it needs: no reason to wait for more
                order["checkpointed"] = True
                return 0.0
            return begun + self.bounds.grace_s() - kernel.boottime_s()

        self.tree.end(number, left_s, wait)
        if order is not None and news.came():  # the last thing it did
            order["checkpointed"] = True
        self.home.wait(0)  # what has ended last may not be reaped yet
        if self.status is None:
            self.status = self.home.ended.get(self._pid)
        if self.tree.beyond:
            self.facts["left_behind"] = sorted(self.tree.beyond.values())

    def _note_last_lines(self) -> None:
        if "last_lines" not in self.facts:
            self.facts["last_lines"] = logs.last_lines(logs.tail(self.job.paths), self.secrets.values())

    def _outcome(self) -> Dict[str, Any]:
        self.meter.cap_log()
        self._note_last_lines()
        started = self.state.get("started")
        used = self.meter.used_bytes()
        ran_s = self._ran_s if self._ran_s is not None or not started else age_s(started)
        seen = verdict.Evidence(
            status=self.status,
            is_ok=self.is_ok,
            step=self.state.get("step", ""),
            setup=self.setup,
            limit=self.cut.limit,
            stop=self.cut.stop,
            preempt=self.cut.preempt,
            orphan=self.cut.orphan,
            memory=self.holding.shortage(self.meter.shortage(used)),
            disk=self.disk or None,
            facts=self._hinted(),
        )
        outcome = verdict.judge(seen)
        outcome["running_s"] = ran_s
        outcome["usage"] = {"wall_s": ran_s or 0.0, "cpu_s": house.cpu_s(), "peak_memory_bytes": used}
        return outcome

    def _hinted(self) -> Dict[str, Any]:
        facts = {**self.facts, **self.meter.facts}
        if self.is_ok or "hint" in facts:
            return facts
        path = self.plan.get("env", {}).get("PATH") or os.environ.get("PATH", os.defpath)
        hint = evidence.hint(logs.tail(self.job.paths), self.job.temporary()) or evidence.status_hint(self.status, path)
        return {**facts, "hint": hint}

    def _enter(self, phase: str, status: str, reason: str) -> None:
        enter(self.state, phase, status, reason)
        self._save()

    def _save(self) -> None:
        try:
            self.job.write_state(self.state)
        except OSError:  # its blocks are reserved: only a broken disk gets here, and exit.json tells the rest
            pass
