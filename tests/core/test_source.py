"""YAML and mappings become plain values that know where they stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.source import MAX_DEPTH, MAX_NODES, Item
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.yaml_text import parse_yaml
from airflow_jobdeploy.errors import Problem, SpecError


def parsed(text: str | bytes) -> Item:
    problems: list[Problem] = []
    document = parse_yaml(text, "f.yaml", problems)
    assert document is not None, problems
    assert not problems
    return Item(document.value, document)


def problems_of(text: str | bytes) -> list[str]:
    problems: list[Problem] = []
    parse_yaml(text, "f.yaml", problems)
    return [str(problem) for problem in problems]


def test_items_know_line_and_path() -> None:
    item = parsed("a:\n  b:\n    - x\n    - y: |\n        one\n\n        three\n")
    element = item.child("a").child("b").child(1)
    assert (item.child("a").where, item.child("a").child("b").child(0).where) == ("f.yaml:1", "f.yaml:3")
    assert (element.child("y").where, element.child("y").path) == ("f.yaml:4", "a.b[1].y")
    assert element.child("y").where_line(3) == "f.yaml:7"


def test_lines_of_texts_that_are_no_literal_blocks_are_those_of_their_key() -> None:
    item = parsed('a: >\n  folded\n  text\nb: "x\n  y"\n')
    assert item.child("a").where_line(2) == "f.yaml:1"
    assert item.child("b").where_line(2) == "f.yaml:4"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-1_000", -1000),
        ("0x1F", 31),
        ("0b101", 5),
        ("3.10", 3.1),
        ("1e-3", 0.001),
        ("007", "007"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("! x", "x"),
        ("<<", "<<"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = parsed(f"a: {text}").child("a").value
    assert found == value
    assert type(found) is type(value)


def test_keys_are_the_text_as_written() -> None:
    assert list(parsed("on: 1\n1: 2\nnull: 3\n3.10: 4\n").value) == ["on", "1", "null", "3.10"]


def test_scalars_remember_how_they_were_written() -> None:
    item = parsed("a: 3.10\nb: yes\nc: [0x10]\n")
    assert [item.child("a").text, item.child("b").text, item.child("c").child(0).text] == ["3.10", "yes", "0x10"]


def test_anchors_and_merge_keys() -> None:
    item = parsed("base: &b {x: 1, y: 2}\nc: {<<: *b, y: 3}\nd: {<<: [{x: 5}, *b]}\n")
    assert item.value["c"] == {"x": 1, "y": 3}
    assert item.value["d"] == {"x": 5, "y": 2}
    assert item.child("c").child("x").where == "f.yaml:1"


def test_a_byte_order_mark_and_crlf_are_fine() -> None:
    assert parsed(b"\xef\xbb\xbfa: |\r\n  x\r\n  y\r\n").value == {"a": "x\ny\n"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f.yaml: the file is empty"),
        ("# only a comment\n", "the file is empty"),
        (b"\xff\xfea\0", "is UTF-16. Save it as UTF-8"),
        (b"a: 1\nb: \xe9\n", "f.yaml:2:4: byte 0xe9 is not UTF-8"),
        ("a: \x07", "f.yaml:1:4: the character U+0007"),
        ("a:\n\t- b", "f.yaml:2:1: this is not YAML"),
        ("a: 1\n---\nb: 1\n", "Keep one document a file"),
        ("a: 1\nb: 1\na: 2\n", "f.yaml:3: a: the key 'a' is given twice (first in line 1)"),
        ("a: *x", "undefined alias 'x'"),
        ("a: !!python/object:os.system x", "the tag !!python/object:os.system is not supported"),
        ("a: !mine x", "the tag !mine is not supported"),
        ("a: !!set {x}", "the tag !!set is not supported"),
        ("a: !!int x", "'x' is not of the type that its tag !!int says"),
        ("? [1]\n: 2", "a key must be text"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ('a: "\\UFFFFFFFF"', "holds an escape or a directive that is no YAML"),
        ("%YAML 9.9\n--- a", "this is not YAML"),
        ("a: 'x", "A quote or bracket is not closed"),
        ("[" * 100_000, f"nested deeper than {MAX_DEPTH}"),
        ("{" * 100_000, f"nested deeper than {MAX_DEPTH}"),
        ("- " * 100_000, f"nested deeper than {MAX_DEPTH}"),
        ("a: [" + "x," * (MAX_NODES + 1) + "]", f"more than {MAX_NODES} values"),
        ("a: &x [*x]", "does an anchor contain itself?"),
        ("a: &x {<<: *x}", "does not contain itself"),
        ("a: &x {<<: &y {<<: *x}}", "does not contain itself"),
        ("a: {<<: 3}", "`<<` takes a mapping"),
    ],
)
def test_what_is_wrong_is_said(text: str | bytes, said: str) -> None:
    found = problems_of(text)
    assert any(said in problem for problem in found), found


def test_billion_laughs_are_not_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert len(problems_of("\n".join(lines))) == 1


def test_billion_merges_end_too() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert len(problems_of("\n".join(lines))) == 1


def test_mappings_are_copied_and_checked() -> None:
    problems: list[Problem] = []
    given = {"a": (1, 2), "b": Path("x/y"), "c": {"d": None}}
    item = read_source(given, problems, label="<template>")
    assert item is not None
    assert item.value == {"a": [1, 2], "b": "x/y", "c": {"d": None}}
    assert item.child("c").where == "<template>"


def test_all_problems_of_a_mapping_at_once() -> None:
    problems: list[Problem] = []
    given: dict[Any, Any] = {"a": object(), "b": float("nan"), "d": 10**5000, 1: 2, "c": ["\ud800"], "\udfff": 1}
    read_source(given, problems, label="<template>")
    assert len(problems) == 6


@pytest.mark.parametrize("size", [MAX_DEPTH * 50, 2])
def test_a_mapping_that_contains_itself(size: int) -> None:
    given: dict[str, Any] = {"a": [0] * size}
    given["b"] = given
    problems: list[Problem] = []
    assert read_source(given, problems, label="<template>") is None
    assert "Does it contain itself?" in str(problems[0])


def test_files_are_found_beside_the_dag_then_on_the_search_path_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, search, here = (tmp_path / name for name in ("base", "search", "here"))
    for folder in (here, search, base):
        folder.mkdir()
        (folder / "f.yaml").write_text(f"a: {folder.name}")
        monkeypatch.chdir(here)
        item = read_source("f", [], label="<x>", base=base, search_path=[search])
        assert item is not None
        assert item.value == {"a": folder.name}


def test_the_nearest_file_is_given_as_it_would_be_written(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("{}")
    (tmp_path / "inner").mkdir()
    with pytest.raises(SpecError, match=r"there is no file '../tsk.yaml'. Did you mean '../task.yaml'\?"):
        load_spec("../tsk.yaml", search_path=[tmp_path / "inner"])


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local.yaml").write_text("a: 1")
    problems: list[Problem] = []
    assert read_source("locla.yaml", problems, label="<template>", base=Path("/nowhere"), search_path=[]) is None
    assert "Did you mean 'local.yaml'?" in str(problems[0])
    assert "/nowhere/locla.yaml\n    locla.yaml" in str(problems[0])


@pytest.mark.parametrize("name", ["a: 1\nb: 2\n", "x\0y", "", "x" * 5000, "~nobody/x.yaml"])
def test_names_that_are_no_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problems: list[Problem] = []
    assert read_source(name, problems, label="<template>") is None
    assert len(problems) == 1


def test_pipes_folders_and_huge_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nothing")
    for name, said in {
        "pipe": "not a regular file",
        "folder": "no file",
        "huge": "larger than",
        "dangling": "cannot be read",
    }.items():
        problems: list[Problem] = []
        assert read_source(tmp_path / f"{name}.yaml", problems, label="<template>") is None
        assert said in str(problems[0])


def test_the_seeds_sample_is_corrected_so_that_it_runs(data: Path) -> None:
    problems: list[Problem] = []
    read_source(data / "my_model_as_printed.yaml", problems, label="<template>")
    assert problems[0].where.endswith("my_model_as_printed.yaml:8:12")
    corrected = problems[0].hint.partition("Corrected:\n")[2]
    own = parsed((data / "my_model.yaml").read_text()).value
    assert parsed(corrected).value["watch"]["type"] == own["watch"]["type"]
    assert parsed(corrected + "\n").value["watch"]["content"].split() == own["watch"]["content"].split()
