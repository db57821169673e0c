"""Apolo's snippets (seed 002) and what stands behind them, on this machine and on a real SSH host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from airflow_jobdeploy.errors import JobDeployError, SpecError
from airflow_jobdeploy.hooks.apolo import (
    Container,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    JobStatus,
    Resources,
    Volume,
    get,
)
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from tests.servers.sshd import Sshd
from tests.servers.sshd import sshd as sshd

pytestmark = pytest.mark.airflow
DEADLINE_S = 120.0


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.sshd)])
def lab(
    request: pytest.FixtureRequest,
    airflow_db: None,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A pool with storage, whose hosts stand in for ubuntu; what runs there at the end is stopped."""
    storage = tmp_path / "the storage"
    (storage / "folder").mkdir(parents=True)
    (storage / "neuro" / "public").mkdir(parents=True)
    (storage / "folder" / "data.txt").write_text("four\n")
    pool: dict[str, Any] = {"kind": request.param, "storage": {"root": str(storage)}, "host_images": ["ubuntu:*"]}
    pool["root"] = str(tmp_path / "root of jobs")
    if request.param == "ssh":
        sshd: Sshd = request.getfixturevalue("sshd")
        extra = {"key_file": str(sshd.key_file), "host_key": sshd.host_key, "look_for_keys": "false"}
        host = {"conn_type": "ssh", "host": "127.0.0.1", "port": sshd.port, "login": sshd.user, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_GPU_A", json.dumps(host))
        pool["workers"] = [{"conn_id": "gpu_a"}]
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    yield "lab"
    hook = JobDeployHook("lab")
    for row in hook.list(live_only=True):
        hook.stop(row["plan"]["job_id"])


def until(client: Any, job: JobDescription, done: Callable[[JobDescription], bool]) -> JobDescription:
    """Its description once that is so."""
    limit = time.monotonic() + DEADLINE_S
    while not done(job):
        assert time.monotonic() < limit, job
        time.sleep(0.05)  # as the seed's snippet asks again and again
        job = client.jobs.status(job.id)
    return job


def ended(job: JobDescription) -> bool:
    return job.status.is_finished


def read(client: Any, job: JobDescription) -> str:
    data: bytes = client.read_log(job.handle)
    return data.decode()


# -- the seed's snippets, as near to the letter as a synchronous API allows ----------------------------------------


def test_start_a_job_and_check_its_status(lab: str) -> None:
    with get(lab) as client:
        job = client.jobs.start(
            image=client.parse.remote_image("ubuntu:latest"),
            command="sleep 0.2",
        )
        while True:
            job = client.jobs.status(job.id)
            if job.status in (JobStatus.RUNNING, JobStatus.SUCCEEDED):
                break
            if job.status == JobStatus.FAILED:
                raise RuntimeError(f"Job {job.id} failed with {job.reason}:{job.history.description}")
            time.sleep(0.1)
        job = until(client, job, ended)
    assert job.status is JobStatus.SUCCEEDED
    assert job.container.command == "sleep 0.2"
    assert str(job.container.image) == "ubuntu:latest"
    assert [item.status for item in job.history.transitions][-2:] == [JobStatus.RUNNING, JobStatus.SUCCEEDED]
    assert job.history.created_at is not None
    assert job.history.started_at is not None
    assert job.history.finished_at is not None
    assert job.history.created_at <= job.history.started_at <= job.history.finished_at
    assert abs((datetime.now(timezone.utc) - job.history.finished_at).total_seconds()) < 30
    assert (job.history.exit_code, job.history.restarts) == (0, 0)
    assert job.cluster_name == lab


def test_mount_storage_folders(lab: str) -> None:
    with get(lab) as client:
        volume = Volume(
            storage_uri=URL("storage:folder"),
            container_path="/mnt/data",
        )
        public_volume = Volume(
            storage_uri=URL("storage:neuro/public"),
            container_path="/mnt/public",
            read_only=True,
        )
        assert client.parse.volume("storage:folder:/mnt/data") == volume
        assert client.parse.volume("storage:neuro/public:/mnt/public:ro") == public_volume
        job = client.jobs.run(
            Container(
                image=client.parse.remote_image("ubuntu:latest"),
                resources=Resources(),
                command="""sh -c 'cd "$JOBDEPLOY_VOLUMES_DIR/mnt"; cat data/data.txt; ls'""",
                volumes=[volume, public_volume],
            )
        )
        job = until(client, job, ended)
        assert read(client, job).split() == ["four", "data", "public"]
    assert job.container.volumes == (volume, public_volume)


def test_kill_a_job(lab: str) -> None:
    with get(lab) as client:
        job = client.jobs.run(
            Container(image=client.parse.remote_image("ubuntu:latest"), command="sleep 300"), preemptible_node=True
        )
        until(client, job, lambda job: job.status.is_running)
        client.jobs.kill(job.id)
        job = until(client, job, ended)
        client.jobs.kill(job.id)  # once more changes nothing
    assert (job.status, job.reason) == (JobStatus.CANCELLED, "UserRequested")
    assert job.preemptible_node


# -- all fields -----------------------------------------------------------------------------------------------------


def test_all_fields_come_back_as_they_were_given(lab: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps({"conn_type": "generic", "password": "s3cret of mine"}))
    project = tmp_path / "it's a project"
    project.mkdir()
    (project / "say.sh").write_text('echo "$1|$GREETING|$TOKEN" | tee "$JOBDEPLOY_OUTPUT_DIR/said"\n')
    jobs = JobDeployHook(lab).jobs
    job = jobs.start(
        entrypoint="sh say.sh",
        command='"two  words"',
        env={"GREETING": "it's; $HOME"},
        secret_env={"TOKEN": "conn:vault.password"},
        name="say-it-1",
        tags=["sweep", "lr=0.1"],
        description="says it\nonce",
        life_span=600,
        schedule_timeout=120,
        restart_policy=JobRestartPolicy.NEVER,
        priority=JobPriority.NORMAL,
        wait_for_jobs_quota=True,
        project_dir=project,
        tty=False,
        http=None,
    )
    assert (job.name, job.tags, job.description) == ("say-it-1", ("sweep", "lr=0.1"), "says it\nonce")
    assert (job.life_span, job.schedule_timeout, job.priority) == (600, 120, JobPriority.NORMAL)
    assert job.container.env == {"GREETING": "it's; $HOME"}
    assert job.container.secret_env == {"TOKEN": "conn:vault.password"}
    hook = JobDeployHook(lab)
    job = until(hook, job, ended)
    assert read(hook, job) == "two  words|it's; $HOME|s3cret of mine\n"
    assert "s3cret" not in repr(job)
    assert hook.download(dict(job.handle), tmp_path / "out")["files"][0]["path"] == "said"
    [listed] = hook.jobs.list(name="say-it-1", tags=["sweep"])
    assert (listed.id, listed.status, listed.tags) == (job.id, JobStatus.SUCCEEDED, job.tags)


def test_a_life_is_lengthened(lab: str) -> None:
    with get(lab) as client:
        job = client.jobs.start(command="sleep 300", life_span=5)
        job = until(client, job, lambda job: job.status.is_running)
        client.jobs.bump_life_span(job.id, 1)
        assert client.jobs.status(job.id).life_span == 6
        job = until(client, job, ended)
        assert (job.status, job.reason) == (JobStatus.FAILED, "LifeSpanEnded")
        assert (job.history.run_time_seconds or 0) >= 6
        with pytest.raises(JobDeployError, match="over"):
            client.jobs.bump_life_span(job.id, 60)


def test_a_job_is_restarted_by_who_started_it_when_he_asks_and_stays_one_job(lab: str) -> None:
    with get(lab) as client:
        job = client.jobs.start(
            command="sh -c 'echo attempt $JOBDEPLOY_ATTEMPT; [ $JOBDEPLOY_ATTEMPT = 2 ]'",
            restart_policy="on-failure",
            name="flaky",
        )
        first = job.id
        job = until(client, job, lambda job: job.history.restarts == 1)
        assert (job.id, job.reason) == (first, "Restarting")
        job = until(client, job, ended)
        assert (job.id, job.status, job.history.restarts) == (first, JobStatus.SUCCEEDED, 1)
        assert read(client, job) == "attempt 2\n"
        words = [(item.status.value, item.reason) for item in job.history.transitions]
        assert ("FAILED", "Error") in words
        assert words[-1] == ("SUCCEEDED", "")
        with get(lab) as other:
            seen = other.jobs.status(first)
            assert (seen.id, seen.status, len(seen.history.transitions)) == (first, job.status, len(words))
            assert [each.id for each in other.jobs.list(name="flaky")] == [first]
            kept = other.jobs.status(str(job.handle["job_id"]))  # the id of an attempt means its job, too
            assert kept.id == first


# -- names ----------------------------------------------------------------------------------------------------------


def test_a_name_is_that_of_one_live_job(lab: str) -> None:
    with get(lab) as client:
        job = client.jobs.start(command="sleep 300", name="train")
        text = f"job with name 'train' and owner '{job.owner}' already exists: '{job.id}'"
        with pytest.raises(JobDeployError, match=text):
            client.jobs.start(command="sleep 300", name="train")
        client.jobs.kill(job.id)
        until(client, job, ended)
        again = client.jobs.start(command="true", name="train")
        assert again.id != job.id
        until(client, again, ended)


def test_of_many_at_once_at_most_one_gets_the_name(lab: str) -> None:
    def start(_: int) -> str:
        try:
            return JobDeployHook(lab).jobs.start(command="sleep 300", name="train").id
        except JobDeployError as error:
            assert "job with name 'train' and owner" in str(error)  # noqa: PT017 - one of them must not
            return ""

    with ThreadPoolExecutor(4) as executor:
        started = [job_id for job_id in executor.map(start, range(4)) if job_id]
    live = JobDeployHook(lab).jobs.list(name="train")
    assert len(started) == 1
    assert [job.id for job in live] == started  # what lost has left nothing


# -- list -----------------------------------------------------------------------------------------------------------


def test_all_filters_of_list(lab: str) -> None:
    with get(lab) as client:
        long = client.jobs.start(command="sleep 300", name="long-one", tags=["a", "b"])
        # Ages are told to within the time that an answer takes: this one is older by more than that.
        good = until(client, client.jobs.start(command="sleep 2", tags=["a"]), ended)
        middle = datetime.now(timezone.utc)
        bad = until(client, client.jobs.start(command="false", tags=["b"]), ended)
        until(client, long, lambda job: job.status.is_running)
        every = [long.id, good.id, bad.id]

        def found(**filters: Any) -> list[str]:
            return [job.id for job in client.jobs.list(**filters)]

        assert found() == every
        assert found(reverse=True) == every[::-1]
        assert found(reverse=True, limit=2) == [bad.id, good.id]
        assert found(limit=0) == []
        assert found(statuses=[JobStatus.RUNNING, "failed"]) == [long.id, bad.id]
        assert found(tags=["a", "b"]) == [long.id]
        assert found(name="long-one") == [long.id]
        assert found(owners=["nobody-else"]) == []
        assert found(owners=[long.owner, "nobody-else"]) == every
        assert found(since=middle) == [bad.id]
        assert found(until=middle) == [long.id, good.id]
        assert found(since=middle.astimezone().replace(tzinfo=None)) == [bad.id]  # naive: this machine's time
        assert found(since=middle - timedelta(days=1), until=middle + timedelta(days=1)) == every
        assert found(cluster_name=lab, org_names=()) == every
        with pytest.raises(JobDeployError, match=r"JobDeployHook\('other'\)"):
            found(cluster_name="other")
        with pytest.raises(ValueError, match="runing"):
            found(statuses=["runing"])
        with pytest.raises(TypeError, match=r"unexpected argument 'tag'.*'?tags"):
            found(tag="a")


# -- what cannot be -------------------------------------------------------------------------------------------------


def test_what_means_nothing_here_is_named_all_at_once_and_nothing_starts(lab: str) -> None:
    jobs = JobDeployHook(lab).jobs
    with pytest.raises(SpecError) as caught:
        jobs.start(command="true", privileged=True, energy_schedule_name="night", tty=False)
    assert [problem.path for problem in caught.value.problems] == ["privileged", "energy_schedule_name"]
    with pytest.raises(SpecError) as caught:
        jobs.run(
            Container(
                command="echo 'unclosed",
                http=object(),
                secret_env={"TOKEN": URL("secret:token")},
                resources=Resources(tpu_type="v2-8", nvidia_gpu=1, amd_gpu=1),
            ),
            name="No Name",
        )
    wrong = {problem.path for problem in caught.value.problems}
    assert wrong == {"http", "tpu_type", "name", "secret_env.TOKEN", "resources", "command"}
    with pytest.raises(TypeError, match=r"unexpected argument 'presetname'\. Did you mean 'preset_name'"):
        jobs.start(command="true", presetname="cpu-small")
    with pytest.raises(SpecError, match="docker_image"):
        jobs.start(image="python:3.12", command="true")
    with pytest.raises(SpecError, match=r"stands in for ubuntu:22.04\. Give a command"):
        jobs.start(image=jobs_image("ubuntu:22.04"))
    with pytest.raises(JobDeployError, match="job 'jnothing' is not in pool"):
        jobs.status("jnothing")
    with pytest.raises(JobDeployError, match="no life_span"):
        jobs.bump_life_span(jobs.start(command="sleep 60").id, 60)
    assert len(jobs.list()) == 1


def jobs_image(text: str) -> Any:
    return JobDeployHook("local").parse.remote_image(text)
