"""Trees in and out: whole ones arrive whole, hostile ones are refused and leave nothing, nothing outside is sent."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import protocol
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Refused, Serve, shell


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def claimed(serve: Serve) -> Callable[[str], str]:
    def claim(text: str) -> str:
        plan = shell(f'cd "$JOBDEPLOY_CHECKPOINT_DIR"; {text}')
        serve.claim(plan)
        return plan.job_id

    return claim


TREE = (
    member("main.sh", b"echo $(cat 'data dir/n\xc3\xa9'\\''w')", mode=0o644),
    member("data dir", type=tarfile.DIRTYPE, mode=0o000),
    member("data dir/n\xe9'w", b"content"),
    link("alias", "data dir/n\xe9'w"),
    link("data dir/up", "../main.sh"),
    member("./tool", b"#!/bin/sh\necho tool", mode=0o4777),
    member("a" * 120 + "/" + "b" * 120, b"long"),
    member("bad\udcff", b"not utf-8"),
)
GOOD = packed(*TREE)


def place(serve: Serve, host: HostPaths, job: str) -> Path:
    """Where its tree goes."""
    plan = next(record["plan"] for record in serve.ask("jobs")["jobs"] if record["plan"]["job_id"] == job)
    return Path(host.checkpoint(plan["uid"]))


def test_a_tree_arrives_as_it_was_sent(serve: Serve, claimed: Callable[[str], str], host: HostPaths) -> None:
    job = claimed("sh main.sh; cat alias; ./tool; ls | wc -l")
    reply = serve.put(job, [GOOD])
    assert (reply["files"], reply["bytes"]) == (7, sum(len(content) for _, content in TREE))
    serve.ask("start", job=job)
    assert serve.end(job)["status"] == "SUCCEEDED"
    assert serve.log(job) == b"content\ncontenttool\n6\n"
    work = place(serve, host, job)
    assert oct((work / "tool").stat().st_mode & 0o7777) == "0o700"
    assert oct((work / "main.sh").stat().st_mode & 0o7777) == "0o600"
    assert not os.listdir(host.incoming)


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/evil", b"x"),
        member("../evil", b"x"),
        member("a/../../evil", b"x"),
        link("out", "/etc"),
        link("out", ".."),
        link("a/out", "../../etc"),
        link("hard", "/etc/passwd", tarfile.LNKTYPE),
        member("pipe", type=tarfile.FIFOTYPE),
        member("device", type=tarfile.CHRTYPE),
        member("first", b"twice"),
        member("first/below", b"a file as a folder"),
        member("x" * 300, b"name too long"),
    ],
)
def test_a_hostile_archive_is_refused_whole(serve: Serve, claimed: Callable[[str], str], host: HostPaths, bad) -> None:
    job = claimed("true")
    with pytest.raises(Refused, match="bad-request") as caught:
        serve.put(job, [packed(member("first", b"1"), bad, member("last", b"2"))])
    assert bad[0].name[:20] in str(caught.value)
    assert not place(serve, host, job).exists()
    assert not os.listdir(host.incoming)
    assert serve.put(job, [GOOD])["files"] == 7


def test_a_link_is_not_walked_through(serve: Serve, claimed: Callable[[str], str], host: HostPaths) -> None:
    job = claimed("true")
    with pytest.raises(Refused, match="bad-request"):
        serve.put(job, [packed(member("d", type=tarfile.DIRTYPE), link("l", "d"), member("l/x", b"1"))])


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, GOOD[:700], GOOD[: len(GOOD) // 2]])
def test_a_cut_archive_is_no_tree(serve: Serve, claimed: Callable[[str], str], host: HostPaths, data: bytes) -> None:
    job = claimed("true")
    with pytest.raises(Refused, match="bad-request"):
        serve.put(job, [data])
    assert not place(serve, host, job).exists()


def test_sent_again_and_by_two(serve: Serve, connect, claimed: Callable[[str], str], host: HostPaths) -> None:
    job = claimed("cat v")
    for session, version in ((serve, b"1"), (connect(), b"2")):
        session.put(job, [packed(member("v", version), member("only" + version.decode(), b""))])
    assert sorted(os.listdir(place(serve, host, job))) == ["only2", "v"]
    serve.ask("start", job=job)
    serve.end(job)
    serve.put(job, [packed(member("v", b"late"))])
    assert (place(serve, host, job) / "v").read_bytes() == b"2", "the tree of a started job was replaced"


def test_the_session_ends_inside_a_transfer(
    serve: Serve, connect, claimed: Callable[[str], str], host: HostPaths
) -> None:
    job = claimed("true")
    serve.send("put", job=job, into="checkpoint")
    serve.write(protocol.pack(b"B", GOOD[:3000]))
    assert serve.process.stdin
    serve.process.stdin.close()
    assert serve.process.wait(10) == 0
    other = connect()
    assert not place(other, host, job).exists()
    assert other.put(job, [GOOD])["files"] == 7


# -- out --------------------------------------------------------------------------------------------------------------


def fetched(serve: Serve, job: str, paths: list[str]) -> dict[str, bytes]:
    reply, data = serve.ask_bytes("get", job=job, paths=paths)
    assert reply["files"] == len(paths)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def test_files_come_in_the_order_asked(serve: Serve) -> None:
    text = """
        cd "$JOBDEPLOY_OUTPUT_DIR"; mkdir d; printf 1 > d/a; : > empty
        head -c 300000 /dev/zero > "big é"; printf b > "$(printf "n\\377")"
    """
    job = serve.run(shell(text))["job_id"]
    paths = [entry["path"] for entry in serve.ask("manifest", job=job)["files"]]
    assert sorted(paths) == ["big é", "d/a", "empty", "n\udcff"]
    found = fetched(serve, job, list(reversed(paths)))
    assert list(found) == list(reversed(paths))
    assert found == {"big é": bytes(300_000), "d/a": b"1", "empty": b"", "n\udcff": b"b"}


@pytest.mark.parametrize("path", ["../plan.json", "/etc/passwd", "out", "dir/passwd", "gone", "pipe", "d", "", "a\0b"])
def test_nothing_else_is_sent(serve: Serve, path: str) -> None:
    text = 'cd "$JOBDEPLOY_OUTPUT_DIR"; ln -s /etc/passwd out; ln -s /etc dir; mkfifo pipe; mkdir d; echo > ok'
    job = serve.run(shell(text))["job_id"]
    with pytest.raises(Refused):
        serve.ask("get", job=job, paths=["ok", path])
    assert fetched(serve, job, ["ok"]) == {"ok": b"\n"}


def test_a_running_jobs_output_can_be_asked_for(serve: Serve) -> None:
    job = serve.launch(shell('echo 1 > "$JOBDEPLOY_OUTPUT_DIR/now"; echo; sleep 60'))
    serve.until(job, lambda state: state["log_bytes"] > 0)
    assert fetched(serve, job, [entry["path"] for entry in serve.ask("manifest", job=job)["files"]]) == {"now": b"1\n"}
    serve.stop(job)
    serve.end(job)


def test_an_output_directory_replaced_by_a_link_gives_nothing(serve: Serve) -> None:
    state = serve.run(shell('rmdir "$JOBDEPLOY_OUTPUT_DIR"; ln -s /etc "$JOBDEPLOY_OUTPUT_DIR"'))
    assert state["artifacts"] == {"files": 0, "bytes": 0, "skipped": 1}
    with pytest.raises(Refused):
        serve.ask("get", job=state["job_id"], paths=["passwd"])


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def test_the_sizes_of_pieces_do_not_matter(serve: Serve, claimed: Callable[[str], str]) -> None:
    for size in (1000, 511, 65536):
        assert serve.put(claimed("true"), pieces(GOOD, size))["files"] == 7
