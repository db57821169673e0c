"""The trigger that waits for jobs, and tells their log meanwhile. (line.py has the one that waits for workers.)

All triggers of a triggerer share one watcher thread a worker (service/watching.py), which owns the
connection; here only its news arrive. A trigger keeps nothing but what is in its arguments and two XComs
of its task instance: how far the log was told (CHECKPOINT), and which try deferred (DEFERRED_BY).

It never judges a job: it says what the worker said. It stops one only when a person acted on the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_jobdeploy.core.messages import PROGRESS_EVERY_S, Announcer
from airflow_jobdeploy.core.status import JobHandle, JobState, Reason
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.service import Follower, Subscription, Update, Watcher, narrated
from airflow_jobdeploy.triggers.events import Followed, JobEvent
from airflow_jobdeploy.triggers.goals import reached, settles
from airflow_jobdeploy.triggers.watchers import Watchers

#: XCom: {"job_id", "from", "offset"}: how far the log of a job was told, by triggers that began at "from"; offset
#: None: none has begun. The task writes that, since a triggerer logs an error for each XCom that it does not find.
CHECKPOINT = "jobdeploy_checkpoint"
#: XCom: the id of the task instance that deferred; another one there means that a newer try has taken over.
DEFERRED_BY = "jobdeploy_try"

#: So much log at a job's end is told here; more of it is left to the task process, which holds up nobody.
LEAVE_BYTES = 1024 * 1024
#: A follower that begins here reads no log.
_NO_LOG = 2**62


class JobTrigger(BaseTrigger):
    """Waits until every job of `jobs` has reached `goal`, or one of them never will.

    `jobs`: handles. `goal`: words of `triggers.goals`; `all_must`: fire at once when one job has ended
    without reaching it. `offset`: where the log of the (one) job goes on; None: tell no log. `local`: the
    jobs are on the task's own machine. `owned`: the task started the jobs, so killing it stops them.
    """

    def __init__(
        self,
        *,
        jobs: Sequence[Mapping[str, Any]],
        goal: Sequence[str] = (),
        offset: int | None = 0,
        local: bool = False,
        owned: bool = True,
        poll_interval: float = 1.0,
        checkpoint_interval: float = 45.0,
    ) -> None:
        super().__init__()
        self.jobs = [dict(job) for job in jobs]
        self.goal = list(goal)
        self.offset = offset
        self.local = local
        self.owned = owned
        self.poll_interval = poll_interval
        self.checkpoint_interval = checkpoint_interval
        self._followed: dict[str, Followed] = {}
        self._watchers = Watchers()
        self._told: dict[str, tuple[str, str]] = {}
        self._announcer = Announcer()
        self._saved_offset = -1
        self._saved_at = 0.0
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("jobs", "goal", "offset", "local", "owned", "poll_interval", "checkpoint_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    # -- waiting -----------------------------------------------------------------------------------------------

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: `JobEvent.to_dict()`."""
        handles = [JobHandle.from_dict(job) for job in self.jobs]
        begin = await self._resumed(handles[0]) if self.offset is not None else _NO_LOG
        self._followed = {handle.job_id: Followed(handle=handle, state=None, offset=begin) for handle in handles}
        await self._watchers.locate((handle.worker_pool, handle.worker) for handle in handles)
        news: asyncio.Queue[Update] = asyncio.Queue()
        subscriptions = [self._follow(handle, begin, news) for handle in handles]
        try:
            event = await self._outcome(news)
        finally:
            for subscription in subscriptions:
                subscription.close()
        self._fired = True
        yield TriggerEvent(event.to_dict())

    def _follow(self, handle: JobHandle, offset: int, news: asyncio.Queue[Update]) -> Subscription:
        follower = Follower(
            handle.job_id,
            deliver=runtime.on_loop(asyncio.get_running_loop(), news.put_nowait),
            offset=offset,
            machine=handle.machine,
            until=settles(self.goal),
            leave_bytes=LEAVE_BYTES,
            lost_after_s=handle.lost_after_s,
        )
        return self._watcher(handle).follow(follower)

    def _watcher(self, handle: JobHandle) -> Watcher:
        return self._watchers.get(handle.worker_pool, handle.worker, self.task_instance)

    async def _outcome(self, news: asyncio.Queue[Update]) -> JobEvent:
        waiting = set(self._followed)
        while waiting:
            for update in await self._gathered(news):
                job_id = update.state.job_id
                self._take(update)
                if self._is_elsewhere(update.state):
                    return JobEvent(jobs=tuple(self._followed.values()), elsewhere=True)
                if update.over:
                    waiting.discard(job_id)
                    if self._hopeless(update.state):
                        waiting.clear()
            await self._checkpoint_in_time()
        return JobEvent(jobs=tuple(self._followed.values()))

    def _is_elsewhere(self, state: JobState) -> bool:
        """Does this machine know nothing of a job of "this" machine? Then it is not the task's."""
        return self.local and state.reason in (Reason.WORKER_CHANGED, Reason.RECORD_MISSING)

    def _hopeless(self, state: JobState) -> bool:
        """Has a job ended without reaching what all were to reach?"""
        return bool(self.goal) and not reached(self.goal, state)

    async def _gathered(self, news: asyncio.Queue[Update]) -> list[Update]:
        """The next news, and what else comes within `poll_interval`; an end is told at once."""
        loop = asyncio.get_running_loop()
        found = [await self._first(news)]
        until = loop.time() + self.poll_interval
        while not found[-1].over and loop.time() < until:
            try:
                found.append(await asyncio.wait_for(news.get(), until - loop.time()))
            except asyncio.TimeoutError:
                break
        return _merged(found)

    async def _first(self, news: asyncio.Queue[Update]) -> Update:
        while True:
            try:
                return await asyncio.wait_for(news.get(), self._patience_s())
            except asyncio.TimeoutError:
                self._announce(is_last=False)
                await self._checkpoint_in_time()

    def _patience_s(self) -> float | None:
        """Until there is something to say or to note without further news; None: for ever, as for most quiet jobs."""
        if self._announcer.is_pending:
            return min(PROGRESS_EVERY_S, self.checkpoint_interval)
        return self.checkpoint_interval if self._unsaved() else None

    def _take(self, update: Update) -> None:
        """Tell what is new, and remember it for the event."""
        state = update.state
        if update.text:
            self.log.info("%s", update.text.removesuffix("\n"))
        line = narrated(state)
        if line and self._told.get(state.job_id) != (state.status.value, state.reason):
            self.log.info("%s", line)
        self._told[state.job_id] = (state.status.value, state.reason)
        if self.offset is not None:  # of several jobs, or of one that is not the task's, only the end is told
            self._announcer.take(state.messages)
            self._announce(is_last=update.over)
        handle = self._followed[state.job_id].handle
        self._followed[state.job_id] = Followed(handle=handle, state=state, offset=update.offset)

    def _announce(self, *, is_last: bool) -> None:
        lines = self._announcer.lines(asyncio.get_running_loop().time(), is_last=is_last)
        if lines:
            self.log.info("%s", "\n".join(lines))

    # -- the log's checkpoint ----------------------------------------------------------------------------------

    async def _resumed(self, handle: JobHandle) -> int:
        """Where to begin with the log: at the checkpoint of a trigger before this one, if this is the same wait."""
        assert self.offset is not None
        if self.task_instance is None:  # dag.test
            return self.offset
        saved = await runtime.read_xcom(self.task_instance, CHECKPOINT) or {}
        if {**untold(handle, self.offset), "offset": saved.get("offset")} == saved and saved["offset"] is not None:
            self._saved_offset = max(self.offset, int(saved["offset"]))
            self.log.info(
                "[watched from here by another triggerer process; lines after byte %d of the log may stand here twice]",
                self._saved_offset,
            )
            return self._saved_offset
        await self._save(handle, self.offset)
        return self.offset

    async def _checkpoint_in_time(self) -> None:
        if asyncio.get_running_loop().time() - self._saved_at >= self.checkpoint_interval:
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Note how far the log was told, if that has changed."""
        followed = self._unsaved()
        if followed is not None:
            await self._save(followed.handle, followed.offset)

    def _unsaved(self) -> Followed | None:
        """The job whose log has been told further than is noted."""
        if self.offset is None or self.task_instance is None or not self._followed:
            return None
        (followed,) = self._followed.values()
        return followed if followed.offset != self._saved_offset else None

    async def _save(self, handle: JobHandle, offset: int) -> None:
        assert self.offset is not None
        value = {**untold(handle, self.offset), "offset": offset}
        await runtime.write_xcom(self.task_instance, CHECKPOINT, value)
        self._saved_offset = offset
        self._saved_at = asyncio.get_running_loop().time()

    # -- the end of the trigger --------------------------------------------------------------------------------

    async def cleanup(self) -> None:
        """Called at every end, also when the triggerer restarts: no job is touched."""
        if self._fired:
            return
        try:
            await self._checkpoint()
        except runtime.CANNOT_ASK as error:
            self.log.warning("Cannot note how far the log was told (%s); some lines may be told twice.", error)

    async def on_kill(self) -> None:
        """A person acted on the deferred task: stop the jobs, unless the trigger was merely moved.

        Airflow cancels this after about one second, so the stops go to the watcher's thread. The marker tells a
        move (same try, still deferred) from a clear whose next try has already deferred again. When Airflow
        cannot be asked nothing is done: the reaper decides.
        """
        if self._fired or not self.owned or self.task_instance is None:
            return
        ti = self.task_instance
        try:
            marker = await runtime.read_xcom(ti, DEFERRED_BY)
            state = await runtime.task_state_async(ti)
        except runtime.CANNOT_ASK as error:
            self.log.warning("Cannot ask Airflow what became of the task (%s); its job goes on for now.", error)
            return
        if state == "deferred" and marker == str(ti.id):
            return
        for handle in map(JobHandle.from_dict, self.jobs):
            self._watcher(handle).stop_job(handle.job_id, reason=f"the task was set to {state}", by="Airflow")
            self.log.info("Job %s is being stopped: the task was set to %s.", handle.job_id, state)


def untold(handle: JobHandle, offset: int) -> dict[str, Any]:
    """The checkpoint of a log that is to be told from `offset` on, before a trigger has begun."""
    return {"job_id": handle.job_id, "from": offset, "offset": None}


def _merged(updates: Sequence[Update]) -> list[Update]:
    """Neighbouring news of one job as one: one log record for many lines (500 records hold up the loop for 0.1 s)."""
    merged: list[Update] = []
    for update in updates:
        last = merged[-1] if merged else None
        if last is not None and last.state.job_id == update.state.job_id:
            merged[-1] = Update(
                state=update.state, text=last.text + update.text, offset=update.offset, over=update.over
            )
        else:
            merged.append(update)
    return merged
