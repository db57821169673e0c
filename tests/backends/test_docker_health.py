"""What an engine's records of its last jobs say of its health."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.backends.engine import ends
from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.core.health import set_aside
from airflow_jobdeploy.core.status import JobStatus, Reason
from tests.backends.engines import BLOCK, backend_of, job, run
from tests.backends.engines import engine as engine
from tests.contract.steps import launch, wait_ready, wait_until
from tests.servers.dockerd import Dockerd
from tests.servers.dockerd import dockerd as dockerd

pytestmark = pytest.mark.docker


def told(engine: Dockerd) -> list[dict[str, object]]:
    """As a client has it that knows nothing."""
    client = Engine(worker="engine", connect=engine.client)
    places = Places(client)
    places.set_clock(str(client.get("/info")["SystemTime"]))
    jobs = Jobs(client, places)
    return ends.last(jobs, jobs.listing())


def test_two_jobs_that_were_lost_set_an_engine_aside_and_one_that_was_not_brings_it_back(engine: Dockerd) -> None:
    backend = backend_of(engine)
    assert run(backend, job("true")).status is JobStatus.SUCCEEDED
    lost = [launch(backend, job(BLOCK)) for _ in range(2)]
    for job_id in lost:
        wait_ready(backend, job_id)
    engine.client().kill(lost[0])
    engine.client().remove_container(lost[1], force=True)
    wait_until(backend, lost, lambda states: all(state.status.is_finished for state in states.values()))
    found = told(engine)
    # When a removed container has ended is known to the second: it may stand behind the one that ended well.
    failed = [end for end in found if end["status"] != "SUCCEEDED"]
    assert {str(end["job"]): end["reason"] for end in failed} == dict.fromkeys(lost, Reason.PROCESS_LOST)
    assert all(0 <= float(str(end["ago_s"])) < 60 for end in found)
    # At once is one failure; the same later would be two.
    assert set_aside(found) == ""
    assert "2 failures in a row" in set_aside([failed[0], {**failed[1], "ago_s": 100.0}])
    assert run(backend, job("exit 3")).status is JobStatus.FAILED
    found = told(engine)
    assert [end["reason"] for end in found][:1] == [Reason.EXIT_CODE]
    assert [end["status"] for end in found].count("SUCCEEDED") == 1
    assert set_aside([found[0], *({**end, "ago_s": 100.0 * n} for n, end in enumerate(found[1:], 1))]) == ""
    backend.close()


def test_jobs_that_never_ran_and_those_that_ended_well_are_not_asked_for(engine: Dockerd) -> None:
    backend = backend_of(engine)
    for _ in range(2):
        assert run(backend, job("true")).status is JobStatus.SUCCEEDED
        assert run(backend, job("true", container={"image": "nope:1", "pull": "never"})).reason == Reason.SETUP
    waiting = job("true")
    backend.claim(waiting)
    assert backend.stop(waiting.job_id, reason="test").status is JobStatus.CANCELLED
    assert told(engine) == []
    backend.close()


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        ("Exited (0) Less than a second ago", 1),
        ("Exited (137) 5 seconds ago", 5),
        ("Exited (0) About a minute ago", 60),
        ("Exited (1) About an hour ago", 3600),
        ("Exited (1) 3 days ago", 259200),
        ("Dead", 0),
    ],
)
def test_how_long_ago_a_container_ended_as_it_is_listed(status: str, seconds: float) -> None:
    assert ends.about({"Status": status}) == seconds
