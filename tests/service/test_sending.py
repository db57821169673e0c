"""What a task sees of a tree on its way: what goes, how fast, what need not go; cuts, waits and limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from airflow_jobdeploy.core.manifest import Entry
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.errors import StagingError, WorkerUnreachable
from airflow_jobdeploy.service import Workers
from airflow_jobdeploy.service.sending import Sending
from airflow_jobdeploy.testing import ManualClock, MemoryHost
from tests.contract.trees import Tree, tree

MIB = 1 << 20
SOURCE = tree({"big": os.urandom(4 * MIB), "small": "s"})


class Desk(Workers):
    """Workers of one host in memory; waiting takes no time but on the clock."""

    def __init__(self) -> None:
        self.host = MemoryHost(name="gpu-a")
        self.clock = ManualClock()
        self.said: list[str] = []
        self.pauses = 0
        #: Called at each pause.
        self.meanwhile: Callable[[], None] = lambda: None
        super().__init__(WorkerPool.local(), lambda worker: self.host.backend())

    def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.clock.advance(seconds)
        self.meanwhile()

    def bring(self, source: Tree, **how: Any) -> Any:
        sending = Sending(self, "local", say=self.said.append, clock=self.clock, **how)
        return sending.bring(source, "dataset")


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk() as found:
        yield found


def slowly(desk: Desk, source: Tree, seconds: float) -> Tree:
    """Each file takes so long until it can be read."""
    return replace(source, on_open=lambda entry: desk.clock.advance(seconds), opened=[])


def test_what_goes_and_what_is_there_is_said(desk: Desk) -> None:
    desk.bring(slowly(desk, SOURCE, 2.0))
    desk.bring(SOURCE)
    desk.bring(tree({**SOURCE.contents, "more": "x" * 1000}))
    assert desk.said == [
        "Sending the dataset (2 files, 4.0 MiB) to worker local.",
        "Sent 4.0 MiB of the dataset in 4.0 s, 1.0 MiB/s.",
        "The dataset (2 files, 4.0 MiB) is on worker local already: nothing is sent.",
        "Sending the dataset (3 files, 4.0 MiB) to worker local.",
        "Sent 1000 bytes of the dataset in 0.0 s; 4.0 MiB of it were there already.",
    ]


def test_a_long_transfer_says_now_and_then_how_far_it_is(desk: Desk) -> None:
    source = tree({f"part {number:03}": os.urandom(10_000) for number in range(100)})
    desk.bring(slowly(desk, source, 1.0))
    lines = desk.said[1:-1]
    assert 12 <= len(lines) <= 20
    assert lines[0] == "Sent 48.8 KiB of 976.6 KiB of the dataset, 9.8 KiB/s, about 95 s to go."
    assert desk.said[-1] == "Sent 976.6 KiB of the dataset in 100 s, 9.8 KiB/s."


def test_who_shows_it_himself_gets_numbers_instead(desk: Desk) -> None:
    seen: list[tuple[int, int]] = []
    desk.bring(slowly(desk, SOURCE, 10.0), progress=lambda done, todo: seen.append((done, todo)))
    assert seen[0] == (0, SOURCE.manifest.bytes)
    assert seen[-1] == (SOURCE.manifest.bytes, SOURCE.manifest.bytes)
    assert len(desk.said) == 2


class Unplugging:
    """Pulls the plug whenever so many bytes have gone; it is put in again at the next pause."""

    def __init__(self, desk: Desk, *after: int) -> None:
        self._desk = desk
        self._after = list(after)
        desk.meanwhile = desk.host.plug_in

    def __call__(self, done: int, todo: int) -> None:
        if self._after and done >= self._after[0]:
            self._after.pop(0)
            self._desk.host.unplug()


def test_a_cut_line_costs_what_was_on_it(desk: Desk) -> None:
    report = desk.bring(SOURCE, progress=Unplugging(desk, MIB, MIB, MIB))
    assert desk.pauses == 3
    assert report.sent_bytes <= SOURCE.manifest.bytes - 3 * MIB + 200_000
    assert [line for line in desk.said if "trying again: gpu-a cannot be asked" in line]
    assert desk.host.backend().has_tree(SOURCE.manifest.name)
    assert desk.said[-1].startswith("Sent 3.8 MiB of the dataset")


def test_a_worker_that_stays_silent_is_given_up(desk: Desk) -> None:
    desk.host.unplug()
    with pytest.raises(WorkerUnreachable):
        desk.bring(SOURCE)
    assert desk.clock.now() > 1600
    desk.said.clear()
    with pytest.raises(StagingError, match=r"longer than setup_timeout \(30 s\); what has arrived is not sent again"):
        desk.bring(SOURCE, limit_s=30.0)


def test_as_long_as_something_arrives_nobody_gives_up(desk: Desk) -> None:
    parts = tree({f"part {number:02}": os.urandom(100_000) for number in range(30)})
    desk.meanwhile = lambda: (desk.clock.advance(500), desk.host.plug_in())  # type: ignore[assignment, func-returns-value]
    opened = 0

    def fails(entry: Entry) -> None:
        nonlocal opened
        opened += 1
        if opened % 3 == 0:
            desk.host.unplug()

    report = desk.bring(replace(parts, on_open=fails))
    assert report.bytes == 3_000_000
    assert desk.clock.now() > 1000 + 600
    with pytest.raises(StagingError, match="setup_timeout"):
        desk.bring(replace(tree({"slow": "1"}), on_open=lambda entry: desk.clock.advance(61)), limit_s=60.0)


def test_another_job_brings_it(desk: Desk) -> None:
    desk.host.store.coming[SOURCE.manifest.name] = MIB

    def arrives() -> None:
        if desk.pauses == 30:
            desk.host.store.coming.clear()
            desk.host.backend().send_tree(SOURCE)

    desk.meanwhile = arrives
    report = desk.bring(SOURCE)
    assert report.sent_bytes == 0
    assert desk.pauses == 30
    waits = [line for line in desk.said if line == "Another job is bringing the same dataset to worker local: waiting."]
    assert 5 <= len(waits) <= 8
    assert desk.said[-1] == "The dataset (2 files, 4.0 MiB) is on worker local already: nothing is sent."


def test_the_other_job_is_cut_and_this_one_takes_over(desk: Desk) -> None:
    desk.host.store.coming[SOURCE.manifest.name] = MIB
    desk.meanwhile = desk.host.store.coming.clear
    assert desk.bring(SOURCE).sent_bytes == SOURCE.manifest.bytes


def test_who_waits_or_sends_can_be_called_away(desk: Desk) -> None:
    class Called(Exception):
        pass

    def check() -> None:
        if desk.pauses or desk.host.store.parts or desk.host.store.coming.get(SOURCE.manifest.name, 0) > MIB:
            raise Called

    with pytest.raises(Called):
        desk.bring(SOURCE, check=check)
    assert SOURCE.manifest.name not in desk.host.store.coming
    desk.host.store.parts.clear()
    desk.host.store.coming[SOURCE.manifest.name] = 0
    with pytest.raises(Called):
        desk.bring(SOURCE, check=check)
    assert desk.pauses == 1
