"""The hosts themselves: each is a machine of its own, and nothing of them stays."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.hosts import case as cases
from tests.faults.hosts.case import Case
from tests.servers import netns
from tests.servers.netns import Host, NewHost

pytestmark = pytest.mark.netns


def test_each_host_is_a_machine_of_its_own(case: Case, new_host: NewHost) -> None:
    other = cases.case(new_host())
    facts = [each.backend().facts() for each in (case, other)]
    assert facts[0].machine != facts[1].machine
    assert [fact.hostname for fact in facts] == [case.host.name, other.host.name]
    assert {fact.user for fact in facts} == {netns.USER}
    assert facts[0].boot != facts[1].boot
    other.close()


def test_a_new_boot_of_the_same_machine_is_told(case: Case) -> None:
    before = case.backend().facts()
    case.close()
    case.host.power_off()
    case.host.power_on()
    after = case.backend().facts()
    assert (before.machine, before.boot != after.boot) == (after.machine, True)


def _traces(name: str) -> list[str]:
    commands = (["ip", "-o", "link"], ["ip", "netns", "list"], ["cat", "/proc/self/mounts"])
    shown = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
    return [line for text in shown for line in text.splitlines() if name in line]


def test_a_removed_host_leaves_nothing(tmp_path: Path) -> None:
    host = Host(dir=tmp_path / "host")
    host.make()
    host.power_on()
    assert _traces(host.name)
    host.remove()
    assert _traces(host.name) == []
    host.remove()


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    @dataclass
    class Abandoned(Host):
        """Named as if another process had made it."""

        def __post_init__(self) -> None:
            super().__post_init__()
            self.name = self.name.replace(str(os.getpid()), str(maker.pid))

    with subprocess.Popen(["sleep", "1000"]) as maker:
        try:
            host = Abandoned(dir=tmp_path / "host")
            host.make()
            host.power_on()
        finally:
            maker.kill()  # only now: other runs of tests on this machine sweep, too
    netns.sweep()
    assert _traces(host.name) == []
    assert host._init is not None
    assert host._init.wait(10) != 0
