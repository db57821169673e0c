"""`--params` and `--set`: the grammar, the types, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.commands.values import UsageError, for_fields, for_params, read_pairs
from airflow_jobdeploy.core.params import ParamSpec
from airflow_jobdeploy.errors import InputError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a=1"], {"a": "1"}),
        (["a=1,b=2"], {"a": "1", "b": "2"}),
        (["a=1", "a=2"], {"a": "2"}),
        (["run=python main.py --opt a,b"], {"run": "python main.py --opt a,b"}),
        (['run="train --a=1,b=2",epochs=3'], {"run": "train --a=1,b=2", "epochs": "3"}),
        ([r'x="a \"quoted\" word"'], {"x": 'a "quoted" word'}),
        (['x="not" all of it'], {"x": '"not" all of it'}),
        (["x=a=b=c"], {"x": "a=b=c"}),
        (["x="], {"x": ""}),
        (["x=line 1\nline 2,y=3"], {"x": "line 1\nline 2", "y": "3"}),
        (["x=; rm -rf ~, $(id)"], {"x": "; rm -rf ~, $(id)"}),
    ],
)
def test_the_grammar(given: list[str], expected: dict[str, str]) -> None:
    assert read_pairs(given) == expected


@pytest.mark.parametrize("given", ["a", "=1", ",a=1", "a b"])
def test_what_is_no_pair(given: str) -> None:
    with pytest.raises(UsageError, match=r"is no k=v\. Write --params name=value, or --params @file\.yaml"):
        read_pairs([given])


def test_a_file_and_what_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "the values.yaml"
    path.write_text("epochs: 3\nlr: 0.1\ntags: [a, b]\n")
    assert read_pairs([f"@{path}", "epochs=4"]) == {"epochs": "4", "lr": 0.1, "tags": ["a", "b"]}
    with pytest.raises(InputError, match="there is no file"):
        read_pairs(["@nowhere.yaml"])


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("string", "3", "3"),
        ("string", "true", "true"),
        ("integer", "3", "3"),  # which the param itself makes a number, and refuses what is none
        ("array", "a+b+3", ["a", "b", 3]),
        ("array", "[1, two]", [1, "two"]),
        ("array", "one", ["one"]),
        ("object", "{a: 1}", {"a": 1}),
        (None, "3", 3),
        (None, "-1.5", -1.5),
        (None, "true", True),
        (None, "null", None),
        (None, "a+b", "a+b"),
        (None, "a: b", "a: b"),
        (None, "#1", "#1"),
        (None, "007", "007"),
        (None, '"3"', "3"),
        (None, "[1, 2]", [1, 2]),
        (None, "{{ x", "{{ x"),
        (None, "", ""),
    ],
)
def test_types(kind: str | None, text: str, expected: Any) -> None:
    given = read_pairs([f"x={text}"])
    value = for_params(given, {"x": ParamSpec(name="x", type=kind)})["x"]
    assert value == expected
    assert type(value) is type(expected)


def test_fields_of_job_specs() -> None:
    given = read_pairs(["timeout=2h", "env={A: 3.10, B: [yes, null]}", "job_name=null", "command=3", 'args="null"'])
    assert for_fields(given) == {
        "timeout": "2h",
        "env": {"A": "3.10", "B": [True, None]},
        "job_name": None,
        "command": "3",
        "args": "null",
    }
