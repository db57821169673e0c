"""Waiting for news of an engine's jobs, at a cost that does not grow with their number.

Ends and starts are told by the engine (feed.py). What it does not tell is looked at: how far the logs have grown, in
turns and the seldomer the quieter a log is, all together at most LOOKS_PER_S times a second; jobs that wait or change
inside their container; and now and then everything, in case something was missed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from airflow_jobdeploy.backends.engine import slots
from airflow_jobdeploy.backends.engine.api import Engine, EngineError, Http
from airflow_jobdeploy.backends.engine.feed import Feed
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.line import SELDOM_S, Line
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.waker import Waker
from airflow_jobdeploy.core.status import JobState

#: Looks at logs in a second, of all jobs together; the pauses between two at one log, in seconds.
LOOKS_PER_S = 4.0
_SOON_S, _SLOWER = 0.1, 2.0
#: Looks that are not soon come in rounds, so far apart, in seconds; when nobody will be asked for so long, the
#: connection for questions is let go of.
_ROUNDS_S, _IDLE_S = (3.0, 1.0), 2.0
#: Of the longest pause, the first of a job that has just come to be watched and is quiet.
_STEPS = 4
#: Between two looks at a job that changes without the engine's telling, and at everything, in seconds.
_RESTLESS_S = 0.25
#: Phases that end without the engine's telling.
_RESTLESS = ("claimed", "starting", "waiting", "leftovers", "finishing")
#: An end is told before a listing shows it: so long, and so often, it is looked for.
_ENDING_S, _ENDING_LOOK_S = 2.0, 0.03
#: So many jobs are asked for one by one when they are told of, more by a listing of all.
_FEW = 3
#: So long what a start has found is fit to be told by the first watch, in seconds.
_FRESH_S = 0.1
#: So far back events are asked for at first, in seconds.
_BEFORE_S = 10.0
_COMPARE_S, _COMPARE_BLIND_S = 10.0, 1.0
#: An engine that has not answered for so long is asked for a sign of life, and has so long to give it.
_SILENCE_S, _SIGN_S = 3.0, 6.0

Told = Callable[[str, JobState | None], JobState]
Advance = Callable[[Iterable[str], Listing], bool]


@dataclass
class _Job:
    """What was seen of one job, and when to look at its log again."""

    state: JobState
    mark: str
    due: float
    pause_s: float = _SOON_S
    looks: int = 0

    @property
    def is_quiet(self) -> bool:
        """Does nothing but its log grow, until the engine tells? The others are looked at as a whole."""
        return self.state.phase == "running" and not self.is_restless

    @property
    def is_queued(self) -> bool:
        """Does it wait for what others have? The engine tells when that is released."""
        return self.state.phase == "waiting" and self.state.reason == "Queued"

    @property
    def is_restless(self) -> bool:
        """Does it change without the engine's telling?"""
        phase, reason = self.state.phase, self.state.reason
        if self.is_queued:
            return False
        return phase in _RESTLESS or (phase == "running" and bool(reason))


class EngineWatch:
    """The watch of one backend. `wake` and `close` may be called from any thread."""

    def __init__(self, *, worker: str, connect: Callable[[], Http]) -> None:
        self._worker = worker
        self._connect = connect
        self._waker = Waker()
        self._woken = False
        self._feed: Feed | None = None
        self._jobs: dict[str, _Job] = {}
        self._expected: set[str] = set()
        self._begun: dict[str, JobState] = {}
        self._begun_at = 0.0
        self._compared = self._restless_at = 0.0
        self._listing: Listing | None = None
        self._queued_at = 0.0
        #: The engine has told that something was released: for who stands in line beside the jobs.
        self._has_room = False
        #: It has, and those of the jobs that wait have not been looked at since.
        self._has_slot = False
        #: Jobs of which the engine has told an end that its listing may show some moments later; until when.
        self._ending: dict[str, float] = {}
        #: Those of them that its listing does not show yet.
        self._dying: set[str] = set()

    def wake(self) -> None:
        self._woken = True
        self._waker.wake()

    def expect(self, job_id: str) -> None:
        """Something was just done to a job."""
        self._expected.add(job_id)

    def begin(self, state: JobState, listing: Listing) -> None:
        """A job was started just now, and this was found: the engine tells of its end, which may be near."""
        self._listing = listing
        self._begun, self._begun_at = {state.job_id: state}, time.monotonic()

    def close(self) -> None:
        self.reset()
        self._waker.close()

    def reset(self) -> None:
        """The engine could not be asked: begin anew."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
        self._compared = 0.0

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait(
        self,
        engine: Engine,
        jobs: Jobs,
        job_ids: Sequence[str],
        timeout_s: float,
        told: Told,
        advance: Advance,
        line: Line,
    ) -> dict[str, JobState]:
        """See `Backend.watch`. `advance`: starts jobs that wait for a slot, if there is one; `line`: has its turns."""
        self._advance = advance
        self._listen(jobs)
        wanted = dict.fromkeys(job_ids)
        self._jobs = {job_id: job for job_id, job in self._jobs.items() if job_id in wanted}
        until = time.monotonic() + timeout_s
        while True:
            changed = self._look(jobs, list(wanted), told)
            is_granted = line.turn(self._take_room())
            left = until - time.monotonic()
            if changed or is_granted or self._woken or left <= 0:
                self._woken = False
                return changed
            self._check_alive(engine)
            patience_s = min(self._patience_s(engine), self._bound_s(line))
            if patience_s >= _IDLE_S:
                engine.rest()
            self._waker.wait(min(left, patience_s))

    def wait_in_line(self, engine: Engine, jobs: Jobs, timeout_s: float, line: Line) -> None:
        """Give the line its turns until it has something to tell, at most so long, or until `wake`."""
        until = time.monotonic() + timeout_s
        if line.is_waiting:
            self._listen(jobs)
        while not line.turn(self._take_room()):
            left = until - time.monotonic()
            if self._woken or left <= 0:
                break
            if line.is_waiting:
                self._check_alive(engine)
            self._waker.wait(min(left, self._bound_s(line), _SILENCE_S))
        self._woken = False

    def _listen(self, jobs: Jobs) -> None:
        if self._feed is None:
            # From before now: a listing may not show yet what has just been told, and clocks are not the same.
            since = jobs.now - _BEFORE_S
            self._feed = Feed(worker=self._worker, connect=self._connect, since=since, ring=self._waker.wake)

    def _bound_s(self, line: Line) -> float:
        """How long the line can wait for its turn."""
        due_s = line.patience_s()
        if due_s is None or self._feed is None:
            return SELDOM_S
        return min(due_s, self._feed.echo_s())

    def _take_room(self) -> bool:
        has_room, self._has_room = self._has_room, False
        return has_room or (self._feed is not None and self._feed.take_room())

    def _look(self, jobs: Jobs, wanted: Sequence[str], told: Told) -> dict[str, JobState]:
        now = time.monotonic()
        assert self._feed is not None
        begun = self._first_of_begun(wanted, told)
        heard, queued = self._feed.take(), {job_id for job_id, job in self._jobs.items() if job.is_queued}
        told_of = (heard.keys() | self._expected) & set(wanted)
        self._dying = {job_id for job_id in (*self._dying, *heard) if heard.get(job_id, True)} - self._expected
        self._expected = set()
        self._ending.update(dict.fromkeys(told_of, now + _ENDING_S))
        self._ending = {job: until for job, until in self._ending.items() if until > now and not self._is_over(job)}
        rung = told_of | (set(self._ending) & set(wanted))
        rung |= {job_id for job_id in wanted if job_id not in self._jobs}
        rung |= self._released(queued, now, jobs.now)
        looked_at, is_few = set(rung), len(rung) <= _FEW and rung <= told_of | self._ending.keys()
        if now - self._compared >= self._compare_s:
            self._compared, rung, is_few = now, set(wanted) - begun.keys(), False
        if now - self._restless_at >= _RESTLESS_S:
            self._restless_at = now
            restless = {job_id for job_id, job in self._jobs.items() if job.is_restless}
            rung, looked_at, is_few = rung | restless, looked_at | restless, is_few and not restless
        changed = self._asked(jobs, rung, looked_at, told, is_few) if rung else {}
        grown = self._grown(jobs, [job_id for job_id in wanted if job_id not in rung])
        return {**begun, **grown, **changed}

    def _released(self, queued: Collection[str], now: float, engine_now: float) -> set[str]:
        """Those of the jobs that wait for others to be looked at: something was released, or their time may be over."""
        assert self._feed is not None
        started, has_room = self._feed.take_started(), self._feed.take_room()
        self._has_room = self._has_room or has_room
        self._has_slot = self._has_slot or has_room
        if not queued:
            self._has_slot = False
            return set()
        if now - self._queued_at >= (_SOON_S if self._has_slot else SELDOM_S):
            self._queued_at, self._has_slot = now, False
            return set(queued)
        return {job_id for job_id in queued if job_id in started or self._is_due(job_id, engine_now)}

    def _is_due(self, job_id: str, now: float) -> bool:
        """By what the last listing says of it."""
        listing = self._listing
        if listing is None or job_id not in listing.containers or job_id not in listing.volumes:
            return True
        if slots.too_late(listing, job_id, now) is not None:
            return True
        return not slots.is_early(listing, job_id, now) and slots.is_early(listing, job_id, now - _RESTLESS_S)

    def _first_of_begun(self, wanted: Collection[str], told: Told) -> dict[str, JobState]:
        """What the start of a job has found, for its first watch: nothing is asked."""
        begun, self._begun = self._begun, {}
        if time.monotonic() - self._begun_at > _FRESH_S:
            return {}
        fresh = {job_id: told(job_id, state) for job_id, state in begun.items() if job_id in wanted}
        news = {job_id: state for job_id, state in fresh.items() if self._is_news(job_id, state)}
        if fresh:
            self._restless_at = time.monotonic()
        return news

    def _is_over(self, job_id: str) -> bool:
        return job_id in self._jobs and self._jobs[job_id].state.phase == "ended"

    @property
    def _compare_s(self) -> float:
        return _COMPARE_S if self._feed is not None and self._feed.is_open else _COMPARE_BLIND_S

    def _asked(
        self, jobs: Jobs, job_ids: Collection[str], looked_at: Collection[str], told: Told, is_few: bool
    ) -> dict[str, JobState]:
        """What differs. Jobs that are not `looked_at` are compared with the listing alone: their logs have turns.

        `is_few`: nothing else has changed.
        """
        before = self._listing if is_few else None
        self._listing = jobs.listing() if before is None else jobs.relisted(before, job_ids)
        if self._advance(job_ids, self._listing):
            self._listing = jobs.listing()
        found = {}
        self._dying = {job_id for job_id in self._dying & self._ending.keys() if self._listing.is_live(job_id)}
        for job_id in job_ids:
            if job_id in self._dying and job_id in self._jobs:
                continue  # what it reports now is not the last
            state = jobs.state(job_id, self._listing, counts_log=job_id in looked_at)
            if state is not None and state.phase == "ended" and job_id not in looked_at:
                state = jobs.state(job_id, self._listing)  # an end that was not told: with the rest of its log
            found[job_id] = told(job_id, state)
        return {job_id: state for job_id, state in found.items() if self._is_news(job_id, state)}

    def _grown(self, jobs: Jobs, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Running jobs whose log has grown, of those whose turn it is."""
        now = time.monotonic()
        running = [job_id for job_id in job_ids if self._jobs[job_id].is_quiet]
        longest = max(1.0, len(running) / LOOKS_PER_S)
        found: dict[str, JobState] = {}
        for job_id in running:
            job = self._jobs[job_id]
            if job.due > now or self._listing is None:
                continue
            log = jobs.log(job_id, self._listing)
            try:
                size, dropped = (log.grow(), log.dropped) if log is not None else (0, 0)
                messages = job.state.messages
                # Of many jobs, each look is at the log or also at the messages: these cost the engine more.
                if longest <= 1.0 or size != job.state.log_bytes or job.looks % 2:
                    messages = jobs.listen(job_id, self._listing)
            except EngineError as error:
                if not error.is_missing:
                    raise
                self._expected.add(job_id)  # removed just now
                continue
            has_grown = size != job.state.log_bytes or messages != job.state.messages
            slower = job.pause_s * _SLOWER if job.looks else longest / _STEPS
            job.pause_s = _SOON_S if has_grown else min(longest, slower)
            job.looks += 1
            job.due = _in_rounds(time.monotonic() + job.pause_s, job.pause_s)
            if has_grown:
                news = {"log_bytes": size, "log_dropped_bytes": dropped, "messages": messages, "message": ""}
                found[job_id] = JobState.from_wire({**job.state.to_dict(), **news})
                self._is_news(job_id, found[job_id])
        return found

    def _is_news(self, job_id: str, state: JobState) -> bool:
        """Does it differ from what was last given out, beside what changes by mere passing of time?"""
        told = (state.status.value, state.reason, state.phase, state.step, state.log_bytes, state.log_dropped_bytes)
        more = (dict(state.facts), dict(state.messages))
        mark = json.dumps([*told, state.exit_code, state.signal, len(state.history), *more], default=str)
        before = self._jobs.get(job_id)
        if before is None:
            self._jobs[job_id] = _Job(state=state, mark=mark, due=0.0)
        else:
            before.state, before.mark, mark = state, mark, before.mark
        return before is None or before.mark != mark

    def _patience_s(self, engine: Engine) -> float:
        """Until the next look."""
        now = time.monotonic()
        times = [self._compared + self._compare_s, engine.heard_at + _SILENCE_S]
        times += [job.due for job in self._jobs.values() if job.is_quiet]
        if self._ending:
            times.append(now + _ENDING_LOOK_S)
        if any(job.is_restless or job.is_queued for job in self._jobs.values()):
            times.append(max(now, self._restless_at) + _RESTLESS_S)
        if self._has_slot:
            times.append(self._queued_at + _SOON_S)
        return max(0.005, min(times) - now)

    def _check_alive(self, engine: Engine) -> None:
        if time.monotonic() - engine.heard_at >= _SILENCE_S:
            engine.exists("/_ping", answer_s=_SIGN_S)


def _in_rounds(due: float, pause_s: float) -> float:
    """When to look that wants to look at `due`, after a pause: with others."""
    apart_s = next((apart_s for apart_s in _ROUNDS_S if pause_s >= apart_s), 0.0)
    return math.ceil(due / apart_s) * apart_s if apart_s else due
