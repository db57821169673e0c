"""What a session can be asked, one method an op; the table is in serve.py. More: fileops.py, treeops.py, lineops.py."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable, Dict, List, Optional

from airflow_jobdeploy.hostside import (
    collect,
    cordon,
    environment,
    facts,
    files,
    identity,
    jobdir,
    launch,
    layout,
    life,
    moves,
    orphan,
    plans,
    recover,
    resources,
    takedown,
    treeops,
)
from airflow_jobdeploy.hostside.fileops import FileOps
from airflow_jobdeploy.hostside.gpus import Gpus
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.judge import Judge, age_of_claim
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.protocol import OpError, Reply
from airflow_jobdeploy.hostside.watcher import Watcher

if TYPE_CHECKING:
    from airflow_jobdeploy.hostside.lineops import LineOps

#: Of what was collected so much is named: an answer has at most 64 KiB.
COLLECT_LIMIT = 250
#: How long a job's lock may be held by a probe, and by the supervisor of a job that has ended, in seconds.
_PROBE_S, _LEAVING_S = 0.2, 5.0


class Ops:
    """The ops of one session on one root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.watcher: Optional[Watcher] = None
        self.judge: Optional[Judge] = None
        self._host: Optional[HostPaths] = None
        self._trees: Optional[treeops.TreeOps] = None
        self.line: Optional[LineOps] = None
        #: Tells the client during a long answer that it is being worked on.
        self.pulse: Callable[[], None] = lambda: None
        self._env: Dict[str, str] = {}
        self._cache_limit: Optional[int] = None
        #: Where its tools are is told by the PATH of jobs, which `hello` finds.
        self.gpus = Gpus("")

    # -- the session ----------------------------------------------------------------------------------------------

    def hello(self, ask: dict) -> Reply:
        root = os.path.abspath(self.root)
        files.private_dir(root)
        host = HostPaths(root, identity.machine(root))
        files.private_dir(host.host)
        mode = ask.get("env_mode", "login")
        if mode not in ("login", "inherit"):
            raise OpError("bad-request", "env_mode is %r, expected login or inherit" % mode)
        self._env = environment.base(host, mode, ask.get("path"))
        self._host = host
        self.judge = Judge(host)
        limit = ask.get("cache_limit_bytes")
        self._cache_limit = limit if isinstance(limit, int) else None
        self._trees = treeops.TreeOps(host, _who(ask), self._cache_limit, self.pulse)
        facts.sweep_stale(host)
        collect.in_background(host, self._cache_limit)
        self.gpus = Gpus(self._env["PATH"])
        return Reply(facts.hello(host, mode, self.gpus))

    def bye(self, _: dict) -> Reply:
        return Reply()

    @property
    def host(self) -> HostPaths:
        if self._host is None:
            raise OpError("bad-request", "the first request of a session is hello")
        return self._host

    @property
    def trees(self) -> treeops.TreeOps:
        self.host  # noqa: B018 - hello first
        assert self._trees is not None
        return self._trees

    @property
    def job_files(self) -> FileOps:
        return FileOps(self.host)

    @property
    def lines(self) -> LineOps:
        """Made when first asked for: it is a look at all that is claimed on this host."""
        if self.line is None:
            from airflow_jobdeploy.hostside.lineops import LineOps  # not in every session's memory

            self.line = LineOps(self.host, self.gpus)
        return self.line

    def _job(self, ask: dict) -> Job:
        return jobdir.known(self.host, ask["job"])

    def _view(self, job: Job) -> dict:
        assert self.judge is not None
        state = self.judge.views([job.id])[job.id]
        if state is None:
            raise OpError("no-such-job", "job %s has been forgotten meanwhile" % job.id)
        return state

    # -- life of a job --------------------------------------------------------------------------------------------

    def claim(self, ask: dict) -> Reply:
        plan, secrets = ask["plan"], ask.get("secrets") or {}
        plans.check(plan)
        job = Job(self.host, plan["job_id"])
        new = False
        if not job.exists:
            self._check_build(plan)
            directory = jobdir.build(self.host, plan, secrets)
            if plan.get("resource"):
                self._make_resource(plan, directory)
            new = jobdir.publish(self.host, job.id, directory)
        moves.supersede(self.host, plan)
        orphan.asked(job)
        if (plan.get("lease") or {}).get("id"):
            self.lines.stay(job.id, plan["lease"]["id"])
        return Reply(new=new, state=self._view(job))

    def _make_resource(self, plan: dict, directory: str) -> None:
        workdir = plan.get("workdir") or ""
        try:
            resources.make(self.host, plan, environment.expand(workdir, self._env.get("HOME", "/")) if workdir else "")
        except BaseException:
            files.remove_tree(directory)
            raise

    def _check_build(self, plan: dict) -> None:
        resource, build = plan.get("resource_id"), plan.get("build")
        if not resource:
            return
        stored = plan["resource"] if plan.get("resource") else resources.record(self.host, resource)
        if stored is None:
            if build in takedown.ENDS:
                return
            raise OpError("no-such-resource", "this worker knows no resource %s: was it purged?" % resource)
        known = sorted(stored["builds"]) if plan.get("resource") else stored.get("build_names", [])
        if build not in known:
            raise OpError(
                "no-such-build", "resource %s has no build %r; it has: %s" % (resource, build, ", ".join(known))
            )

    def start(self, ask: dict) -> Reply:
        job = self._job(ask)
        state = self._view(job)
        if state.get("phase") == "claimed":
            successor = moves.moved_to(job)
            if successor is not None:
                text = "attempt %(attempt)s on %(worker)s has taken the place of" % successor
                raise OpError("moved", "%s job %s: it is not started again" % (text, job.id))
            treeops.check_given(job)
            trouble = ""
            try:
                launch.start(job, self._env)
            except launch.NotStarted as error:
                trouble = str(error)
            state = self._view(job)
            if trouble and state.get("phase") == "claimed":
                raise OpError("failed", trouble)
        if self.line is not None:
            self.line.settled(job.id)
        return Reply(state=state)

    def stop(self, ask: dict) -> Reply:
        job = self._job(ask)
        order = {key: ask.get(key) for key in ("reason", "by", "grace_s")}
        if not isinstance(order["grace_s"], (int, float, type(None))):
            raise OpError("bad-request", "grace_s is %r, expected seconds or null" % order["grace_s"])
        state = self._view(job)
        if state.get("phase") in (None, "ended"):
            if state.get("reason") == "NewerLayout":
                raise OpError("newer-layout", state["message"])
            return Reply(state=state)
        if state["phase"] == "claimed" and recover.end_unstarted(job, recover.cancelled(order)):
            self._give_back(job)
        else:
            takedown.send_order(job, order)
        return Reply(state=self._view(job))

    def _give_back(self, job: Job) -> None:
        """The lease of a job that will never start."""
        held = (job.plan().get("lease") or {}).get("id")
        if held:
            self.lines.settled(job.id)
            self.lines.release({"lease": held})

    def preempt(self, ask: dict) -> Reply:
        job = self._job(ask)
        order = {key: ask.get(key) for key in ("reason", "by", "grace_s", "signal")}
        if not isinstance(order["grace_s"], (int, float, type(None))):
            raise OpError("bad-request", "grace_s is %r, expected seconds or null" % order["grace_s"])
        state = self._view(job)
        if state.get("phase") in (None, "ended"):
            return Reply(state=state)
        if state["phase"] == "claimed" and recover.end_unstarted(job, recover.suspended(order)):
            self._give_back(job)
        else:
            takedown.send_preempt(job, order)
        return Reply(state=self._view(job))

    def renew(self, ask: dict) -> Reply:
        assert self.judge is not None
        for name in ask["jobs"]:
            job = self.judge.job(name)  # knows its plan: of 500 jobs that live on anyway nothing is read
            if job.exists:
                orphan.asked(job)
        return Reply()

    def extend(self, ask: dict) -> Reply:
        job = self._job(ask)
        life.extend(job, self._view(job), ask.get("seconds"), ask.get("token"))
        return Reply(state=self._view(job))

    def move(self, ask: dict) -> Reply:
        moves.note(self._job(ask), {key: ask[key] for key in ("job_id", "attempt", "worker")})
        return Reply()

    def own(self, ask: dict) -> Reply:
        job = self._job(ask)
        if ask.get("owner") not in ("task", "none"):
            raise OpError("bad-request", "owner is %r, expected task or none" % ask.get("owner"))
        job.plan()
        files.write_json(job.paths.owner, {"owner": ask["owner"]})
        return Reply()

    def cordon(self, ask: dict) -> Reply:
        assert self.host is not None
        return Reply(cordoned=cordon.change(self.host.cordon, ask))

    def forget(self, ask: dict) -> Reply:
        job = self._job(ask)
        lock = job.lock()
        try:
            plan = job.plan()
            if not lock.take(_LEAVING_S if job.has_ended else _PROBE_S) or not _is_idle(job):
                raise OpError("active", "job %s has not ended: stop it first" % job.id)
            jobdir.retire(self.host, job.paths.dir)
        except files.Damaged:
            jobdir.retire(self.host, job.paths.dir)
            return Reply()
        finally:
            lock.release()
        collect.forget_uid(self.host, plan)
        return Reply()

    def collect(self, ask: dict) -> Reply:
        found = collect.sweep(self.host, self._cache_limit, bool(ask.get("dry_run")), lambda: self.pulse())
        return Reply(items=found[:COLLECT_LIMIT], more=max(0, len(found) - COLLECT_LIMIT))

    # -- asking ---------------------------------------------------------------------------------------------------

    def poll(self, ask: dict) -> Reply:
        self.host  # noqa: B018 - hello first
        assert self.judge is not None
        return Reply(states=self.judge.views(ask["jobs"]))

    def watch(self, ask: dict) -> Reply:
        self.host  # noqa: B018 - hello first
        assert self.judge is not None
        if self.watcher is not None:
            self.watcher.close()
        self.watcher = Watcher(self.judge, ask["jobs"])
        return Reply(states=self.watcher.first)

    def jobs(self, ask: dict) -> Reply:
        assert self.host is not None
        assert self.judge is not None
        known = [Job(self.host, name) for name in facts.job_names(self.host)]
        if ask.get("live_only"):
            known = [job for job in known if not job.has_ended]
        known.sort(key=age_of_claim)
        wanted = ask.get("deployment")
        rows: List[dict] = []
        for job in known:
            plan = plans.shown(job)
            if wanted is not None and plan.get("key", {}).get("deployment") != wanted:
                continue
            state = self.judge.views([job.id])[job.id]
            if state is not None and plan:
                rows.append({"plan": plan, "state": state})
        return Reply(jobs=rows)

    def resource(self, ask: dict) -> Reply:
        record = resources.record(self.host, layout.checked_name(ask["resource"]))
        if record is not None:
            for key in ("created", "stopped"):
                record[key + "_ago_s"] = jobdir.age_s(record[key]) if record.get(key) else None
        return Reply(record=record)


def _is_idle(job: Job) -> bool:
    return job.has_ended or job.state().get("pid") is None


def _who(ask: dict) -> str:
    return "process %d on %s, for release %s" % (os.getpid(), os.uname().nodename, ask.get("client") or "unknown")
