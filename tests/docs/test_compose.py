"""docker-compose.yaml: docker compose reads it, nothing in it is secret or unpinned, and what it names is there.

No engine is asked: tests/airflow/test_scaled_out.py runs the same parts as processes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_jobdeploy.core.pool import load_pool
from airflow_jobdeploy.hostside import smi

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yaml"
#: As it is written, anchors resolved and variables not.
WRITTEN: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = WRITTEN["services"]
#: They do something and end.
PASSING = {"migrate", "keys"}


def _make(tree: Path, target: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(tree), target]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout in which nothing was made yet."""
    copy = tmp_path / "it's a tree"
    copy.mkdir()
    for name in ("Makefile", "docker-compose.yaml"):
        shutil.copy(ROOT / name, copy)
    for name in ("scripts", "compose"):
        shutil.copytree(ROOT / name, copy / name)
    return copy


def _secrets(tree: Path) -> dict[str, str]:
    lines = (tree / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def _asked() -> set[str]:
    return set(re.findall(r"\$\{([A-Z_]+):\?", FILE.read_text(encoding="utf-8")))


@pytest.mark.compose
def test_docker_compose_reads_it_and_needs_no_env_file_for_that(tree: Path) -> None:
    checked = _make(tree, "compose-check")
    assert checked.returncode == 0, checked.stderr
    assert "valid" in checked.stdout
    assert not (tree / ".env").exists()


@pytest.mark.compose
def test_docker_compose_finds_what_is_wrong(tree: Path) -> None:
    text = FILE.read_text(encoding="utf-8").replace("condition: service_healthy", "condition: service_happy")
    (tree / "docker-compose.yaml").write_text(text)
    assert _make(tree, "compose-check").returncode != 0


@pytest.mark.compose
def test_without_secrets_it_does_not_start_and_says_how_to_get_them(tree: Path) -> None:
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    clean = {name: value for name, value in os.environ.items() if name not in _asked()}
    refused = subprocess.run([*program, "config"], cwd=tree, env=clean, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "make compose-env" in refused.stderr
    assert _make(tree, "compose-env").returncode == 0
    subprocess.run([*program, "config"], cwd=tree, env=clean, capture_output=True, text=True, check=True)


def test_secrets_are_random_complete_and_for_the_owner_only(tree: Path) -> None:
    assert _make(tree, "compose-env").returncode == 0
    first = _secrets(tree)
    assert set(first) == _asked()
    assert stat.S_IMODE((tree / ".env").stat().st_mode) == 0o600
    assert len(set(first.values())) == len(first)
    assert len(base64.urlsafe_b64decode(first.pop("FERNET_KEY"))) == 32
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in first.values())
    (tree / ".env").unlink()
    assert _make(tree, "compose-env").returncode == 0
    assert not set(first.values()) & set(_secrets(tree).values())
    assert [path.name for path in tree.glob(".env*")] == [".env"]


def test_secrets_that_are_there_stay(tree: Path) -> None:
    (tree / ".env").write_text("POSTGRES_PASSWORD=mine\n")
    made = _make(tree, "compose-env")
    assert made.returncode == 0
    assert "stays" in made.stdout
    assert _secrets(tree) == {"POSTGRES_PASSWORD": "mine"}


def test_no_secret_has_a_default() -> None:
    words = re.compile(r"PASSWORD$|SECRET|_KEY$|AUTH$|FERNET")
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if words.search(variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?is not set: run make compose-env\}", value), f"{name}: {variable}"
    # In URLs, what follows the login.
    for password in re.findall(r"://\w*:([^@/\s]+)@", FILE.read_text(encoding="utf-8")):
        assert password.startswith("${")
        assert ":?" in password


def test_images_are_pinned_and_of_the_airflow_that_is_tested() -> None:
    bases = [line.split()[1] for path in (ROOT / "compose").glob("*.Dockerfile") for line in _from(path)]
    foreign = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(bases) == 2
    for image in (*bases, *foreign):
        assert re.search(r":\d+\.\d+(\.\d+)?(-[\w.]+)?$", image), image
    (pinned,) = re.findall(r"^apache-airflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"apache/airflow:{pinned}-python3.12" in bases
    assert {service["image"] for service in SERVICES.values() if "migrate" in str(service.get("depends_on"))} == {
        f"airflow-jobdeploy:{pinned}"
    }


def _from(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("FROM ")]


def test_every_part_that_stays_says_whether_it_is_well() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == PASSING
    assert {name for name, service in SERVICES.items() if service["restart"] == "no"} == PASSING


def test_nothing_is_open_to_other_machines() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"api-server": ["127.0.0.1:${AIRFLOW_PORT:-8080}:8080"]}
    assert WRITTEN["networks"]["data"] == {"internal": True}
    hosts = {name: service["networks"] for name, service in SERVICES.items() if name.startswith("gpu-")}
    assert hosts == {"gpu-1": ["hosts"], "gpu-2": ["hosts"]}


def test_the_pool_is_of_its_hosts() -> None:
    pool = load_pool(ROOT / "compose/pool.yaml")
    assert [worker.name for worker in pool.workers] == [name for name in SERVICES if name.startswith("gpu-")]
    settings = SERVICES["worker-1"]["environment"]
    told = {name.removeprefix("AIRFLOW_CONN_").lower() for name in settings if name.startswith("AIRFLOW_CONN_")}
    assert told == {settings["AIRFLOW_VAR_JOBDEPLOY_WORKER_POOL"], *(worker.conn_id for worker in pool.workers)}
    where = json.loads(settings["AIRFLOW_CONN_LAB"])["extra"]["pool_file"]
    assert f"./compose/pool.yaml:{where}:ro" in SERVICES["worker-1"]["volumes"]
    assert SERVICES["keys"]["command"][2:] == [worker.name for worker in pool.workers]


def test_the_gpu_that_is_not_there_is_one_to_us() -> None:
    """The questions that a worker's facts ask."""
    reader = smi.READERS["nvidia-smi"]
    asked = [
        subprocess.run(["sh", str(ROOT / "compose/nvidia-smi.sh"), *words], capture_output=True, text=True, check=False)
        for words in reader.questions
    ]
    seen = reader.read([answer.stdout for answer in asked], [answer.returncode for answer in asked])
    (gpu,) = seen[0]
    assert (gpu["index"], gpu["model"], gpu["memory_bytes"]) == (0, "NVIDIA H200", 143771 * 1024**2)
    assert seen[1:] == ("570.00", {})
