"""DDL's own samples by DDL's own commands: submit, progress, download, on this machine and over ssh."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

Write = Callable[..., str]

#: As printed in DDL's documentation, but for the colon that line 2 lacks there.
MAIN = """\
from example_lib import train
def main(dataset_dir, model_output_dir):
    your_train_fn(dataset_dir, model_output_dir)
"""
#: The documentation does not say where your_train_fn comes from.
LIB = """\
import builtins, os

def train(dataset_dir, model_output_dir):
    from example_objects import example
    print(example.NAME, open("config.yaml").read().strip(), sorted(os.listdir(dataset_dir)))
    print(open(os.path.join(dataset_dir, "my_data.tfrecord")).read(), open(dataset_dir + "/deep/more").read())
    os.makedirs(os.path.join(model_output_dir, "model"))
    with open(os.path.join(model_output_dir, "model", "weights"), "w") as file:
        file.write("trained")

builtins.your_train_fn = train
"""
#: As printed there, `<your_path>` and all: a path from the file's folder.
TASK = """\
job_data:
  dataset:
    dataset_location: <your_path>/dataset/
  worker_required: 1
"""


def git(folder: Path, *words: str) -> None:
    who = {
        "GIT_AUTHOR_NAME": "ann",
        "GIT_AUTHOR_EMAIL": "a@b.c",
        "GIT_COMMITTER_NAME": "ann",
        "GIT_COMMITTER_EMAIL": "a@b.c",
    }
    subprocess.run(["git", *words], cwd=folder, env={**os.environ, **who}, check=True, capture_output=True)


@pytest.fixture
def project(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example project of the documentation, committed, as the current directory; task.yaml beside it."""
    path = home / "example_project"
    (path / "example_objects").mkdir(parents=True)
    (path / "example_objects/example.py").write_text("NAME = 'example'\n")
    (path / "example_lib.py").write_text(LIB)
    (path / "main.py").write_text(MAIN)
    (path / "config.yaml").write_text("epochs: 3\n")
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "The example")
    (home / "task.yaml").write_text(TASK)
    (home / "<your_path>/dataset/deep").mkdir(parents=True)
    (home / "<your_path>/dataset/my_data.tfrecord").write_text("data")
    (home / "<your_path>/dataset/deep/more").write_text("more data")
    monkeypatch.chdir(path)
    return path


def uuid_of(done: Any) -> str:
    found = re.fullmatch(r"job_uuid: (j[a-z2-7]{20})\n", done.out)
    assert found, done
    return str(found[1])


def finished(cli: Cli, job: str, *at: str) -> Any:
    cli("status", job, "--wait", *at)
    return cli("progress", f"--job_uuid={job}", "--task_config=../task.yaml", *at)


def whole_way(cli: Cli, project: Path, *at: str) -> None:
    job = uuid_of(cli("submit", "--task_config=../task.yaml", *at))
    done = finished(cli, job, *at)
    assert done.code == 0
    assert done.out.splitlines()[:3] == [f"job_uuid: {job}", "job_state: finished", "status: SUCCEEDED"]
    done = cli("download", f"--job_uuid={job}", f"--dest={project}/out", "--task_config=../task.yaml", *at)
    assert done.code == 0
    assert (project / "out/model/weights").read_text() == "trained"  # the hierarchy is kept
    assert cli("status", job, "-o", "json", *at).data["name"] == "example_project"
    assert cli("logs", job, *at).out == "example epochs: 3 ['deep', 'my_data.tfrecord']\ndata more data\n"


def test_submit_progress_download_here(cli: Cli, project: Path) -> None:
    whole_way(cli, project)


@pytest.mark.sshd
def test_submit_progress_download_over_ssh(cli: Cli, project: Path, host: str) -> None:
    whole_way(cli, project, "--worker-pool", host)


@pytest.mark.sshd
def test_the_pool_is_that_of_the_file(cli: Cli, project: Path, host: str) -> None:
    Path("../task.yaml").write_text(TASK + f"worker_pool: {host}\n")
    job = uuid_of(cli("submit", "--task_config", "../task.yaml"))
    assert cli("progress", "--job_uuid", job).code == 1  # not in pool local
    assert "job_uuid: " + job in cli("progress", "--job_uuid", job[:8], "--task_config", "../task.yaml").out
    assert cli("status", job, "--wait", "--worker-pool", host).code == 0
    assert cli("download", "--job_uuid", job, "--dest", "out", "--task_config", "../task.yaml").code == 0
    Path("../task.yaml").write_text("worker_pool: local\nnonsense: 1\n")  # only the pool is asked for
    assert cli("progress", "--job_uuid", job, "--task_config", "../task.yaml").code == 1
    assert cli("progress", "--job_uuid", job, "--task_config", "../task.yaml", "--worker-pool", host).code == 0


def test_the_sample_as_printed_is_refused_at_once(cli: Cli, project: Path) -> None:
    (project / "main.py").write_text(MAIN.replace("_dir):", "_dir)"))
    done = cli("submit", "--task_config=../task.yaml")
    assert "2 problems in the job spec:" in done.err
    assert "uncommitted changes, which dirty: refuse does not allow:\n  M main.py" in done.err
    assert "main.py:2: expected ':'" in done.err
    git(project, "commit", "-qam", "As printed")
    Path("../task.yaml").write_text(TASK.replace("required: 1", "required: 2"))
    done = cli("submit", "--task_config=../task.yaml")
    assert (done.code, done.out) == (1, "")
    assert "2 problems in the job spec:" in done.err
    assert "main.py:2: expected ':'" in done.err
    assert re.search(r"task.yaml:4: worker_required: .*It needs jobs over several workers", done.err)
    assert cli("ls", "--all", "-o", "json").data["jobs"] == []


def test_where_main_is(cli: Cli, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    done = cli("submit", "--task_config", "task.yaml")
    assert (done.code, done.out) == (1, "")
    assert "there is no main.py in the current directory. Go to the project (cd), or give --project-dir." in done.err
    job = uuid_of(cli("submit", "--task_config", "task.yaml", "--project-dir", "example_project"))
    assert cli("status", job, "--wait").code == 0
    lost = cli("progress", "--job_uuid", job, "--task_config", "../task.yaml")  # which is not there, seen from here
    assert "there is no file '../task.yaml'" in lost.err
    (project / "task.yaml").write_text("job_data: {dataset: {dataset_location: ../<your_path>/dataset}}\n")
    done = cli("submit", "--task_config", "example_project/task.yaml")
    assert "main.py is beside task.yaml: go there (cd), or give --project-dir." in done.err
    git(project, "add", "-A")
    git(project, "commit", "-qm", "With its task")
    done = cli("run", "example_project/task.yaml")  # our own command takes the file's folder
    assert done.code == 0, done.err
    assert "example epochs: 3" in done.out


def test_what_is_not_committed_is_refused_unless_it_is_asked_for(cli: Cli, project: Path) -> None:
    (project / "config.yaml").write_text("epochs: 4\n")
    (project / "untracked.txt").write_text("")
    done = cli("submit", "--task_config=../task.yaml")
    assert (done.code, done.out) == (1, "")
    assert "uncommitted changes" in done.err
    assert "config.yaml" in done.err
    assert "untracked.txt" in done.err
    job = uuid_of(cli("submit", "--task_config=../task.yaml", "--dirty"))
    finished(cli, job)
    assert cli("logs", job).out.startswith("example epochs: 4 ")


def test_progress_of_a_failure_and_of_nothing(cli: Cli, project: Path) -> None:
    (project / "main.py").write_text("def main(d, o): raise SystemExit(7)\n")
    git(project, "commit", "-qam", "It fails")
    job = uuid_of(cli("submit", "--task_config=../task.yaml"))
    done = finished(cli, job)
    assert done.out.splitlines()[1:3] == ["job_state: failed", "status: FAILED (ExitCode)"]
    data = cli("progress", "--job_uuid", job, "-o", "json").data
    assert (data["job_uuid"], data["job_state"], data["exit_code"]) == (job, "failed", 7)
    assert cli("progress", "--job_uuid", "jnothinghere").code == 1


def test_a_running_job_is_downloaded_only_when_that_is_asked_for(cli: Cli, job: Write, home: Path) -> None:
    text = 'echo part > "$JOBDEPLOY_OUTPUT_DIR/part"; echo there; exec sleep 300'
    name = cli("run", job(text), "-d").out.strip()
    try:
        until = time.monotonic() + 60
        while cli("logs", name).out != "there\n":
            assert time.monotonic() < until
        done = cli("download", "--job_uuid", name, "--dest", "got")
        assert done.code == 1
        assert f"job {name} is RUNNING: what it writes is not complete." in done.err
        assert not (home / "got").exists()
        assert cli("download", name, "--dest", "got", "--partial").code == 0
        assert (home / "got/part").read_text() == "part\n"
        assert "job_state: running" in cli("progress", "--job_uuid", name).out
    finally:
        cli("stop", name)
    assert "job_state: stopped" in cli("progress", "--job_uuid", name).out


def test_one_job_and_only_one(cli: Cli) -> None:
    assert cli("download", "--dest", "out").code == 2
    assert cli("download", "jabcd", "--job_uuid", "jabcd", "--dest", "out").code == 2


CREDENTIALS = "email: ann@example.org\npassword: hunter2\nprimeway_api_token: t0ken\n" + TASK


def test_credentials_go_nowhere(cli: Cli, project: Path, home: Path) -> None:
    (project / "main.py").write_text("import os\ndef main(d, o): print(os.environ, flush=True); return 'done'\n")
    git(project, "commit", "-qam", "Show what it has")
    Path("../task.yaml").write_text(CREDENTIALS)
    Path("../task.yaml").rename(project / "task.yaml")
    (home / "<your_path>").rename(project / "<your_path>")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "All of it")
    done = cli("submit", "--task_config=task.yaml")
    job = uuid_of(done)
    for line, name in enumerate(("email", "password", "primeway_api_token"), start=1):
        assert f"task.yaml:{line}: {name} is not needed here and is not kept." in done.err
    said = [done, cli("status", job, "--wait"), cli("view", job), cli("view", job, "-o", "json"), cli("logs", job)]
    told = "".join(one.out + one.err for one in said)
    kept = b"".join(path.read_bytes() for path in (home / ".jobdeploy").rglob("*") if path.is_file())
    for secret in ("hunter2", "ann@example.org", "t0ken"):
        assert secret not in told
        assert secret.encode() not in kept
