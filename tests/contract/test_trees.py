"""Clauses 8, 11 and 12 of backends/base.py: trees are whole or not there, and nothing is sent twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from airflow_jobdeploy.backends.base import Backend, TreeBusy, TreeGone, TreeReport
from airflow_jobdeploy.core.manifest import FILE, FOLDER, LINK, Entry
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import JobDeployError, StagingError, WorkerError
from tests.contract.labs import Lab
from tests.contract.steps import log, outcome
from tests.contract.trees import NOTHING, Tree, file, tree

HOSTILE = {
    "a b; echo pwned > pwned\n'\"`$(id) ünïcødé \\ & | * ~": "hostile",
    "-rf": "dash",
    "deep/er/than/that": "deep",
    "deep-er": "sorts between",
    "bad" + os.fsdecode(b"\xff\xe9"): "not UTF-8",
    "empty": "",
}
ABSENT = "t" + "a" * 32


def printed(backend: Backend, lab: Lab, name: str, path: str) -> bytes:
    """What a job prints that has a tree as its working directory, and prints one of its files."""
    plan = lab.plan(lab.words.cat(path), bundle=name)
    backend.claim(plan)
    backend.use_tree(plan.job_id, "work", name)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    return log(backend, plan.job_id)


class Cut(Exception):
    """The wire, the task, the machine: something has ended the transfer."""


def cut_after(size: int) -> Callable[[int, int], None]:
    def progress(done: int, todo: int) -> None:
        if done >= size:
            raise Cut

    return progress


def sent(backend: Backend, source: Tree) -> TreeReport:
    """As soon as the worker knows that whoever was cut is gone."""
    until = time.monotonic() + 30
    while True:
        try:
            return backend.send_tree(source)
        except TreeBusy:
            assert time.monotonic() < until
            time.sleep(0.02)  # nothing tells when the worker has noticed


# -- 11: whole or not there -----------------------------------------------------------------------------------------


def test_11_a_tree_is_the_working_directory(lab: Lab) -> None:
    backend = lab.backend()
    source = tree(HOSTILE, executables=("-rf",), links={"deep/up": "../-rf"}, folders=("nothing/here",))
    name = backend.send_tree(source).name
    first, *others = HOSTILE
    assert printed(backend, lab, name, first) == b"hostile"
    for path in ("deep/er/than/that", others[-2]):
        assert printed(backend, lab, name, path) == HOSTILE[path].encode()


def test_11_what_is_there_is_not_sent(lab: Lab) -> None:
    source = tree(HOSTILE)
    first, second = lab.backend(), lab.backend()
    assert not first.has_tree(source.manifest.name)
    report = first.send_tree(source)
    assert (report.name, report.files) == (source.manifest.name, len(HOSTILE))
    assert report.sent_bytes == report.bytes == source.manifest.bytes
    for backend in (first, second):
        assert backend.has_tree(source.manifest.name)
        again = backend.send_tree(source)
        assert (again.sent_files, again.sent_bytes, again.bytes) == (0, 0, report.bytes)
    assert sorted(source.opened) == sorted(path for path, text in HOSTILE.items() if text)


def test_11_only_what_differs_is_sent(lab: Lab) -> None:
    files = {f"part{number}/f{number}": f"content {number}" for number in range(200)}
    backend = lab.backend()
    backend.send_tree(tree(files))
    changed = tree({**files, "part7/f7": "changed!", "new": "n", "moved": "content 3"})
    report = backend.send_tree(changed)
    assert (report.sent_files, report.sent_bytes) == (2, 9)
    assert sorted(changed.opened) == ["new", "part7/f7"]
    assert printed(backend, lab, report.name, "moved") == b"content 3"


def test_11_who_asks_whether_something_like_it_may_be_there_hears_of_what_is(lab: Lab) -> None:
    backend = lab.backend()
    backend.send_tree(tree({"a": os.urandom(1237)}))
    assert backend.may_have([5, 1237])
    backend.send_tree(tree({"b": os.urandom(4321)}).unread())
    assert lab.backend().may_have([4321])


def test_11_an_empty_tree_is_a_tree(lab: Lab) -> None:
    backend = lab.backend()
    assert backend.send_tree(NOTHING).files == 0
    assert backend.has_tree(NOTHING.manifest.name)


def test_11_a_transfer_goes_on_where_it_was_cut(lab: Lab) -> None:
    data = {"big": os.urandom(3_000_000), **{f"small{number}": os.urandom(2_000) for number in range(50)}}
    source = tree(data)
    for size in (600_000, 1_200_000):
        with pytest.raises(Cut):
            sent_until(lab.backend(), source, size)
        backend = lab.backend()
        try:
            assert not backend.has_tree(source.manifest.name)
        except TreeBusy:
            pass
    report = sent(backend, source)
    assert report.sent_bytes < source.manifest.bytes - 1_000_000
    assert report.bytes == source.manifest.bytes
    assert printed(backend, lab, report.name, "big") == data["big"]


def sent_until(backend: Backend, source: Tree, size: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            backend.send_tree(source, cut_after(size))
        except TreeBusy:
            time.sleep(0.02)  # nothing tells when the worker has noticed that the one before is gone


def test_11_of_two_at_once_one_brings_it_and_the_other_may_take_over(lab: Lab) -> None:
    data = {"a": os.urandom(700_000), "b": os.urandom(700_000)}
    first, second = lab.backend(), lab.backend()
    name = tree(data).manifest.name

    def meanwhile(entry: Entry) -> None:
        if entry.path == "b":
            with pytest.raises(TreeBusy, match="another session"):
                second.send_tree(tree(data))
            with pytest.raises(TreeBusy):
                second.has_tree(name)
            raise Cut

    with pytest.raises(Cut):
        first.send_tree(replace(tree(data), on_open=meanwhile))
    report = sent(second, tree(data))
    assert report.sent_bytes < 1_400_000
    assert first.has_tree(name)


def test_11_a_tree_that_nobody_has_read_gets_its_name_on_the_worker(lab: Lab) -> None:
    source = tree(HOSTILE)
    backend = lab.backend()
    report = backend.send_tree(source.unread("etag 1"))
    assert report.name == source.manifest.name
    assert report.manifest == source.manifest
    assert backend.has_tree(source.manifest.name)
    assert backend.send_tree(source).sent_bytes == 0


def test_11_an_unread_tree_goes_on_only_for_the_same_version(lab: Lab) -> None:
    source = tree({name: os.urandom(700_000) for name in "abc"})
    for version, saved in (("etag 1", True), ("", False)):
        with pytest.raises(Cut):
            lab.backend().send_tree(source.unread(version), cut_after(1_000_000))
        report = sent(lab.backend(), source.unread(version))
        assert (report.sent_bytes < 2_100_000) == (saved and lab.keeps_unread)
        assert report.name == source.manifest.name
        lab.forget_trees()


# -- 8, 11: what is no tree -----------------------------------------------------------------------------------------

REFUSED = {
    "absolute": [file("/etc/evil", b"x")],
    "above": [file("../evil", b"x")],
    "above in the middle": [file("a/../../evil", b"x")],
    "dot": [file("./evil", b"x")],
    "doubled slash": [file("a//evil", b"x")],
    "folder's name": [file("evil/", b"x")],
    "no name": [file("", b"x")],
    "NUL": [file("ev\0il", b"x")],
    "no encoding": [file("evil\ud800", b"x")],
    "twice": [file("evil", b"x"), file("evil", b"y")],
    "out of order": [file("evil2", b"x"), file("evil1", b"y")],
    "below a file": [file("evil", b"x"), file("evil/b", b"y")],
    "below a link": [Entry("evil", LINK, 0, "elsewhere"), file("evil/b", b"y")],
    "link out": [Entry("evil", LINK, 0, "/etc")],
    "link above": [Entry("d/evil", LINK, 0, "../../etc")],
    "link out by a link": [Entry("d/in", LINK, 0, ".."), Entry("evil", LINK, 0, "d/in/../etc")],
    "link to nothing": [Entry("evil", LINK, 0, "")],
    "device": [Entry("evil", "b", 0, "")],
    "folder with bytes": [Entry("evil", FOLDER, 1, "")],
    "no size": [Entry("evil", FILE, -1, "0" * 64)],
    "no digest": [Entry("evil", FILE, 1, "what")],
    "bomb": [Entry("evil", FILE, 1 << 60, "0" * 64)],
    "too deep": [file("evil/" * 300 + "x", b"x")],
}


def test_8_hostile_trees_are_refused_before_anything_is_written(lab: Lab) -> None:
    backend = lab.backend()
    for why, entries in REFUSED.items():
        source = tree({}).as_if(*entries)
        with pytest.raises(StagingError, match=r"evil|ev|''") as caught:
            pytest.fail(f"{why}: {backend.send_tree(source)}")
        assert "brought" in str(caught.value), why
        assert source.opened == []
    assert backend.send_tree(tree({"evil": "good"})).sent_files == 1


def test_11_content_that_is_not_as_announced_is_named(lab: Lab) -> None:
    backend = lab.backend()
    right = tree({"a": "1", "models/b": "22", "c": "3"})
    wrong = replace(right, contents={**right.contents, "models/b": b"xx"})
    with pytest.raises(StagingError, match=r"'models/b'.*sha256"):
        backend.send_tree(wrong)
    assert not backend.has_tree(right.manifest.name)
    report = backend.send_tree(right)
    assert report.sent_bytes < 4
    assert printed(backend, lab, report.name, "models/b") == b"22"


@pytest.mark.parametrize("data", [b"short", b""])
def test_11_a_file_that_shrinks_while_it_is_sent(lab: Lab, data: bytes) -> None:
    backend = lab.backend()
    source = tree({"a": "x" * 100})
    with pytest.raises(StagingError, match="'a' shrank while it was sent"):
        backend.send_tree(replace(source, contents={"a": data}))
    assert sent(backend, source).bytes == 100


def test_11_a_file_that_grows_is_sent_as_it_was_seen(lab: Lab) -> None:
    backend = lab.backend()
    source = tree({"a": "seen"})
    name = backend.send_tree(replace(source, contents={"a": b"seen, and more"})).name
    assert printed(backend, lab, name, "a") == b"seen"


# -- 12: jobs and their trees ---------------------------------------------------------------------------------------


def test_12_each_job_has_a_copy_of_its_own_to_write_to(lab: Lab) -> None:
    backend = lab.backend()
    name = backend.send_tree(tree({"f": "as sent"})).name
    plan = lab.plan(lab.words.overwrite("f", "changed"), bundle=name)
    backend.claim(plan)
    backend.use_tree(plan.job_id, "work", name)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).exit_code == 0
    assert backend.has_tree(name)
    assert printed(backend, lab, name, "f") == b"as sent"


def test_12_a_dataset_is_read_in_place(lab: Lab) -> None:
    backend = lab.backend()
    name = backend.send_tree(tree({"part 1/d": "numbers"})).name
    plan = lab.plan(lab.words.cat_dataset("part 1/d"), dataset={"tree": name})
    backend.claim(plan)
    backend.use_tree(plan.job_id, "dataset", name)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).exit_code == 0
    assert log(backend, plan.job_id) == b"numbers"


def test_12_what_is_not_there_cannot_be_used(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.say("x"))
    backend.claim(plan)
    with pytest.raises(TreeGone, match=ABSENT):
        backend.use_tree(plan.job_id, "work", ABSENT)
    with pytest.raises(WorkerError, match="role 'both'"):
        backend.use_tree(plan.job_id, "both", backend.send_tree(NOTHING).name)
    with pytest.raises(JobDeployError, match=lab.plan().job_id[:1]):
        backend.use_tree(lab.plan().job_id, "work", NOTHING.manifest.name)
