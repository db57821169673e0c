"""Folders of a pool's storage as a job finds them, and what would lead out of the storage."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Serve, shell
from tests.servers import disks

Volume = dict[str, Any]
SHOW = 'cd "$JOBDEPLOY_VOLUMES_DIR" && find -L . -mindepth 1 | sort'


def volume(path: str, link: str = "mnt/data", *, read_only: bool = False) -> Volume:
    return {"path": path, "link": link, "read_only": read_only}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "sto rage'; echo \"é"
    path.mkdir(mode=0o750)
    return path


def run(serve: Serve, storage: Path, text: str, *volumes: Volume, shared: bool = False, **how: Any) -> dict[str, Any]:
    return serve.run(shell(text, volumes=volumes, storage={"root": str(storage), "shared": shared}, **how))


def test_a_job_reads_and_writes_through_links_of_its_own(serve: Serve, host: HostPaths, storage: Path) -> None:
    (storage / "in").mkdir()
    (storage / "in/a b").write_text("given\n")
    text = 'cd "$JOBDEPLOY_VOLUMES_DIR"; cat "mnt/in/a b"; echo made > mnt/out/deep/x; cp mnt/in/* all/copied; pwd'
    state = run(
        serve, storage, text, volume("in", "mnt/in", read_only=True), volume("n/ew", "mnt/out/deep"), volume("", "all")
    )
    assert state["status"] == "SUCCEEDED", state
    paths = host.job(state["job_id"])
    assert serve.log(state["job_id"]).decode() == f"given\n{paths.volumes}\n"
    assert (storage / "n/ew/x").read_text() == "made\n"
    assert (storage / "copied").read_text() == "given\n"
    assert stat.S_IMODE((storage / "n/ew").stat().st_mode) == 0o750  # as open as what it lies in
    serve.ask("forget", job=state["job_id"])
    assert not os.path.exists(paths.dir)
    assert (storage / "in/a b").exists()  # the links went, not what they show


def test_a_job_without_volumes_has_no_folder_of_them(serve: Serve) -> None:
    state = serve.run(shell('echo "[$JOBDEPLOY_VOLUMES_DIR]"; test ! -e ../volumes'))
    assert serve.log(state["job_id"]) == b"[]\n"
    assert state["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("path", "read_only", "said"),
    [
        ("nowhere", True, "storage:nowhere is not in the pool's storage: there is no "),
        ("out", False, "storage:out leads out of the pool's storage"),
        ("out/below", False, "storage:out/below leads out of the pool's storage"),
        ("up", True, "storage:up leads out of the pool's storage"),
        ("loop/x", False, "cannot make storage:loop/x"),
        ("file/x", False, "cannot make storage:file/x"),
        ("../beside", False, "leads out of the working directory"),
        ("/etc", True, "leads out of the working directory"),
    ],
)
def test_what_cannot_be_had_is_a_setup_failure(
    serve: Serve, storage: Path, path: str, read_only: bool, said: str
) -> None:
    (storage.parent / "beside").mkdir()
    (storage / "out").symlink_to("/etc")
    (storage / "up").symlink_to("../beside")
    (storage / "loop").symlink_to("loop")
    (storage / "file").write_text("")
    state = run(serve, storage, "echo ran", volume(path, read_only=read_only))
    assert (state["status"], state["reason"]) == ("FAILED", "Setup")
    assert said in state["message"]
    assert serve.log(state["job_id"]) == b""
    assert list((storage.parent / "beside").iterdir()) == []


def test_links_that_stay_inside_are_fine(serve: Serve, storage: Path) -> None:
    (storage / "v1").mkdir()
    (storage / "latest").symlink_to("v1")
    run(serve, storage, 'echo x > "$JOBDEPLOY_VOLUMES_DIR/mnt/data/new/x"', volume("latest/new", "mnt/data/new"))
    assert (storage / "v1/new/x").read_text() == "x\n"


def test_a_storage_that_is_not_mounted(serve: Serve, storage: Path) -> None:
    missing = storage / "not/there"
    state = run(serve, missing, "true", volume("a"), shared=True)
    assert f"the pool's shared storage {missing} is not there on this worker: is it mounted?" in state["message"]
    assert run(serve, missing, SHOW, volume("a"))["status"] == "SUCCEEDED"  # one of its own is made
    assert (missing / "a").is_dir()


def test_a_dataset_is_used_where_it_is(serve: Serve, storage: Path) -> None:
    (storage / "sets/digits").mkdir(parents=True)
    dataset = {"storage": "sets/digits"}
    state = run(serve, storage, 'cd "$JOBDEPLOY_DATASET_DIR" && pwd -P', dataset=dataset)
    assert serve.log(state["job_id"]).decode() == f"{storage}/sets/digits\n"
    state = run(serve, storage, "true", dataset={"storage": "sets/letters"})
    assert state["reason"] == "Setup"
    assert f"there is no {storage}/sets/letters on this worker" in state["message"]


def test_a_dataset_of_one_file_is_in_a_folder(serve: Serve, host: HostPaths, storage: Path) -> None:
    (storage / "sets").mkdir()
    (storage / "sets/digits v1.csv").write_text("1,2\n")
    (storage / "sets/digits.csv").symlink_to("digits v1.csv")
    text = 'cd "$JOBDEPLOY_DATASET_DIR" && ls && cat *'
    state = run(serve, storage, text, dataset={"storage": "sets/digits.csv"})
    assert serve.log(state["job_id"]) == b"digits.csv\n1,2\n"


def test_the_home_of_the_account_and_two_jobs_at_once(connect: Any, tmp_path: Path) -> None:
    serve = connect(env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    how = {"volumes": (volume("a/b/c"),), "storage": {"root": "~/data", "shared": False}}
    jobs = [serve.launch(shell('echo $JOBDEPLOY_JOB_ID >> "$JOBDEPLOY_VOLUMES_DIR/mnt/data/ids"', **how)) for _ in "12"]
    assert [serve.end(job)["status"] for job in jobs] == ["SUCCEEDED"] * 2
    assert sorted((tmp_path / "data/a/b/c/ids").read_text().split()) == sorted(jobs)


def test_a_full_storage_is_told_as_a_full_disk(serve: Serve, tmp_path: Path) -> None:
    with disks.small(tmp_path / "small", "256k") as place:
        text = 'head -c 900000 /dev/zero > "$JOBDEPLOY_VOLUMES_DIR/mnt/data/big"'
        state = run(serve, place, text, volume("a"))
        assert (state["status"], state["reason"]) == ("FAILED", "DiskFull")
        assert state["facts"]["disk_path"].endswith("/volumes/mnt/data")


def test_a_storage_that_cannot_be_written(serve: Serve, tmp_path: Path) -> None:
    with disks.small(tmp_path / "small", "256k") as place:
        (place / "there").mkdir()
        disks.make_read_only(place)
        state = run(serve, place, "true", volume("new"))
        assert state["reason"] == "Setup"
        assert f"cannot make storage:new, {place}/new: Read-only file system" in state["message"]
        assert run(serve, place, "true", volume("there", read_only=True))["status"] == "SUCCEEDED"
