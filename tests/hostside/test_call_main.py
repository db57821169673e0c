"""main(dataset_dir, model_output_dir) of a project, called on its worker as DDL did."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.plan import Step
from airflow_jobdeploy.hostside import call_main, finish
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Serve, plan


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "my pro'ject"
    path.mkdir()
    return path


def run(serve: Serve, project: Path, text: str, *args: str, **how: Any) -> dict[str, Any]:
    (project / "main.py").write_text(textwrap.dedent(text))
    return serve.run(plan((Step(name="job", kind="main", args=args),), workdir=str(project), **how))


def test_two_directories_and_the_root_as_it_was_tested(serve: Serve, host: HostPaths, project: Path) -> None:
    (project / "config.yaml").write_text("epochs: 3\n")
    (project / "example_objects").mkdir()
    (project / "example_objects/example.py").write_text("NAME = 'imported'\n")
    (project / "process.py").write_text("MINE = 'not the runner\\'s'\n")
    text = """
        import os, subprocess, sys
        from example_objects.example import NAME
        import process
        def main(dataset_dir, model_output_dir):
            print(NAME, process.MINE, open("config.yaml").read().strip(), sys.argv[1:], __name__)
            print(os.getcwd() == os.path.dirname(os.path.abspath(__file__)) == sys.path[0])
            print(os.listdir(dataset_dir), os.environ["JOBDEPLOY_DATASET_DIR"] == dataset_dir)
            subprocess.run([sys.executable, "-c", "import example_objects.example"], cwd="/", check=True)
            open(os.path.join(model_output_dir, "model.h5"), "w").write("m")
            return {"accuracy": 0.9}
    """
    state = run(serve, project, text, "--epochs", "3 4")
    assert state["status"] == "SUCCEEDED", serve.log(state["job_id"]).decode()
    assert serve.log(state["job_id"]).decode().splitlines() == [
        "imported not the runner's epochs: 3 ['--epochs', '3 4'] main",
        "True",
        "[] True",
    ]
    assert state["result"] == {"accuracy": 0.9}
    assert state["artifacts"]["files"] == 1
    assert not (project / "__pycache__/call_main").exists()


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("def main(d, o):\n    raise ValueError('no epochs')", "ValueError: no epochs"),
        ("import missing_module\ndef main(d, o): pass", "ModuleNotFoundError: No module named 'missing_module'"),
        ("def main(d, o) pass", "SyntaxError: "),
        ("x = 1", "TypeError: main.py has no function main(dataset_dir, model_output_dir)"),
        ("async def main(d, o): pass", "TypeError: main() gave a coroutine, whose code has not run"),
        ("def main(d, o):\n    yield 1", "TypeError: main() gave a generator, whose code has not run"),
        ("def main(d): pass", "TypeError: main() takes 1 positional argument but 2 were given"),
    ],
)
def test_exceptions_are_tracebacks_and_exit_code_1(serve: Serve, project: Path, text: str, last: str) -> None:
    state = run(serve, project, text)
    log = serve.log(state["job_id"]).decode()
    assert (state["status"], state["exit_code"]) == ("FAILED", 1)
    assert log.splitlines()[-1].startswith(last)
    assert "call_main.py" not in log  # the project's own frames only


def test_its_own_exit_code(serve: Serve, project: Path) -> None:
    assert run(serve, project, "import sys\ndef main(d, o): sys.exit(7)")["exit_code"] == 7


def test_a_missing_main_is_a_setup_failure(serve: Serve, project: Path) -> None:
    (project / "Main.py").write_text("")
    state = serve.run(plan((Step(name="job", kind="main"),), workdir=str(project)))
    assert state["reason"] == "Setup"
    assert "main.py is not at the root of the project" in state["message"]
    assert "there: Main.py" in state["message"]


def test_a_dataset_is_what_main_is_given(serve: Serve, project: Path) -> None:
    (project.parent / "storage/set/deep").mkdir(parents=True)
    (project.parent / "storage/set/deep/my_data.tfrecord").write_text("x")
    text = "import os\ndef main(d, o): print(open(os.path.join(d, 'deep/my_data.tfrecord')).read())"
    storage = {"root": str(project.parent / "storage"), "shared": False}
    state = run(serve, project, text, dataset={"storage": "set"}, storage=storage)
    assert serve.log(state["job_id"]) == b"x\n"


@pytest.mark.parametrize(
    ("value", "kept", "said"),
    [
        ("None", None, ""),
        ("[1, 'é', None]", [1, "é", None], ""),
        ("object()", None, "main() returned a object, which is not kept as the result"),
        ("float('nan')", None, "which is not kept as the result"),
        ("'x' * 50000", None, "more than a result may hold (49152): not kept"),
        ("open(os.environ['JOBDEPLOY_RESULT_FILE'], 'w').write('1') and {'b': 2}", 1, ""),
    ],
)
def test_what_it_returns(serve: Serve, project: Path, value: str, kept: Any, said: str) -> None:
    state = run(serve, project, f"import os\ndef main(d, o): return {value}")
    assert (state["status"], state.get("result")) == ("SUCCEEDED", kept)
    assert "result_error" not in state["facts"]
    assert said in serve.log(state["job_id"]).decode()


def test_child_processes_that_are_spawned_find_its_functions(serve: Serve, project: Path) -> None:
    text = """
        import multiprocessing
        def double(x): return 2 * x
        def main(dataset_dir, model_output_dir):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(double, [1, 2])
    """
    assert run(serve, project, text)["result"] == [2, 4]


def test_its_limit_is_that_of_results() -> None:
    assert call_main._LIMIT == finish.RESULT_LIMIT
