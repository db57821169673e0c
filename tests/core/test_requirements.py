"""`requirements`: what lines and files become, and what is said of those that no worker could install from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from airflow_jobdeploy.core.plan import Environment, Plan
from airflow_jobdeploy.core.requirements import environment_of, logical_lines
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.errors import SpecError

HASH = "--hash=sha256:" + "0" * 64


def made(wanted: Any, files: Mapping[str, str] | None = None, **fields: Any) -> Environment | None:
    spec = load_spec({"command": "x", "requirements": wanted, **fields})
    read = files.get if files is not None else None
    return environment_of(spec.requirements, read, where=spec.given["requirements"], python=spec.python or "")


def lines(text: str) -> tuple[str, ...]:
    found = made("r.txt", {"r.txt": text})
    return found.requirements if found else ()


def faults(wanted: Any, files: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        made(wanted, files)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("numpy\n\n# nothing\n  torch >= 2  # why not\r\n", ["numpy", "torch >= 2"]),
        ("\ufeffnumpy==1.0 ; python_version<'3.9'", ["numpy==1.0 ; python_version<'3.9'"]),
        (f"numpy==1.0 \\\n    {HASH} \\\n    {HASH}\n", [f"numpy==1.0 {HASH} {HASH}"]),
        ("numpy \\\n# not this\ntorch", ["numpy", "torch"]),
        ("a @ https://host/a.whl#sha256=1\ngit+https://host/x@main", None),
        ("-i https://host/simple\n--find-links=/srv/w\n-f https://h/l\n--pre\na", [
            "--index-url https://host/simple", "--find-links /srv/w", "--find-links https://h/l", "--pre", "a",
        ]),
        ("a[b,c]~=1.0\na[b,c]~=1.0", ["a[b,c]~=1.0"]),
        ("a\n--extra-index-url https://${USER}:${TOKEN}@host/simple", None),
        ("# only this\n--no-index", []),
    ],
    ids=range(9),
)  # fmt: skip
def test_lines_of_a_file(text: str, kept: Sequence[str] | None) -> None:
    assert list(lines(text)) == (text.splitlines() if kept is None else list(kept))


def test_comments_and_blanks_make_no_other_environment() -> None:
    assert made("r.txt", {"r.txt": "# x\nnumpy>=1,  <2\n"}) == made(["numpy>=1, <2"])


def test_files_name_files_from_where_they_lie() -> None:
    files = {
        "env/all.txt": "-r base.txt\n--requirement ../more.txt\n-c pins.txt\ntorch",
        "env/base.txt": "numpy",
        "more.txt": "-renv/base.txt\nscipy",
        "env/pins.txt": "-r deep.txt\nnumpy==1.0\n--index-url https://host/simple",
        "env/deep.txt": "scipy<2",
    }
    found = made("./env/all.txt", files, python="3.11")
    assert found == Environment(
        requirements=("numpy", "scipy", "--index-url https://host/simple", "torch"),
        constraints=("scipy<2", "numpy==1.0"),
        python="python3.11",
    )
    assert made(["-r env/base.txt", "torch"], files) == Environment(requirements=("numpy", "torch"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-e .", "leave the line out"),
        ("--editable=git+https://h/x", "nothing in it can be edited"),
        (".", "The project is the job's working directory"),
        (".[dev]", "set PYTHONPATH"),
        ("./vendor/x", "is a path on this machine. Give it an index"),
        ("/srv/x-1.0-py3-none-any.whl", "is a path on this machine"),
        ("x-1.0-py3-none-any.whl", "is a path on this machine"),
        ("~/x", "is a path on this machine"),
        ("x @ file:///srv/x.whl", "is a path on one machine"),
        ("git+file:///srv/x", "is a path on one machine"),
        ("--find-links wheels", "the absolute path of a folder on the worker"),
        ("--find-links", "needs one value"),
        ("-i https://a --pre", "Write an option a line"),
        ("--no-index yes", "takes no value"),
        ("--index-ur https://a", "Did you mean '--index-url'?"),
        ("--install-option=x", "cannot be used here"),
        ("-", "cannot be used here"),
        ("numpy --global-option=x", "Only --hash can"),
        ("numpy --hash=sha256:xyz", "is no hash"),
        ("numpy=1.0", "is no requirement"),
        ("$(id); `id`", "is no requirement"),
        ("--index-url https://me:hunter2@host/simple", "a password must not be written here. Write ${NAME}"),
        ("x @ https://0123456789abcdef0123@host/x.whl", "a password must not be written here"),
        ("-r https://host/r.txt", "is no file of the project"),
        ("-r ../r.txt", "is no file of the project"),
        ("-r /etc/passwd", "is no file of the project"),
        ("-r other.txt", "has no file 'a/other.txt'"),
    ],
)
def test_what_no_worker_could_install_from(line: str, said: str) -> None:
    (fault,) = faults("a/r.txt" if ".." not in line else "r.txt", {"a/r.txt": f"numpy\n{line}", "r.txt": f"\n{line}"})
    assert fault.startswith(("a/r.txt:2: ", "r.txt:2: "))
    assert said in fault
    assert "hunter2" not in fault


def test_all_problems_at_once_and_with_their_places() -> None:
    found = faults("r.txt", {"r.txt": "numpy=1\n-r more.txt\n-e .", "more.txt": "ok\n--nonsense"})
    assert [text.split(": ")[0] for text in found] == ["r.txt:1", "r.txt:3", "more.txt:2"]
    (text,) = faults(["ok", "a\nb"])
    assert text.startswith("<job_spec>: requirements[1]: holds a line break")


def test_files_that_are_not_there() -> None:
    assert "A package is written as a list: [torch]." in faults("torch", {})[0]
    assert "Give project_dir." in faults("r.txt", None)[0]
    assert (
        "r.txt includes itself: r.txt -> s.txt -> r.txt."
        in faults("r.txt", {"r.txt": "-r s.txt", "s.txt": "-r r.txt"})[0]
    )


def test_a_bomb_of_includes_ends() -> None:
    files = {f"{n}.txt": f"-r {n + 1}.txt\n" * 2 + f"x{n}" for n in range(12)} | {"12.txt": "y"}
    assert made("0.txt", files) is not None
    many = {"r.txt": "\n".join(f"x{n}" for n in range(5001))}
    assert "more than 5000 lines" in faults("r.txt", many)[0]


def test_unasked() -> None:
    files = {"requirements.txt": "numpy"}
    assert environment_of(None, files.get, where="x:1") is None
    assert environment_of(None, files.get, where="x:1", unasked=True) == Environment(requirements=("numpy",))
    assert environment_of(None, {}.get, where="x:1", unasked=True) is None
    assert environment_of((), files.get, where="x:1", unasked=True) is None


def test_nothing_to_install_is_no_environment() -> None:
    assert made([]) is None
    assert made("r.txt", {"r.txt": "# later"}) is None


def test_an_environment_travels_in_a_plan() -> None:
    environment = made(["numpy", "-c pins.txt"], {"pins.txt": "numpy<2"}, python=3.11)
    plan = Plan(uid="u", environment=environment)
    wire = plan.to_wire()
    assert wire["environment"] == {"requirements": ["numpy"], "constraints": ["numpy<2"], "python": "python3.11"}
    assert Plan.from_wire({**wire, "environment": {**wire["environment"], "newer": 1}}).environment == environment
    assert Plan.from_wire(Plan(uid="u").to_wire()).environment is None


def test_lines_are_joined_as_pip_does() -> None:
    text = "a \\\n b\n# c \\\nd \\\n # e\nf \\"
    assert [(number, line.split()) for number, line in logical_lines(text)] == [
        (1, ["a", "b"]), (3, ["#", "c", "\\"]), (4, ["d", "#", "e"]), (6, ["f"]),
    ]  # fmt: skip
