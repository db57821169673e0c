"""The code of a job: taken once, the same for every attempt until its task is cleared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.core.pool import WorkerPool, load_pool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.core.template import load_template
from airflow_jobdeploy.errors import SpecError, StagingError, TemplateError
from airflow_jobdeploy.packing import dataset
from tests.packing.repositories import commit, git, repository, write
from tests.service.conftest import Desk

#: Shows what it runs, and fails.
SHOW = {"command": "cat main.py; pwd; exit 3"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return repository(tmp_path / "project", {"main.py": "first\n"})


def prepared(desk: Desk, project: Path | None, spec: dict[str, Any] | None = None, **how: Any) -> service.Work:
    return desk.run_spec(spec or SHOW, project_dir=project, **how)


def run(desk: Desk, work: service.Work) -> list[str]:
    """What the job said."""
    desk.log.clear()
    submitted = desk.submit(work)
    desk.follow(submitted.handle)
    return "\n".join(desk.log).split("\n")


def store(desk: Desk) -> Path:
    with desk.workers() as workers:
        facts = workers.backend(desk.pool.workers[0].name).facts()
    return Path(facts.root).expanduser() / "store" / "trees"


def forget_trees(desk: Desk) -> None:
    """As eviction does."""
    import subprocess

    subprocess.run(["chmod", "-R", "u+w", str(store(desk))], check=True)
    shutil.rmtree(store(desk))


def intent(desk: Desk) -> dict[str, Any]:
    assert desk.notebook.value is not None
    return desk.notebook.value


def test_the_record_says_what_ran(desk: Desk, project: Path) -> None:
    write(project, {"new.py": ""})
    assert run(desk, prepared(desk, project))[0] == "first"
    said = "\n".join(desk.said)
    assert "The code includes uncommitted changes: ?? new.py" in said
    assert f"at commit {git(project, 'rev-parse', 'HEAD')[:12]} (main: first)" in said
    with desk.workers() as workers:
        (job,) = service.jobs(workers)
    code = job["plan"]["description"]["code"]
    assert code["bundle"] == intent(desk)["bundle"] == job["plan"]["bundle"]
    assert (code["commit"], code["branch"], code["message"], code["dirty"], code["changes"]) == (
        git(project, "rev-parse", "HEAD"), "main", "first", True, ["?? new.py"],
    )  # fmt: skip


def test_files_that_are_not_in_the_project(project: Path) -> None:
    write(project, {"docker/Dockerfile": "FROM x\n", "ignored/Dockerfile": "FROM x\n", ".jobdeployignore": "ignored\n"})
    (project / "link").symlink_to("docker")
    engines = load_pool({"kind": "docker", "workers": [{"url": "unix:///x"}]})

    def prepare(path: str) -> service.Work:
        spec = load_spec({"command": "true", "dockerfile": path})
        return service.prepare_run(spec, pool=engines, project_dir=project, resolve_secret=str)

    prepare("docker/Dockerfile")
    prepare("link/Dockerfile")  # the engine knows
    with pytest.raises(SpecError, match=r"there is no \S+/docker/Dokerfile\. Did you mean 'docker/Dockerfile'\?"):
        prepare("docker/Dokerfile")
    with pytest.raises(SpecError, match=r"there is no \S+/ignored/Dockerfile\."):
        prepare("ignored/Dockerfile")
    builds = {name: {"type": "script", "content": "x"} for name in ("up", "down")}
    with pytest.raises(SpecError, match=r"entry_script: there is no \S+/man\.py\. Did you mean 'main\.py'\?"):
        service.prepare_run(
            load_spec({"entry_script": "man.py"}), pool=WorkerPool.local(), project_dir=project, resolve_secret=str
        )
    template = load_template({"options": {"dockerfile": "Dokerfile"}, "builds": builds})
    with pytest.raises(TemplateError, match=r"there is no \S+/Dokerfile\."):
        service.prepare_up(template, {}, pool=engines, project_dir=project, resolve_secret=str)


def test_a_retry_runs_what_the_first_try_ran(desk: Desk, project: Path) -> None:
    assert run(desk, prepared(desk, project))[0] == "first"
    write(project, {"main.py": "second\n"})
    commit(project, "second")
    write(project, {"main.py": "dirty\n"})
    assert run(desk, prepared(desk, project, {**SHOW, "dirty": "refuse"}, returning=True))[0] == "first"
    assert "The project of the attempt before is on worker" in "\n".join(desk.said)
    forget_trees(desk)
    assert run(desk, prepared(desk, project, returning=True))[0] == "first", "made again of its commit"
    assert intent(desk)["attempt"] == 3


def test_changed_code_is_never_taken_silently(desk: Desk, project: Path) -> None:
    write(project, {"main.py": "dirty\n"})
    assert run(desk, prepared(desk, project))[0] == "dirty"
    forget_trees(desk)
    assert run(desk, prepared(desk, project, returning=True))[0] == "dirty", "the same files, sent again"
    forget_trees(desk)
    write(project, {"main.py": "dirtier\n"})
    with pytest.raises(StagingError, match=r"the project has changed since the attempt before.*Clear the task"):
        desk.submit(prepared(desk, project, returning=True))
    desk.epoch["clear_number"] += 1
    assert run(desk, prepared(desk, project, returning=True))[0] == "dirtier"


def test_a_clear_takes_the_project_as_it_is_now(desk: Desk, project: Path) -> None:
    assert run(desk, prepared(desk, project))[0] == "first"
    write(project, {"main.py": "second\n"})
    desk.epoch["clear_number"] += 1
    assert run(desk, prepared(desk, project, returning=True))[0] == "second"


def test_a_clear_that_cannot_take_the_project_stops_nothing(desk: Desk, project: Path) -> None:
    work = prepared(desk, project, {"command": "sleep 60"})
    handle = desk.submit(work).handle
    write(project, {"new.py": ""})
    desk.epoch["clear_number"] += 1
    with pytest.raises(StagingError, match=r"\?\? new\.py"):
        desk.submit(prepared(desk, project, {**SHOW, "dirty": "refuse"}, returning=True))
    assert desk.status(handle).status is JobStatus.RUNNING
    desk.stop(handle)


def test_a_retry_reattaches_whatever_became_of_the_project(desk: Desk, project: Path) -> None:
    handle = desk.submit(prepared(desk, project, {"command": "sleep 60"})).handle
    shutil.rmtree(project)
    submitted = desk.submit(prepared(desk, project, returning=True))
    assert submitted.reattached
    assert submitted.handle.job_id == handle.job_id
    desk.stop(handle)


def test_every_problem_is_heard_before_anything_starts(desk: Desk, project: Path) -> None:
    write(project, {"new.py": ""})
    with pytest.raises(StagingError, match=r"\?\? new\.py"):
        prepared(desk, project, {**SHOW, "dirty": "refuse"})
    with pytest.raises(StagingError, match="knows no branch, tag or commit 'nowhere'"):
        prepared(desk, project, {**SHOW, "ref": "nowhere"})
    with pytest.raises(SpecError, match="ref: means nothing where no code is sent"):
        prepared(desk, None, {**SHOW, "ref": "main"})
    with pytest.raises(SpecError, match="lies on the worker already"):
        prepared(desk, None, {**SHOW, "ref": "main"}, workdir="/tmp")
    assert desk.notebook.value is None


def test_two_jobs_of_one_project_send_it_once(desk: Desk, project: Path) -> None:
    run(desk, prepared(desk, project))
    desk.notebook.value = None
    desk.said.clear()
    assert run(desk, prepared(desk, project))[0] == "first"
    assert "is on worker" in "\n".join(desk.said)
    assert "nothing is sent" in "\n".join(desk.said)


def test_code_of_a_repository_without_a_checkout(desk: Desk, project: Path) -> None:
    write(project, {"sub/main.py": "in sub\n"})
    second = commit(project, "second")
    spec = {**SHOW, "repo": str(project), "ref": "main"}
    assert run(desk, prepared(desk, None, spec))[0] == "first"
    desk.notebook.value = None
    assert run(desk, prepared(desk, Path("sub"), spec))[0] == "in sub"
    assert intent(desk)["code"]["commit"] == second
    shutil.rmtree(project)
    forget_trees(desk)
    assert run(desk, prepared(desk, Path("sub"), spec, returning=True))[0] == "in sub"


def test_requirements_come_from_the_code_that_runs(desk: Desk, project: Path) -> None:
    """Not from what lies in the project's folder by now."""
    write(project, {"requirements.txt": "# none\n"})
    commit(project, "no packages")
    write(project, {"requirements.txt": "not a requirement ???\n"})
    work = prepared(desk, project, {**SHOW, "ref": "HEAD", "requirements": "requirements.txt"})
    assert run(desk, work)[0] == "first"


def test_a_project_of_ddl_gets_its_requirements_unasked_and_others_do_not(desk: Desk, project: Path) -> None:
    write(project, {"main.py": "def main(dataset_dir, model_output_dir): ...\n", "requirements.txt": "numpy==2.1.0\n"})
    commit(project, "as DDL has it")
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"job_data": {}}, True),
        ({"job_data": {}, "requirements": []}, False),
        ({"job_data": {}, "command": "true"}, False),
        ({"command": "true"}, False),
    ]
    for spec, wanted in cases:
        environment = prepared(desk, project, spec).takes.now().environment
        assert (environment is not None and environment.requirements == ("numpy==2.1.0",)) is wanted, spec


# -- datasets -------------------------------------------------------------------------------------------------------

READ = {"command": 'cd "$JOBDEPLOY_DATASET_DIR" && find . -type f | sort && cat train/a.csv && stat -c %a train/a.csv'}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "data", {"train/a.csv": "1,2\n", "b.csv": ""})
    return tmp_path / "data"


def test_a_dataset_is_read_in_its_place(desk: Desk, data: Path, project: Path) -> None:
    work = prepared(desk, project, READ, dataset=lambda: dataset.here(data))
    assert run(desk, work)[:4] == ["./b.csv", "./train/a.csv", "1,2", "444"]
    assert any(line.startswith(f"Dataset: 2 files, 4 bytes of {data}") for line in desk.said)
    assert intent(desk)["dataset"] == dataset.here(data).manifest.name


def test_a_retry_reads_the_dataset_that_it_had(desk: Desk, data: Path) -> None:
    spec = {"command": READ["command"] + "; exit 3"}
    assert run(desk, prepared(desk, None, spec, dataset=lambda: dataset.here(data)))[2] == "1,2"
    write(data, {"train/a.csv": "3,4\n"})
    again = prepared(desk, None, spec, dataset=lambda: dataset.here(data), returning=True)
    assert run(desk, again)[2] == "1,2"
    forget_trees(desk)
    again = prepared(desk, None, spec, dataset=lambda: dataset.here(data), returning=True)
    assert run(desk, again)[2] == "3,4"
    assert "The dataset has changed since the attempt before: this one reads it as it is now." in desk.said
    assert intent(desk)["dataset"] == dataset.here(data).manifest.name


def test_a_dataset_that_is_not_there(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(StagingError, match="does not exist"):
        prepared(desk, None, READ, dataset=lambda: dataset.here(tmp_path / "nowhere"))


def test_a_dataset_that_is_read_while_it_is_sent(desk: Desk, data: Path) -> None:
    """Objects of a storage have no digests before."""
    url = f"memory://{data}"
    work = prepared(desk, None, READ, dataset=lambda: dataset.elsewhere(fsspec.filesystem("file"), str(data), url))
    assert work.takes.now().dataset == ""
    assert run(desk, work)[:4] == ["./b.csv", "./train/a.csv", "1,2", "444"]
    assert intent(desk)["dataset"] == dataset.here(data).manifest.name
    desk.notebook.value = None
    work = prepared(desk, None, READ, dataset=lambda: dataset.elsewhere(fsspec.filesystem("file"), str(data), url))
    assert work.takes.now().dataset == dataset.here(data).manifest.name, "known from now on"
    desk.said.clear()
    run(desk, work)
    assert "nothing is sent" in "\n".join(desk.said)


def test_templates_take_code_as_well(desk: Desk, project: Path) -> None:
    template = load_template(
        {
            "params": {},
            "options": {"dirty": "refuse"},
            "builds": {
                "up": {"type": "script", "content": "#!/bin/sh\ncat main.py\n"},
                "down": {"type": "script", "content": "true"},
            },
        }
    )
    work = service.prepare_up(template, {}, pool=desk.pool, project_dir=project, resolve_secret=str)
    assert run(desk, work)[0] == "first"
    write(project, {"new.py": ""})
    with pytest.raises(StagingError, match=r"\?\? new\.py"):
        service.prepare_up(template, {}, pool=desk.pool, project_dir=project, resolve_secret=str)


@pytest.mark.parametrize("what", ["project", "dataset"])
def test_a_file_that_is_written_to_while_it_is_sent(desk: Desk, tmp_path: Path, what: str) -> None:
    """The job does not start with half of one version and half of another; the error names the file."""
    root = tmp_path / what
    write(root, {"changing.txt": "before\n", "main.py": ""})
    given: dict[str, Any] = {"dataset": lambda: dataset.here(root)} if what == "dataset" else {}
    work = prepared(desk, root if what == "project" else None, **given)
    write(root, {"changing.txt": "after!\n"})
    with pytest.raises(StagingError, match=r"'changing\.txt'"):
        desk.submit(work)
    with desk.workers() as workers:
        (job,) = service.jobs(workers)
    assert job["state"]["status"] == "CANCELLED"
    assert "changing.txt" in job["state"]["message"]


def test_a_template_that_is_used_without_a_project(desk: Desk) -> None:
    builds = {"up": {"type": "script", "content": "true"}, "down": {"type": "script", "content": "true"}}
    template = load_template({"options": {"ref": "v1"}, "builds": builds})
    work = service.prepare_up(template, {}, pool=desk.pool, resolve_secret=str)
    assert "ref means nothing here" in work.warnings[0]
