"""Garbage of an engine is looked for once an hour, by whoever starts a job, beside his work. See garbage.py."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine, Http
from airflow_jobdeploy.backends.engine.garbage import Sweep
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.errors import WorkerError

#: Between two looks, in seconds.
EVERY_S = 3600.0
_ENGINE = "engine"


def is_time(jobs: Jobs, listing: Listing) -> bool:
    """Has nobody looked for an hour? Then it is us: the mark is set first. An engine that is new has an hour, too."""
    marked = listing.noted_at.get((names.SWEPT, _ENGINE))
    if marked is not None and jobs.now - (seconds(marked) or 0.0) < EVERY_S:
        return False
    jobs.note(names.SWEPT, _ENGINE, os.urandom(8).hex())
    return marked is not None


def in_background(
    worker: str,
    connect: Callable[[], Http],
    *,
    deployment: str,
    cache_limit_bytes: int | None,
    shells: Sequence[str],
) -> threading.Thread:
    """By a connection of its own. Nobody waits for it: what a process that ends leaves undone, the next look finds."""

    def sweep() -> None:
        engine = Engine(worker=worker, connect=connect)
        with contextlib.suppress(WorkerError):  # the next look will find it
            places = Places(engine)
            places.set_clock(str(engine.get("/info").get("SystemTime", "")))
            jobs = Jobs(engine, places)
            limits = {"dry_run": False, "deployment": deployment, "cache_limit_bytes": cache_limit_bytes}
            Sweep(engine, places, jobs, **limits, shells=shells).run()  # type: ignore[arg-type]
        engine.drop()

    thread = threading.Thread(target=sweep, name=f"jobdeploy-sweep-{worker}", daemon=True)
    thread.start()
    return thread
