"""Images that are made for jobs: Dockerfiles, Debian packages, Python packages; by the real builder, apt and pip."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import WORK
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine import dockerfiles
from airflow_jobdeploy.backends.engine.derived import unsaid
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Environment, Limits, Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from tests.contract.steps import at_once, log, outcome
from tests.contract.trees import tree
from tests.servers import images
from tests.servers.dockerd import IMAGE, Dockerd
from tests.servers.dockerd import dockerd as dockerd

pytestmark = pytest.mark.docker

APT, PYTHON = "jobdeploy-test/apt:1", "jobdeploy-test/python:1"
#: Without pip: ensurepip brings it, which takes some seconds.
BARE = "jobdeploy-test/python-bare:1"
BETA = images.wheel("beta", "1.0", "word = 'from a wheel'\n")


@pytest.fixture(scope="session")
def stocked(dockerd: Dockerd) -> Dockerd:
    """An engine with images that have apt, and pip with a folder of wheels."""
    client = dockerd.client()
    client.import_image_from_data(images.apt_root(), repository="jobdeploy-test/apt", tag="1")
    client.import_image_from_data(images.python_root(), repository="jobdeploy-test/python-bare", tag="1")
    made = client.create_container(BARE, command=["true"])
    client.put_archive(made, "/", _wheels())
    client.commit(made, "jobdeploy-test/python", "1", conf={"Cmd": ["sh"], "Labels": {"theirs": "kept"}})
    client.remove_container(made)
    return dockerd


def _wheels() -> bytes:
    root = images.Root()
    root.folder("wheels")
    root.text(f"wheels/{BETA[0]}", BETA[1])
    root.pip()
    return root.data


@pytest.fixture
def engine(stocked: Dockerd) -> Iterator[Dockerd]:
    yield stocked
    stocked.wipe()
    client = stocked.client()
    for image in client.images(filters={"label": "jobdeploy.kind=image"}):
        client.remove_image(image["Id"], force=True)


def backend_of(engine: Dockerd) -> DockerBackend:
    return DockerBackend(worker="engine", connect=engine.client, settings=Settings(image=IMAGE))


def job(content: str, **options: Any) -> Plan:
    return Plan(**{"uid": new_uid(), "steps": (Step(name="job", kind="shell", content=content),), **options})


def run(backend: DockerBackend, plan: Plan, said: list[str] | None = None) -> JobState:
    """As a submitter does it: the code, if there is some, comes between the two preparations."""
    say = (said if said is not None else []).append
    backend.claim(plan)
    backend.prepare(plan.job_id, say)
    if plan.bundle:
        backend.send_tree(PROJECTS[plan.bundle])
        backend.use_tree(plan.job_id, WORK, plan.bundle)
        backend.prepare(plan.job_id, say)
    backend.start(plan.job_id)
    return outcome(backend, plan.job_id)


PROJECTS: dict[str, Any] = {}


def project(dockerfile: str, **files: str) -> str:
    made = tree({"docker/Dockerfile": textwrap.dedent(dockerfile), **files})
    PROJECTS[made.manifest.name] = made
    return made.manifest.name


def built(content: str, dockerfile: str, **files: str) -> Plan:
    return job(
        content,
        bundle=project(dockerfile, **files),
        ships_project=True,
        container={"dockerfile": "docker/Dockerfile"},
    )


def derived(engine: Dockerd) -> list[dict[str, Any]]:
    return list(engine.client().images(filters={"label": "jobdeploy.kind=image"}))


def left(engine: Dockerd) -> list[str]:
    """Containers that no job has."""
    found = [entry["Names"][0].lstrip("/") for entry in engine.client().containers(all=True)]
    return [name for name in found if not name.startswith("j") or name.startswith("jobdeploy-")]


# -- Debian packages --------------------------------------------------------------------------------------------------


def test_debian_packages_are_installed_once(engine: Dockerd) -> None:
    backend, said = backend_of(engine), list[str]()
    container = {"image": APT, "apt_packages": ["hello-jobdeploy"]}
    state = run(backend, job("hello-jobdeploy; pwd", container=container), said)
    assert state.status is JobStatus.SUCCEEDED, state.message
    assert log(backend, state.job_id).startswith(b"hello from a package\n")
    told = "\n".join(said)
    assert "Making the image with hello-jobdeploy on engine." in told
    assert "Setting up hello-jobdeploy (1.0)" in told
    assert ("PENDING", "Setup") in [(entry["status"], entry["reason"]) for entry in state.history]
    assert len(derived(engine)) == 1
    said.clear()
    again = run(backend_of(engine), job("hello-jobdeploy", container=container), said)
    assert again.status is JobStatus.SUCCEEDED
    assert [line for line in said if line] == []
    assert len(derived(engine)) == 1
    assert left(engine) == []


@pytest.mark.parametrize(
    ("image", "package", "said"),
    [(APT, "no-such-package", "Unable to locate package no-such-package"), (IMAGE, "curl", "has no apt-get")],
)
def test_packages_that_cannot_be_had(engine: Dockerd, image: str, package: str, said: str) -> None:
    state = run(backend_of(engine), job("true", container={"image": image, "apt_packages": [package]}))
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert said in state.message
    assert engine.client().containers(all=True) == []
    assert derived(engine) == []


# -- Python packages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "logged", "rest"),
    [
        (b"c\nd\n", b"a\nb\nc\nd\n", b""),
        (b"c\nd\n", b"a\nb\nc\n", b"d\n"),
        (b"c\nd\n", b"a\nb\n", b"c\nd\n"),
        (b"c\nd\n", b"", b"c\nd\n"),
        (b"c\nd\n", b"a\nc\nd\nTerminated\n", b""),
        (b"", b"a\n", b""),
    ],
)
def test_what_a_log_has_lost_of_its_end_is_told(kept: bytes, logged: bytes, rest: bytes) -> None:
    assert unsaid(kept, logged) == rest


def test_python_packages_go_over_the_images_own(engine: Dockerd) -> None:
    secret = "gamma @ https://u:${TOKEN}@x.example/g.whl ; python_version < '3'"
    lines = ("--no-index", "--find-links /wheels", "beta", secret)
    plan = Plan(
        uid=new_uid(),
        steps=(Step(name="job", kind="entry", path="main.py", python="python3"),),
        bundle=project("FROM scratch", **{"main.py": "import beta, sys\nprint(beta.word, sys.prefix)\n"}),
        environment=Environment(requirements=lines, python="python3"),
        secret_env={"TOKEN": "s3cret"},
        container={"image": PYTHON},
    )
    backend, said = backend_of(engine), list[str]()
    state = run(backend, plan, said)
    assert state.status is JobStatus.SUCCEEDED, (state.message, said)
    assert log(backend, plan.job_id) == b"from a wheel /opt/jobdeploy/env\n"
    assert "Successfully installed beta-1.0" in "\n".join(said), said
    client = engine.client()
    image = client.inspect_container(plan.job_id)["Config"]["Image"]
    assert "s3cret" not in json.dumps([client.inspect_image(image), client.history(image), said])
    assert client.inspect_image(image)["Config"]["Labels"]["theirs"] == "kept"
    own = job("", container={"image": PYTHON}, environment=plan.environment, secret_env=plan.secret_env)
    own = Plan.from_wire({**own.to_wire(), "steps": [Step(name="job", kind="argv").to_dict()]})
    assert run(backend, own).status is JobStatus.SUCCEEDED  # the image's own command is still its command
    assert len(derived(engine)) == 1


@pytest.mark.parametrize(
    ("image", "said"),
    [(BARE, "No matching distribution found for no-such-package"), (IMAGE, "python3 was not found")],
)
def test_a_resolvers_words_are_told(engine: Dockerd, image: str, said: str) -> None:
    environment = Environment(requirements=("--no-index", "no-such-package==1"))
    state = run(backend_of(engine), job("true", container={"image": image}, environment=environment))
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert said in state.message
    assert "no-such-package" in state.message
    assert engine.client().containers(all=True) == []


# -- Dockerfiles ----------------------------------------------------------------------------------------------------


def test_a_dockerfile_is_built_once_with_the_project_around_it(engine: Dockerd) -> None:
    backend, said = backend_of(engine), list[str]()
    dockerfile = f"""
        FROM {IMAGE}
        COPY . /app
        RUN echo more >> "/app/data/it's.txt" && ls /app
        ENV WORD=set
    """
    files = {"data/it's.txt": "text\n", ".dockerignore": "left_out\n", "left_out": "x"}
    content = 'cat "/app/data/it\'s.txt"; echo $WORD; ls /app/left_out 2>&1; cat left_out'
    plan = built(content, dockerfile, **files)
    state = run(backend, plan, said)
    assert state.status is JobStatus.SUCCEEDED, (state.message, said)
    assert log(backend, plan.job_id).startswith(b"text\nmore\nset\nls: /app/left_out: No such")
    assert log(backend, plan.job_id).endswith(b"x")
    told = "\n".join(said)
    assert "Making the image of docker/Dockerfile on engine." in told
    assert "RUN echo more" in told
    assert len(derived(engine)) == 1
    said.clear()
    assert run(backend_of(engine), built(content, dockerfile, **files), said).status is JobStatus.SUCCEEDED
    assert [line for line in said if line] == []
    assert left(engine) == []


def test_packages_go_on_top_of_a_dockerfile(engine: Dockerd) -> None:
    plan = built("hello-jobdeploy; cat /mark", f"FROM {APT}\nRUN echo marked >/mark")
    plan = Plan.from_wire({**plan.to_wire(), "container": {**plan.container, "apt_packages": ["hello-jobdeploy"]}})
    backend = backend_of(engine)
    assert run(backend, plan).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"hello from a package\nmarked\n"


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (f"FROM {IMAGE}\nRUN echo before; echo the reason; exit 7", "the reason"),
        (f"FROM {IMAGE}\nRUN --mount=type=cache,target=/x true", "not BuildKit"),
        ("FORM x", "unknown instruction"),
        ("FROM 127.0.0.1:9/no/such:1", "127.0.0.1:9"),
        (f"FROM {IMAGE}\nCOPY no-such-file /", "no-such-file"),
    ],
)
def test_a_builders_words_are_told(engine: Dockerd, dockerfile: str, said: str) -> None:
    state = run(backend_of(engine), built("true", dockerfile))
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert "the image of docker/Dockerfile could not be made" in state.message
    assert said in state.message
    assert engine.client().containers(all=True) == []


def test_a_dockerfile_that_is_not_in_the_project(engine: Dockerd) -> None:
    plan = built("true", f"FROM {IMAGE}")
    plan = Plan.from_wire({**plan.to_wire(), "container": {"dockerfile": "no/Dockerfile"}})
    state = run(backend_of(engine), plan)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert "no/Dockerfile" in state.message


# -- several at once, and those that are killed ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dockerfile", "apt"])
def test_of_several_at_once_one_makes_it(engine: Dockerd, kind: str) -> None:
    def plan() -> Plan:
        if kind == "apt":
            return job("true", container={"image": APT, "apt_packages": ["hello-jobdeploy"]})
        return built("true", f"FROM {IMAGE}\nRUN head -c 8 /dev/urandom >/here")

    others = threading.Semaphore(0)

    class Said(list[str]):
        """Who makes it goes on when the others have come: it may be made before they ask."""

        def append(self, text: str) -> None:
            super().append(text)
            if "Another job is making" in text:
                others.release()
            elif "Making" in text:
                assert all(others.acquire(timeout=60) for _ in range(2))

    said = Said()
    states: list[JobState] = []
    if kind == "dockerfile":
        backend_of(engine).send_tree(PROJECTS[plan().bundle])
    at_once(*[lambda: states.append(run(backend_of(engine), plan(), said)) for _ in range(3)])
    assert [state.status for state in states] == [JobStatus.SUCCEEDED] * 3, [state.message for state in states]
    assert sum("Making" in line for line in said) == 1
    assert sum("Another job is making" in line for line in said) == 2
    assert len(derived(engine)) == 1
    assert left(engine) == []


BUILDER = """
import sys
from airflow_jobdeploy.core.plan import Plan
from tests.backends import test_derived as t
from tests.servers.dockerd import Dockerd
from pathlib import Path

backend = t.backend_of(Dockerd(Path(sys.argv[1])))
plan = t.slow(sys.argv[2])
backend.claim(plan)
if plan.bundle:
    backend.send_tree(t.PROJECTS[plan.bundle])
    backend.use_tree(plan.job_id, t.WORK, plan.bundle)
backend.prepare(plan.job_id, lambda text: print(text, flush=True))
"""


def slow(kind: str, image: str = PYTHON) -> Plan:
    if kind == "dockerfile":
        return built("cat /here", f"FROM {IMAGE}\nRUN sleep 2; echo here >/here")
    environment = Environment(requirements=("--no-index", "--find-links /wheels", "beta"))
    return job("echo here", container={"image": image}, environment=environment)


@pytest.mark.parametrize("kind", ["dockerfile", "pip"])
def test_when_who_makes_it_is_killed_another_goes_on(
    engine: Dockerd, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerfiles, "_DEAD_S", 2.0)
    command = [sys.executable, "-c", BUILDER, str(engine.dir), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = next(line for line in child.stdout if "Making" in line)
        assert line
        os.kill(child.pid, signal.SIGKILL)
    said: list[str] = []
    backend, plan = backend_of(engine), slow(kind)
    assert run(backend, plan, said).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"here\n"
    assert "Another job is making" in "\n".join(said)
    # What pip was doing is gone on with; a builder's work ended with its connection.
    assert ("Making the image" in "\n".join(said)) is (kind == "dockerfile")
    # A submitter that was killed may leave what it reads through: garbage, by and by.
    assert [name for name in left(engine) if not name.startswith("jobdeploy-x-")] == []


def test_who_is_let_go_leaves_nothing(engine: Dockerd) -> None:
    class LetGo(Exception):
        pass

    def say(text: str) -> None:
        if "Making" in text:
            raise LetGo

    backend, plan = backend_of(engine), slow("pip")
    backend.claim(plan)
    with pytest.raises(LetGo):
        backend.prepare(plan.job_id, say)
    assert left(engine) == []
    assert derived(engine) == []


def test_a_stop_ends_what_is_being_made(engine: Dockerd) -> None:
    plan, backend, said = slow("pip", BARE), backend_of(engine), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if "Making" in text:
            assert backend_of(engine).stop(plan.job_id, reason="a test").status is JobStatus.CANCELLED

    backend.claim(plan)
    backend.prepare(plan.job_id, say)
    assert backend.start(plan.job_id).status is JobStatus.CANCELLED
    assert "Made" not in "\n".join(said)
    assert left(engine) == []
    assert derived(engine) == []


@pytest.mark.parametrize("kind", ["dockerfile", "pip"])
def test_setup_timeout_bounds_it(engine: Dockerd, kind: str) -> None:
    plan = slow(kind, BARE)
    plan = Plan.from_wire({**plan.to_wire(), "limits": Limits(setup_timeout_s=1).to_dict()})
    state = run(backend_of(engine), plan)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert "it took longer than 1" in state.message
    assert left(engine) == []
