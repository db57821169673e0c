"""Room for trees: what goes when there is too much, what never goes, and what a full disk leaves behind."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import collect, evict
from airflow_jobdeploy.hostside.copying import Copy
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.contract.trees import Tree, tree
from tests.hostside.client import Refused, Serve, shell
from tests.hostside.trees import begin_fill, give, lacking, leftovers, names, offer, send, store, unused_since
from tests.servers import disks

MIB = 1 << 20
DAY_S = 86400.0


def sized(size: int) -> Tree:
    return tree({"data": os.urandom(size), "README": "about"})


def aged(serve: Serve, root: Path, *sizes: int) -> list[str]:
    """Trees of so many bytes; the first was not used for the longest time."""
    found = [send(serve, sized(size)) for size in sizes]
    for days, name in enumerate(reversed(found), 1):
        unused_since(root, name, days * DAY_S)
    return found


def trees(root: Path) -> set[str]:
    return set(names(store(root).trees))


# -- eviction -------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_the_longest_time_goes_first(serve: Serve, root: Path, host: HostPaths) -> None:
    first, second, third = aged(serve, root, MIB, MIB, MIB)
    assert evict.keep_below(host, 3 * MIB + 100_000) == 0
    serve.ask("tree", name=first)
    unused_since(root, first, 3600)
    assert evict.keep_below(host, 2 * MIB + 100_000) == 1
    assert trees(root) == {first, third}
    assert leftovers(root) == []
    assert serve.ask("tree", name=second)["have"] is False
    assert evict.keep_below(host, 0) == 2


def test_what_trees_share_is_counted_once(serve: Serve, root: Path, host: HostPaths) -> None:
    data = os.urandom(MIB)
    found = [send(serve, tree({"data": data, "version": str(number)})) for number in range(4)]
    for name in found:
        unused_since(root, name, DAY_S)
    assert evict.keep_below(host, 2 * MIB) == 0
    assert evict.keep_below(host, MIB // 2) == 4


def test_environments_go_as_trees_do(serve: Serve, root: Path, host: HostPaths) -> None:
    [tree_name] = aged(serve, root, MIB)
    for days, name in ((2, "e" + "a" * 32), (0.5, "e" + "b" * 32)):
        paths = host.env(name)
        Path(paths.venv).mkdir(parents=True)
        Path(paths.ready).write_text(json.dumps({"bytes": MIB, "files": 1}))
        os.utime(paths.ready, (time.time() - days * DAY_S,) * 2)
    assert evict.keep_below(host, 2 * MIB + 100_000) == 1
    assert names(host.envs) == ["e" + "b" * 32]
    assert trees(root) == {tree_name}
    assert evict.keep_below(host, MIB + 100_000) == 1
    assert trees(root) == set()


def test_what_has_just_come_stays(serve: Serve, root: Path, host: HostPaths) -> None:
    name = send(serve, sized(MIB))
    assert evict.keep_below(host, 0) == 0
    assert trees(root) == {name}


@pytest.mark.parametrize("phase", ["claimed", "running", "on another machine"])
def test_what_a_job_uses_stays(serve: Serve, root: Path, host: HostPaths, phase: str) -> None:
    name, other = aged(serve, root, MIB, MIB)
    job = shell("sleep 60", bundle=name)
    serve.claim(job)
    give(serve, job.job_id, name)
    if phase == "running":
        serve.ask("start", job=job.job_id)
        serve.until(job.job_id, lambda state: state["status"] == "RUNNING")
    unused_since(root, name, 30 * DAY_S)
    machine = HostPaths(str(root), "another") if phase == "on another machine" else host
    assert evict.keep_below(machine, 0) == 1
    assert trees(root) == {name}
    serve.stop(job.job_id, reason="over", grace_s=0)
    serve.end(job.job_id)
    assert _evicted(machine) == 1
    assert trees(root) == set()
    assert other not in trees(root)


def _evicted(host: HostPaths) -> int:
    """A supervisor holds its locks for a moment after its exit record is there."""
    until = time.monotonic() + 30
    while not (count := evict.keep_below(host, 0)):
        assert time.monotonic() < until
        time.sleep(0.02)  # nothing tells of the end of a process that is nobody's child
    return count


def test_a_lock_is_enough_to_keep_it(serve: Serve, root: Path, host: HostPaths) -> None:
    """As the supervisor of a job holds it whose record cannot be read."""
    name = send(serve, sized(MIB))
    job = shell("sleep 60", bundle=name)
    serve.claim(job)
    give(serve, job.job_id, name)
    serve.ask("start", job=job.job_id)
    serve.until(job.job_id, lambda state: state["status"] == "RUNNING")
    Path(host.job(job.job_id).trees).write_text("{")
    unused_since(root, name, 30 * DAY_S)
    assert evict.keep_below(host, 0) == 0
    serve.stop(job.job_id, reason="over", grace_s=0)
    serve.end(job.job_id)


def test_what_arrives_stays_and_what_nobody_goes_on_with_goes(serve: Serve, connect, root: Path, host) -> None:
    source = sized(MIB)
    offer(serve, source)
    unused_since(root, source.manifest.name, 30 * DAY_S)
    assert evict.keep_below(host, 0) == 0
    evict.tidy(host)
    assert names(store(root).incoming) == [source.manifest.name]
    serve.process.kill()
    serve.process.wait()
    evict.tidy(host)
    assert leftovers(root) == []


def test_a_half_tree_is_kept_for_a_while(connect, root: Path) -> None:
    first = connect()
    source = sized(MIB)
    offer(first, source)
    begin_fill(first, b"x")
    first.process.kill()
    first.process.wait()
    host = HostPaths(str(root), connect().facts["machine"])
    unused_since(root, source.manifest.name, 3600)
    evict.tidy(host)
    assert names(store(root).incoming) == [source.manifest.name]


def test_what_a_killed_remover_left_goes(serve: Serve, root: Path, host: HostPaths) -> None:
    name = send(serve, sized(1000))
    evict.retired(host.store, host.store.tree(name).dir)
    assert len(leftovers(root)) == 1
    collect.collect(host)
    assert leftovers(root) == []


def test_the_pools_limit_is_kept_as_trees_come(connect, root: Path) -> None:
    serve = connect(greeting={"cache_limit_bytes": 2 * MIB})
    old, *_ = aged(serve, root, MIB, MIB // 2)
    new = send(serve, sized(MIB))
    until = time.monotonic() + 30
    while old in trees(root):
        assert time.monotonic() < until
        time.sleep(0.02)  # nobody waits for the process that does it
    assert new in trees(root)


# -- full disks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tight(connect, tmp_path: Path) -> Iterator[Path]:
    """A root on a disk of 6 MiB."""
    with disks.small(tmp_path / "disk", "6m") as folder:
        yield folder / "root"


def test_a_tree_that_does_not_fit_is_refused_at_once(connect, tight: Path) -> None:
    serve = connect(tight)
    free = disks.free_bytes(tight)
    with pytest.raises(Refused, match=r"disk-full: .*8\.0 MiB are to come, [0-9.]+ MiB are free"):
        offer(serve, sized(8 * MIB))
    assert leftovers(tight) == []
    assert abs(disks.free_bytes(tight) - free) < 100_000
    assert send(serve, sized(MIB)) in trees(tight)


def test_room_is_made_by_what_nobody_uses(connect, tight: Path) -> None:
    serve = connect(tight)
    old, new = aged(serve, tight, 2 * MIB, 2 * MIB)
    assert send(serve, sized(3 * MIB)) in trees(tight)
    assert old not in trees(tight)
    assert new in trees(tight)


def test_a_disk_that_fills_meanwhile(connect, tight: Path) -> None:
    serve = connect(tight)
    source = sized(3 * MIB)
    answer = offer(serve, source)
    filler = tight / "filler"
    filler.write_bytes(bytes(disks.free_bytes(tight) - MIB))
    with pytest.raises(Refused, match="disk-full: the disk of"):
        serve.give("fill", [lacking(source, answer)])
    assert leftovers(tight) == []
    assert disks.free_bytes(tight) > MIB - 100_000
    assert trees(tight) == set()
    filler.unlink()
    assert send(serve, source) in trees(tight)


def test_a_disk_without_room_for_a_manifest(connect, tight: Path) -> None:
    serve = connect(tight)
    many = tree({f"file {number} of many": str(number) for number in range(300)})
    (tight / "filler").write_bytes(bytes(disks.free_bytes(tight) - 20_000))
    with pytest.raises(Refused, match="disk-full"):
        offer(serve, many)
    assert leftovers(tight) == []
    (tight / "filler").unlink()
    assert send(serve, many) in trees(tight)


def test_a_disk_without_room_to_publish(connect, tight: Path) -> None:
    serve = connect(tight)
    source = sized(MIB)
    answer = offer(serve, source)
    data = lacking(source, answer)
    begin = begin_fill(serve, data)
    path = Path(store(tight).arriving(source.manifest.name).tree) / "README"
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        os.sched_yield()
    filler = tight / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    serve.write(b"B\0\0\0\0")
    with pytest.raises(Refused, match="disk-full"):
        serve.answer(begin)
    assert leftovers(tight) == []
    filler.unlink()
    assert send(serve, source) in trees(tight)


def test_a_disk_without_room_for_the_jobs_copy(connect, tight: Path) -> None:
    serve = connect(tight)
    name = send(serve, sized(4 * MIB))
    job = shell("echo never", bundle=name)
    serve.claim(job)
    give(serve, job.job_id, name)
    serve.ask("start", job=job.job_id)
    state = serve.end(job.job_id)
    assert (state["status"], state["reason"]) == ("FAILED", "DiskFull")
    assert state["facts"]["disk_free_bytes"] < 4 * MIB
    host = HostPaths(str(tight), serve.facts["machine"])
    assert not [path for path in os.listdir(host.job(job.job_id).dir) if path.startswith("work")]
    assert serve.ask("tree", name=name)["have"] is True


# -- copies ---------------------------------------------------------------------------------------------------------


def big(folder: Path) -> Path:
    (folder / "tree" / "sub").mkdir(parents=True)
    (folder / "tree" / "sub" / "f").write_bytes(os.urandom(20 * MIB))
    (folder / "tree" / "run").write_text("#!/bin/sh")
    (folder / "tree" / "run").chmod(0o555)
    (folder / "tree" / "up").symlink_to("sub/f")
    return folder / "tree"


@pytest.mark.xfs
def test_a_copy_costs_nothing_where_files_share_blocks(tmp_path: Path) -> None:
    with disks.sharing(tmp_path / "xfs") as folder:
        source = big(folder)
        os.sync()
        free = disks.free_bytes(folder)
        copy = Copy(lambda: None)
        copy.make(str(source), str(folder / "copy"))
        os.sync()
        assert copy.clones
        assert free - disks.free_bytes(folder) < MIB
        with (folder / "copy" / "sub" / "f").open("r+b") as file:
            file.write(b"changed")
        assert (source / "sub" / "f").read_bytes()[:7] != b"changed"


def test_a_copy_is_whole_where_they_do_not(tmp_path: Path) -> None:
    with disks.small(tmp_path / "plain", "64m") as folder:
        source = big(folder)
        copy = Copy(lambda: None)
        copy.make(str(source), str(folder / "copy"))
        assert not copy.clones
        assert (folder / "copy" / "sub" / "f").read_bytes() == (source / "sub" / "f").read_bytes()
        assert os.access(folder / "copy" / "run", os.X_OK)
        assert os.readlink(folder / "copy" / "up") == "sub/f"


def test_a_copy_is_never_made_over_something(tmp_path: Path) -> None:
    source = big(tmp_path)
    with pytest.raises(OSError, match="exists") as caught:
        Copy(lambda: None).make(str(source), str(source))
    assert caught.value.errno == errno.EEXIST
