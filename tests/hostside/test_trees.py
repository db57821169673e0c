"""Trees on a host: what lies there, what is refused, what a kill or a job that writes to one leaves behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_jobdeploy.core.manifest import Entry
from airflow_jobdeploy.hostside import manifest
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.store import MTIME_S
from tests.contract.trees import Tree, file, tree
from tests.hostside.client import Refused, Serve, shell
from tests.hostside.test_resources import Template, script
from tests.hostside.trees import begin_fill, give, lacking, leftovers, names, offer, place, send, store

FILES = {"main.sh": "echo main", "run": "#!/bin/sh\necho run", "data dir/n\xe9'w": "content", "empty": ""}
SOURCE = tree(FILES, executables=("run",), links={"data dir/up": "../main.sh"}, folders=("none",))
BIG = tree({"big": os.urandom(1_000_000), "small": "s"})


def run(serve: Serve, name: str, text: str, role: str = "work") -> tuple[str, bytes]:
    """Its status and log, of a job with this tree."""
    job = shell(text, **({"bundle": name} if role == "work" else {"dataset": {"tree": name}}))
    serve.claim(job)
    give(serve, job.job_id, name, role)
    serve.ask("start", job=job.job_id)
    return serve.end(job.job_id)["status"], serve.log(job.job_id)


# -- what lies there ------------------------------------------------------------------------------------------------


def test_a_tree_is_read_only_and_of_one_time(serve: Serve, root: Path) -> None:
    top = place(root, send(serve, SOURCE))
    found = {path.relative_to(top).as_posix(): path.lstat() for path in top.rglob("*")}
    assert set(found) == {*FILES, "data dir", "data dir/up", "none"}
    modes = {path: stat.S_IMODE(seen.st_mode) for path, seen in found.items() if not stat.S_ISLNK(seen.st_mode)}
    assert modes == {**dict.fromkeys(FILES, 0o444), "run": 0o555, "data dir": 0o555, "none": 0o555}
    assert {seen.st_mtime for seen in found.values() if not stat.S_ISLNK(seen.st_mode)} == {MTIME_S}
    assert os.readlink(top / "data dir" / "up") == "../main.sh"
    assert leftovers(root) == []


def test_a_jobs_copy_is_writable(serve: Serve) -> None:
    reads = "sh main.sh && ./run && cat 'data dir/up'"
    text = reads + " && echo more >> main.sh && rm 'data dir/up' && : > none/x && ls | wc -l"
    name = send(serve, SOURCE)
    assert run(serve, name, text) == ("SUCCEEDED", b"main\nrun\necho main5\n")
    assert serve.ask("tree", name=name)["have"] is True


def test_a_resource_has_one_copy(serve: Serve, root: Path) -> None:
    name = send(serve, tree({"f": "as sent"}))
    builds = {"up": (script("up", "echo changed > f"),), "down": (script("down", "cat f"),)}
    template = Template(builds, bundle=name)
    serve.claim(template.up)
    give(serve, template.up.job_id, name)
    serve.ask("start", job=template.up.job_id)
    assert serve.end(template.up.job_id)["status"] == "SUCCEEDED"
    down = template.build("down")
    assert serve.run(down)["status"] == "SUCCEEDED"
    assert serve.log(down.job_id) == b"changed\n"


def test_a_dataset_is_not_copied(serve: Serve, root: Path) -> None:
    name = send(serve, SOURCE)
    status, said = run(serve, name, 'cd "$JOBDEPLOY_DATASET_DIR" && pwd && cat empty main.sh', "dataset")
    assert (status, said) == ("SUCCEEDED", os.fsencode(place(root, name)) + b"\necho main")


def test_files_that_another_tree_has_are_links_to_them(serve: Serve, root: Path) -> None:
    first = place(root, send(serve, SOURCE))
    other = tree({**FILES, "main.sh": "echo other"}, executables=("run", "main.sh"))
    answer = offer(serve, other)
    assert lacking(other, answer) == b"echo other"
    second = place(root, str(serve.give("fill", [b"echo other"])["name"]))
    assert (first / "run").stat().st_ino == (second / "run").stat().st_ino
    assert (first / "main.sh").read_text() == "echo main"


def test_a_file_is_not_linked_to_one_of_another_mode(serve: Serve, root: Path) -> None:
    send(serve, SOURCE)
    other = tree(FILES, executables=("main.sh", "run"))
    assert lacking(other, offer(serve, other)) == b"echo main"


def test_a_tree_of_which_all_is_there_needs_no_bytes(serve: Serve, root: Path) -> None:
    send(serve, SOURCE)
    part = tree({"moved/run": FILES["run"]}, executables=("moved/run",))
    assert offer(serve, part)["have"] is True
    assert (place(root, part.manifest.name) / "moved" / "run").read_text() == FILES["run"]


def test_an_environment_that_is_no_utf8_changes_no_name(connect: Callable[..., Serve], root: Path) -> None:
    serve = connect(env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    source = tree({"n\xe9'w": "1", "bad" + os.fsdecode(b"\xff"): "2"})
    top = place(root, send(serve, source))
    assert sorted(os.listdir(os.fsencode(top))) == [b"bad\xff", "n\xe9'w".encode()]
    assert serve.ask("tree", name=source.manifest.name)["have"]
    assert run(serve, source.manifest.name, "cat *") == ("SUCCEEDED", b"21")


# -- what is refused ------------------------------------------------------------------------------------------------


def refused(serve: Serve, source: Tree, data: bytes) -> str:
    answer = offer(serve, source)
    assert not answer["have"]
    with pytest.raises(Refused) as caught:
        serve.give("fill", [data])
    return str(caught.value)


def test_more_or_fewer_bytes_than_were_announced(serve: Serve, root: Path) -> None:
    source = tree({"a": "12345", "b": "67890"})
    assert "ended 2 before the end of 'b'" in refused(serve, source, b"12345678")
    assert "more bytes came" in refused(serve, source, b"90" + b"x" * 300_000)
    assert names(store(root).trees) == []
    assert send(serve, source) == source.manifest.name


def test_a_wrong_byte_is_named_and_nothing_of_it_stays(serve: Serve, root: Path) -> None:
    source = tree({"a": "12345", "dir/b": "67890", "c": "xyz"})
    assert "damaged: 'dir/b' arrived damaged" in refused(serve, source, b"12345xyz6789X")
    answer = offer(serve, source)
    assert lacking(source, answer) == b"67890"


def test_an_empty_file_of_another_content(serve: Serve, root: Path) -> None:
    source = tree({}).as_if(Entry("a", "f", 0, "0" * 64))
    with pytest.raises(Refused, match=r"damaged: 'a'"):
        offer(serve, source)
    assert leftovers(root) == []


BOMB = b"[" + b"[" * 200_000 + b"]" * 200_001


@pytest.mark.parametrize(
    ("text", "size", "why"),
    [
        (b"[]", 1, "does not have the 1 bytes"),
        (b"[]", 3, "does not have the 3 bytes"),
        (b" " * 50_000_000, 100, "does not have the 100 bytes"),
        (b"[]", manifest.LIMIT + 1, "pack many small files into fewer"),
        (b"[]", -1, "pack many small files into fewer"),
        (b"[]", "2", "pack many small files into fewer"),
        (b"{}", None, "no list"),
        (b"what", None, "no JSON"),
        (b"\xff", None, "no JSON"),
        (BOMB, None, "no JSON|not an entry"),
        (b"[[]]", None, "not an entry"),
        (b'[["a","f",true,""]]', None, "has size True"),
        (b'[["a","f",1.5,""]]', None, "has size 1.5"),
        (b'[["a",["f"],1,""]]', None, "no file, link or folder"),
    ],
)
def test_what_is_no_manifest(serve: Serve, root: Path, text: bytes, size: object, why: str) -> None:
    wanted = len(text) if size is None else size
    with pytest.raises(Refused, match=f"bad-request: .*({why})"):
        serve.give("offer", [zlib.compress(text)], name="", version="", size=wanted)
    assert leftovers(root) == []
    assert serve.ask("poll", jobs=[])["states"] == {}


def test_what_is_not_compressed_or_of_another_tree(serve: Serve) -> None:
    with pytest.raises(Refused, match="arrived damaged"):
        serve.give("offer", [b"plain text"], name="", version="", size=10)
    with pytest.raises(Refused, match="the manifest is that of"):
        offer(serve, SOURCE, name=BIG.manifest.name)
    with pytest.raises(Refused, match="not a name of ours"):
        offer(serve, SOURCE, name="../../etc")
    with pytest.raises(Refused, match="nothing has been offered"):
        serve.give("fill", [b"x"])


def test_a_name_that_no_file_can_have(serve: Serve, root: Path) -> None:
    source = tree({"x" * 300: "1"})
    answer = offer(serve, source)
    with pytest.raises(Refused, match=r"bad-request: .*name too long"):
        serve.give("fill", [lacking(source, answer)])


def test_a_start_without_the_tree_is_refused(serve: Serve, root: Path) -> None:
    job = shell("true", bundle=SOURCE.manifest.name)
    serve.claim(job)
    with pytest.raises(Refused, match="was not given its work"):
        serve.ask("start", job=job.job_id)
    name = send(serve, SOURCE)
    give(serve, job.job_id, name)
    os.rename(store(root).tree(name).dir, root / "gone")
    with pytest.raises(Refused, match="no-such-tree"):
        serve.ask("start", job=job.job_id)
    send(serve, SOURCE)
    serve.ask("start", job=job.job_id)
    assert serve.end(job.job_id)["status"] == "SUCCEEDED"


# -- cut, killed, twice at once -------------------------------------------------------------------------------------


def test_a_kill_at_any_byte_loses_only_what_had_not_come(connect: Callable[..., Serve], root: Path) -> None:
    data = lacking(BIG, {"lacks": [[0, 2]], "offsets": []})
    had = 0
    for count in (1, 65_536, 300_001, 999_999, 1_000_000):
        serve = connect()
        answer = offer(serve, BIG)
        rest = lacking(BIG, answer)
        assert len(data) - len(rest) == had
        begin_fill(serve, rest[: count - had])
        had = _until_came(root, count)
        serve.process.send_signal(signal.SIGKILL)
        serve.process.wait()
        assert names(store(root).trees) == []
    serve = connect()
    answer = offer(serve, BIG)
    assert lacking(BIG, answer) == b"s"
    assert serve.give("fill", [b"s"])["name"] == BIG.manifest.name
    assert (place(root, BIG.manifest.name) / "big").read_bytes() == BIG.contents["big"]
    assert leftovers(root) == []


def _until_came(root: Path, count: int) -> int:
    path = Path(store(root).arriving(BIG.manifest.name).tree) / "big"
    until = time.monotonic() + 30
    while not path.exists() or path.stat().st_size < count:
        assert time.monotonic() < until
        time.sleep(0.005)  # the host tells at the end only
    return count


@pytest.mark.parametrize("cut", ["kill", "end"])
def test_a_kill_after_the_last_byte_costs_nothing(connect: Callable[..., Serve], root: Path, cut: str) -> None:
    serve = connect()
    begin_fill(serve, lacking(BIG, offer(serve, BIG)))
    path = Path(store(root).arriving(BIG.manifest.name).tree) / "small"
    until = time.monotonic() + 30
    while not (path.exists() and path.stat().st_mtime == MTIME_S):
        assert time.monotonic() < until
        time.sleep(0.005)  # the host tells at the end only
    if cut == "kill":
        serve.process.kill()
    else:
        assert serve.process.stdin
        serve.process.stdin.close()
    serve.process.wait(10)
    assert names(store(root).trees) == []
    assert offer(connect(), BIG)["have"] is True


def test_what_came_before_does_not_spoil_what_comes(connect: Callable[..., Serve], root: Path) -> None:
    serve = connect()
    offer(serve, BIG)
    begin_fill(serve, b"\0" * 500_000)
    _until_came(root, 500_000)
    serve.process.kill()
    serve.process.wait()
    other = connect()
    answer = offer(other, BIG)
    with pytest.raises(Refused, match="damaged: 'big'"):
        other.give("fill", [lacking(BIG, answer)])
    assert send(other, BIG) == BIG.manifest.name


def test_who_comes_second_is_told_how_far_it_is(connect: Callable[..., Serve], root: Path) -> None:
    first, second = connect(), connect()
    answer = offer(first, BIG)
    for told in (second.ask("tree", name=BIG.manifest.name), offer(second, BIG)):
        assert told["have"] is False
        assert told["busy"]["of"] == 1_000_001
        assert str(first.process.pid) in told["busy"]["by"]
    first.give("fill", [lacking(BIG, answer)])
    assert second.ask("tree", name=BIG.manifest.name)["have"] is True
    assert offer(second, BIG)["have"] is True


def test_an_offer_that_nobody_follows_is_another_ones(connect: Callable[..., Serve], root: Path) -> None:
    first, second = connect(), connect()
    offer(first, BIG)
    first.ask("poll", jobs=[])
    offer(first, SOURCE)
    assert send(second, BIG) == BIG.manifest.name


def test_a_tree_comes_while_one_like_it_is_published(connect: Callable[..., Serve], root: Path) -> None:
    """The incoming one was taken before the other was there: whoever is second throws his away."""
    serve = connect()
    answer = offer(serve, BIG)
    aside = root / "aside"
    os.rename(store(root).arriving(BIG.manifest.name).dir, aside)
    send(connect(), BIG)
    os.rename(aside, store(root).arriving(BIG.manifest.name).dir)
    assert serve.give("fill", [lacking(BIG, answer)])["name"] == BIG.manifest.name
    assert leftovers(root) == []
    assert serve.ask("tree", name=BIG.manifest.name)["have"]


def test_a_half_tree_helps_another_one(connect: Callable[..., Serve], root: Path) -> None:
    serve = connect()
    offer(serve, BIG)
    begin_fill(serve, BIG.contents["big"])
    path = Path(store(root).arriving(BIG.manifest.name).tree) / "big"
    until = time.monotonic() + 30
    while not (path.exists() and path.stat().st_mtime == MTIME_S):
        assert time.monotonic() < until
        time.sleep(0.005)  # the host tells at the end only
    changed = tree({**BIG.contents, "small": "other"})
    assert lacking(changed, offer(connect(), changed)) == b"other"


NO_LOCKS = """
import errno, fcntl
def flock(*_): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""


def test_where_there_are_no_locks_each_brings_his_own(connect: Callable[..., Serve], root: Path) -> None:
    first, second = connect(prelude=NO_LOCKS), connect(prelude=NO_LOCKS)
    one, other = offer(first, BIG), offer(second, BIG)
    for serve, answer in ((first, one), (second, other)):
        assert serve.give("fill", [lacking(BIG, answer)])["name"] == BIG.manifest.name
    assert run(first, BIG.manifest.name, "cat small")[0] == "SUCCEEDED"
    assert leftovers(root) == []


def test_one_that_stands_still_is_given_up(connect: Callable[..., Serve], root: Path) -> None:
    serve = connect(prelude="import airflow_jobdeploy.hostside.serve as s; s._STALL_S = 0.3")
    offer(serve, BIG)
    begin_fill(serve, b"x")
    assert serve.process.wait(10) == 0
    assert offer(connect(), BIG)["lacks"] == [[0, 2]]


# -- jobs that write to what all share ------------------------------------------------------------------------------

TAMPER = {
    "a byte": "printf X | dd of=main.sh bs=1 conv=notrunc 2>/dev/null",
    "longer": "echo more >> main.sh",
    "gone": "rm -f main.sh",
    "another": "rm -f main.sh; echo main > main.sh",
    "a link": "rm -f main.sh; ln -s /etc/passwd main.sh",
    "a folder": "rm -f main.sh; mkdir main.sh",
    "a file more": ": > 'data dir/more'",
    "a file more at the top": ": > more",
    "another target": "rm -f 'data dir/up'; ln -s ../run 'data dir/up'",
    "no longer executable": "chmod 444 run",
    "no folder": "rmdir none",
}


@pytest.mark.parametrize("how", TAMPER)
def test_a_job_that_changes_a_dataset_harms_no_other(serve: Serve, root: Path, how: str) -> None:
    name = send(serve, SOURCE)
    text = f'cd "$JOBDEPLOY_DATASET_DIR"; chmod -R u+w . ; {TAMPER[how]}'
    assert run(serve, name, text, "dataset")[0] == "SUCCEEDED"
    assert serve.ask("tree", name=name)["have"] is False
    assert send(serve, SOURCE) == name
    assert serve.ask("tree", name=name)["have"] is True
    assert run(serve, name, 'cd "$JOBDEPLOY_DATASET_DIR"; sh main.sh; ./run; ls | wc -l', "dataset")[1] == (
        b"main\nrun\n5\n"
    )
    assert leftovers(root) == []


def test_only_what_a_job_has_spoilt_is_sent_again(serve: Serve, root: Path) -> None:
    name = send(serve, SOURCE)
    spoilt = place(root, name) / "main.sh"
    spoilt.chmod(0o644)
    spoilt.write_text("rm -rf /")
    answer = offer(serve, SOURCE)
    assert lacking(SOURCE, answer) == b"echo main"
    serve.give("fill", [b"echo main"])
    assert spoilt.read_text() == "echo main"


@pytest.mark.parametrize("what", ["manifest.json", "lock", "facts.json", "tree"])
def test_a_tree_without_one_of_its_parts(serve: Serve, root: Path, what: str) -> None:
    name = send(serve, SOURCE)
    path = Path(store(root).tree(name).dir) / what
    os.rename(path, root / "elsewhere")
    whole = serve.ask("tree", name=name)["have"]
    assert whole == (what in ("lock", "facts.json"))
    assert send(serve, SOURCE) == name
    assert run(serve, name, "sh main.sh") == ("SUCCEEDED", b"main\n")


def test_a_manifest_that_was_changed_is_none(serve: Serve, root: Path) -> None:
    name = send(serve, SOURCE)
    path = Path(store(root).tree(name).manifest)
    path.write_text(json.dumps([list(file("main.sh", b"echo main"))]))
    assert serve.ask("tree", name=name)["have"] is False


# -- the copy -------------------------------------------------------------------------------------------------------


def test_a_stop_while_the_code_is_copied_ends_the_job(serve: Serve, host: HostPaths) -> None:
    source = tree({f"d{number}/f": "x" for number in range(3000)})
    name = send(serve, source)
    job = shell("echo never", bundle=name)
    serve.claim(job)
    give(serve, job.job_id, name)
    serve.ask("start", job=job.job_id)
    serve.stop(job.job_id, reason="enough", grace_s=0)
    state = serve.end(job.job_id)
    assert state["status"] == "CANCELLED"
    assert not os.path.exists(host.job(job.job_id).work + ".new")


def test_a_supervisor_that_is_killed_while_it_copies(serve: Serve, host: HostPaths) -> None:
    source = tree({f"d{number}/f": "x" for number in range(3000)})
    name = send(serve, source)
    job = shell("echo never", bundle=name)
    serve.claim(job)
    give(serve, job.job_id, name)
    serve.ask("start", job=job.job_id)
    beside = Path(host.job(job.job_id).work + ".new")
    until = time.monotonic() + 30
    while not beside.exists() and not Path(host.job(job.job_id).work).exists():
        assert time.monotonic() < until
    try:
        os.kill(json.loads(Path(host.job(job.job_id).state).read_text())["pid"], signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was quicker than we are
    state = serve.end(job.job_id)
    assert state["status"] in ("FAILED", "SUCCEEDED")
    assert serve.ask("tree", name=name)["have"] is True
