"""Relative paths: where they are looked up, and what the error says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_jobdeploy.errors import SpecError, TemplateError
from airflow_jobdeploy.hooks import files


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are looked into, in order, with hostile names."""
    folders = [tmp_path / name for name in ("beside the dag", "search;path", "über $conf", "cwd")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__SEARCH_PATH", str(folders[2]))
    monkeypatch.chdir(folders[3])
    return folders


def _dag(four: list[Path]) -> SimpleNamespace:
    return SimpleNamespace(fileloc=str(four[0] / "dag.py"), template_searchpath=str(four[1]))


def test_the_order(four: list[Path]) -> None:
    where = files.folders(_dag(four))
    assert list(where) == four
    for folder in reversed(four):
        (folder / "t.yaml").write_text("")
        assert files.find("t.yaml", where, argument="template") == folder / "t.yaml"


def test_several_search_paths_and_no_dag(four: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dag = SimpleNamespace(fileloc=str(four[0] / "dag.py"), template_searchpath=[str(four[2]), str(four[1])])
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__SEARCH_PATH", f"{four[1]}:{four[2]}")
    assert list(files.folders(dag)) == [four[0], four[2], four[1], four[3]]
    assert list(files.folders()) == [four[1], four[2], four[3]]


def test_the_error_lists_what_was_tried(four: list[Path]) -> None:
    with pytest.raises(TemplateError) as caught:
        files.find("no.yaml", files.folders(_dag(four)), argument="template", error=TemplateError)
    lines = str(caught.value).splitlines()
    assert lines[0] == "template: there is no file 'no.yaml'; looked for it at"
    assert lines[1:] == [f"  {folder}/no.yaml" for folder in four]


def test_the_nearest_name_is_given_as_it_would_be_written(four: list[Path]) -> None:
    (four[2] / "data").mkdir()
    (four[2] / "data" / "digits").mkdir()
    for given, meant in (("dta/", "data"), ("data/digit", "data/digits")):
        with pytest.raises(
            SpecError, match=rf"there is no folder '{given}'. Did you mean '{meant}'\? Looked for it at"
        ):
            files.find(given, four, argument="project_dir", error=SpecError, folder=True)


def test_absolute_paths_stand_for_themselves(four: list[Path], home: Path) -> None:
    (four[0] / "a.yaml").write_text("")
    assert files.find(four[0] / "a.yaml", [], argument="template") == four[0] / "a.yaml"
    (home / "b.yaml").write_text("")
    assert files.find("~/b.yaml", [], argument="template") == home / "b.yaml"
    with pytest.raises(SpecError, match="there is no file '/no/such'"):
        files.find("/no/such", four, argument="job_spec", error=SpecError)


def test_a_folder_is_no_file(four: list[Path]) -> None:
    (four[1] / "x").mkdir()
    with pytest.raises(TemplateError, match="is a folder; expected a file"):
        files.find("x", four, argument="template", error=TemplateError)
    assert files.find("x", four, argument="project_dir", folder=True) == four[1] / "x"


def test_the_commit_of_a_folder(tmp_path: Path) -> None:
    assert files.commit_of(None) == ""
    assert files.commit_of(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert len(files.commit_of(tmp_path)) == 40
