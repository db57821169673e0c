"""Clauses 8, 11 and 12 of backends/base.py: trees are whole or not there, and nothing is sent twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import pytest

from airflow_jobdeploy.backends.base import Backend, TreeBusy
from airflow_jobdeploy.core.manifest import Entry
from airflow_jobdeploy.core.status import JobStatus
from tests.contract.labs import Lab
from tests.contract.steps import log, outcome
from tests.contract.trees import NOTHING, Tree, tree

HOSTILE = {
    "a b; echo pwned > pwned\n'\"`$(id) ünïcødé \\ & | * ~": "hostile",
    "-rf": "dash",
    "deep/er/than/that": "deep",
    "deep-er": "sorts between",
    "bad" + os.fsdecode(b"\xff\xe9"): "not UTF-8",
    "empty": "",
}
SHA = hashlib.sha256(b"").hexdigest()


def bring(backend: Backend, lab: Lab, source: Tree, *, path: str = "f", role: str = "work") -> bytes:
    """Send a tree to a job that prints one of its files; what it printed."""
    plan = lab.plan(lab.words.cat(path), bundle=source.manifest.name)
    backend.claim(plan)
    backend.send_tree(source)
    backend.use_tree(plan.job_id, role, source.manifest.name)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    return log(backend, plan.job_id)


class Cut(Exception):
    """The wire, the task, the machine: something has ended the transfer."""


def cut_at(path: str) -> Callable[[Entry], None]:
    def on_open(entry: Entry) -> None:
        if entry.path == path:
            raise Cut

    return on_open


# -- 11: whole or not there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", HOSTILE)
def test_11_a_tree_is_the_working_directory(lab: Lab, path: str) -> None:
    source = tree(HOSTILE, executables=("-rf",), links={"deep/up": "../-rf"}, folders=("nothing/here",))
    assert bring(lab.backend(), lab, source, path=path) == HOSTILE[path].encode()


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
    assert bring(backend, lab, changed, path="moved") == b"content 3"


def test_11_an_empty_tree_is_a_tree(lab: Lab) -> None:
    backend = lab.backend()
    assert backend.send_tree(NOTHING).files == 0
    assert backend.has_tree(NOTHING.manifest.name)


def test_11_a_transfer_goes_on_where_it_was_cut(lab: Lab) -> None:
    data = {name: os.urandom(200_000) for name in "abcde"}
    with pytest.raises(Cut):
        lab.backend().send_tree(tree(data), _cut_after(500_000))
    backend = lab.backend()
    source = tree(data)
    assert not backend.has_tree(source.manifest.name)
    report = _sent(backend, source)
    assert report.sent_bytes < 1_000_000 - 300_000
    assert bring(backend, lab, source, path="c") == data["c"]


def _cut_after(size: int) -> Callable[[int, int], None]:
    def progress(done: int, todo: int) -> None:
        if done >= size:
            raise Cut

    return progress


def _sent(backend: Backend, source: Tree):
    """As soon as the worker knows that whoever was cut is gone."""
    for _ in range(200):
        try:
            return backend.send_tree(source)
        except TreeBusy as error:
            busy = error
            import time

            time.sleep(0.02)
    raise busy
