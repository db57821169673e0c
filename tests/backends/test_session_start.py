"""A session begins through a login shell, whatever that does; or it says what is wrong."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_jobdeploy.backends import session
from airflow_jobdeploy.backends.channel import Client, LocalClient
from airflow_jobdeploy.backends.payload import command, payload
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from tests.backends.clients import SHELLS, CommandClient, ShellClient, host, with_rc
from tests.servers import disks


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    return place


def bash(home: Path, rc: str = "", **env: str) -> ShellClient:
    # bash -c reads BASH_ENV; under sshd it reads ~/.bashrc
    with_rc(home, ".bashrc", rc)
    return ShellClient(shutil.which("bash") or "bash", home, BASH_ENV=str(home / ".bashrc"), **env)


def trouble(client: Client, root: Path, kind: type[WorkerError] = WorkerUnreachable) -> str:
    """What a session that does not begin says."""
    with host(client, root) as backend, pytest.raises(kind) as caught:
        backend.facts()
    return str(caught.value)


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_login_shells_pass_the_command_on(shell: str, home: Path, tmp_path: Path) -> None:
    with_rc(home, SHELLS[shell], "echo welcome\n")
    with host(ShellClient(shutil.which(shell) or shell, home), tmp_path / "root") as backend:
        assert backend.facts().root == str(tmp_path / "root")


@pytest.mark.parametrize(
    "noise",
    [
        "echo welcome; echo to stderr >&2",
        "head -c 900000 /dev/zero | tr '\\0' x",
        "printf '\\0jobdepl'",
        "printf '\\0jobdeploy\\002J\\0\\0\\0\\0'",
        "head -c 5000 /dev/urandom | tr -d '\\0\\1'",
    ],
)
def test_what_start_up_files_print_is_skipped(noise: str, home: Path, tmp_path: Path) -> None:
    with host(bash(home, noise), tmp_path / "root") as backend:
        assert backend.facts().machine


def test_start_up_files_that_print_megabytes_are_named(home: Path, tmp_path: Path) -> None:
    assert re.search(
        r"printed more than 1048576 bytes.*'noise\\nnoise.*only for a terminal",
        trouble(bash(home, "yes noise"), tmp_path / "root"),
    )


def test_a_start_up_file_that_exits(home: Path, tmp_path: Path) -> None:
    assert re.search(
        r"ended with status 5 before python3 began.*`exit`.*see you",
        trouble(bash(home, "echo see you >&2; exit 5"), tmp_path / "root"),
    )


def test_a_start_up_file_that_waits(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "START_TIMEOUT_S", 0.5)
    client = bash(home, "echo hold on; sleep 60")
    client.awaits_noise = True
    assert re.search(r"did not answer in time.*start-up file.*hold on", trouble(client, tmp_path / "root"))


def test_a_start_up_file_that_takes_our_input(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "START_TIMEOUT_S", 1.0)
    assert re.search("read from standard input", trouble(bash(home, "cat > /dev/null"), tmp_path / "root"))


def test_no_python(home: Path, tmp_path: Path) -> None:
    assert re.search(
        r"python3 was not found.*status 127.*Install Python 3\.8.*not found'",
        trouble(bash(home, "PATH=/nowhere"), tmp_path / "root"),
    )


def test_an_account_without_a_shell(home: Path, tmp_path: Path) -> None:
    nologin = tmp_path / "nologin"
    nologin.write_text("#!/bin/sh\necho This account is currently not available.\nexit 1\n")
    nologin.chmod(0o755)
    assert re.search(
        r"no login shell that runs commands.*currently not available",
        trouble(ShellClient(str(nologin), home), tmp_path / "root"),
    )


def _old_pythons() -> list[Path]:
    found = Path("~/.pyenv/versions").expanduser().glob("3.[0-7].*/bin/python3")
    return [path for path in found if os.access(path, os.X_OK)]


def test_pythons_that_are_too_old_say_so(home: Path, tmp_path: Path) -> None:
    for number, python in enumerate(_old_pythons()):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "python3").symlink_to(python)
        assert re.search(
            r"is Python 3\.[67]\.\d+, 3\.8 or newer is needed",
            trouble(bash(home, f"PATH={place}"), tmp_path / "root", WorkerError),
        )
    assert not (tmp_path / "root").exists()


# -- roots ----------------------------------------------------------------------------------------------------------


def refusal(root: Path) -> str:
    with host(LocalClient(), root, kind="local") as backend, pytest.raises(WorkerError) as caught:
        backend.facts()
    assert not isinstance(caught.value, WorkerUnreachable)
    return str(caught.value)


def test_a_root_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = refusal(tmp_path / "file" / "root")
    assert "local cannot serve: cannot use" in text
    assert "set another `root`" in text


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    assert "set another `root`" in refusal(Path("/proc/jobdeploy"))


def test_a_root_that_others_may_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o777)
    with host(LocalClient(), tmp_path / "root", kind="local") as backend:
        backend.facts()
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Too small for the runner."""
    with disks.small(tmp_path / "disk", "64k") as place:
        yield place


def test_a_full_disk(disk: Path) -> None:
    assert "full" in refusal(disk / "root")
    assert list((disk / "root" / "runner").iterdir()) == []


def test_a_read_only_disk(disk: Path) -> None:
    disks.make_read_only(disk)
    assert "read-only file system: set another `root`" in refusal(disk / "root")


def test_somebody_elses_root(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may give a directory away")
    (tmp_path / "root").mkdir()
    os.chown(tmp_path / "root", 65534, -1)
    assert "belongs to user 65534, not to us (0)" in refusal(tmp_path / "root")


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_the_runner_is_sent_once(tmp_path: Path) -> None:
    def ask(_: int) -> str:
        with host(LocalClient(), tmp_path / "root", kind="local") as backend:
            return backend.facts().machine

    with ThreadPoolExecutor(4) as pool:
        machines = set(pool.map(ask, range(8)))
    assert len(machines) == 1
    assert [path.name for path in (tmp_path / "root" / "runner").iterdir()] == [payload().digest]


def test_a_damaged_runner_is_not_kept(tmp_path: Path) -> None:
    bundle = payload()
    client = LocalClient()
    channel = client.open(command(shutil.which("python3") or "python3"))
    channel.write(bundle.opening(str(tmp_path / "root")).replace(bundle.digest.encode(), b"0" * 64), 5)
    channel.write(bundle.data, 5)
    said = b""
    while channel.wait(10) and (data := channel.read()):
        said += data
    client.close()
    assert b"arrived damaged" in said
    assert not (tmp_path / "root" / "runner" / ("0" * 64)).exists()


def test_nothing_of_ours_is_in_a_command_line() -> None:
    assert command("python3")[1:4] == ["-S", "-E", "-u"]
    assert not set("'\"!$`\\\n") & set("".join(command("python3")))


# -- workers that answer nonsense -----------------------------------------------------------------------------------

_MARK = "\\000jobdeploy\\001"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"printf '{_MARK}'; echo GET / HTTP/1.0", "not a frame"),
        (f"printf '{_MARK}J\\000\\000\\000\\144{{\"ok\": tr'", "ended in the middle of a frame"),
        (f"printf '{_MARK}J\\000\\000\\000\\004true'", "not an object"),
        (f"printf '{_MARK}B\\000\\000\\000\\000'", "bytes where an answer was expected"),
        (f"printf '{_MARK}'; echo oops >&2; exit 3", "ended with status 3; it said: 'oops'"),
        (f"printf '{_MARK}'; kill -9 $$", "ended with status -9"),
    ],
)
def test_nonsense_is_unreachable(script: str, told: str, tmp_path: Path) -> None:
    text = trouble(CommandClient("sh", "-c", script), tmp_path)
    assert text.startswith("a strange host cannot be asked: ")
    assert told in text
