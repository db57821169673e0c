"""PATH of a login shell that prints, hangs or is missing; TMPDIR that somebody else has put there; durations."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import environment, jobdir
from airflow_jobdeploy.hostside.layout import HostPaths


@pytest.fixture
def paths(tmp_path: Path) -> HostPaths:
    found = HostPaths(str(tmp_path), "m1")
    os.makedirs(found.host)
    return found


def shell(tmp_path: Path, text: str) -> str:
    path = tmp_path / "shell"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o700)
    return str(path)


NOISY = 'echo welcome; yes | head -c 300000; echo PATH=/wrong; export PATH=/right:/bin; exec /bin/sh "$@"'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (NOISY, "/right:/bin"),
        ("read line; echo got $line; PATH='/with space:/bin' exec /bin/sh \"$@\"", "/with space:/bin"),
        ("exit 1", environment.DEFAULT_PATH),
        ("kill -9 $$", environment.DEFAULT_PATH),
        ("sleep 600 & sleep 600", environment.DEFAULT_PATH),
    ],
)
def test_path_of_a_login_shell(
    paths: HostPaths, tmp_path: Path, text: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found == environment.DEFAULT_PATH:  # who does not answer is not waited for; who does is, on a busy machine
        monkeypatch.setattr(environment, "_ASK_S", 1.0)
    else:
        monkeypatch.setattr(environment, "_ASK_S", 60.0)
    assert environment.login_path(paths, shell(tmp_path, text), {"HOME": "/"}) == found


def test_a_shell_that_hangs_may_clear_up(paths: HostPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyenv's start-up takes a lock: killed with it, every later login would wait a minute."""
    monkeypatch.setattr(environment, "_ASK_S", 1.0)
    monkeypatch.setattr(environment, "_END_S", 60.0)
    lock = tmp_path / "lock"
    program = shell(tmp_path, f"trap 'rm {lock}' EXIT; trap 'exit 1' TERM; touch {lock}; sleep 600")
    assert environment.login_path(paths, program, {"HOME": "/"}) == environment.DEFAULT_PATH
    assert not lock.exists()


@pytest.mark.parametrize("program", ["/bin/sh", "/bin/bash", "/usr/bin/fish", "/bin/tcsh", "/bin/zsh", "/bin/dash"])
def test_real_shells_tell_a_path(paths: HostPaths, program: str) -> None:
    path = environment.login_path(paths, program, {"HOME": "/nonexistent"})
    assert "/bin" in path.split(":"), "also a shell that is missing gives a PATH: the default"


def test_the_shell_is_asked_once(paths: HostPaths, tmp_path: Path) -> None:
    program = shell(tmp_path, f'echo x >> {tmp_path}/asked; exec /bin/sh "$@"')
    assert {environment.login_path(paths, program, {}) for _ in range(3)}
    assert (tmp_path / "asked").read_text() == "x\n"


def test_the_pools_path_wins(paths: HostPaths) -> None:
    assert environment.base(paths, "login", "/pool/bin")["PATH"] == "/pool/bin"
    assert environment.base(paths, "inherit", "/pool/bin")["PATH"] == "/pool/bin"


def test_our_own_names_are_not_inherited(paths: HostPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDEPLOY_JOB_ID", "outer")
    monkeypatch.setenv("KEPT", "1")
    found = environment.base(paths, "inherit", None)
    assert "JOBDEPLOY_JOB_ID" not in found
    assert found["KEPT"] == "1"


def test_tmpdir_is_made_private(tmp_path: Path) -> None:
    place = tmp_path / "jd-0" / "abc"
    place.parent.mkdir(mode=0o755)
    environment.make_temporary(str(place))
    environment.make_temporary(str(place))
    assert [oct(path.stat().st_mode & 0o777) for path in (place.parent, place)] == ["0o700", "0o700"]


def test_a_link_in_place_of_tmpdir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jd-0").mkdir()
    (tmp_path / "jd-0" / "abc").symlink_to(tmp_path)
    with pytest.raises(environment.Refused, match="not a directory of ours"):
        environment.make_temporary(str(tmp_path / "jd-0" / "abc"))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("~", "/h"),
        ("~/a b", "/h/a b"),
        ("/srv/x/../y", "/srv/y"),
        ("rel", "/h/rel"),
        ("~nobody-known/x", "/h/~nobody-known/x"),
    ],
)
def test_directories_as_people_write_them(path: str, found: str) -> None:
    assert environment.expand(path, "/h") == found


def test_durations_do_not_follow_the_wall_clock() -> None:
    now = jobdir.stamp()
    assert jobdir.age_s([now[0] - 5, now[1] + 3600, now[2]], now) == pytest.approx(5)
    assert jobdir.age_s([now[0] + 5, now[1] - 60, "another boot"], now) == pytest.approx(60)
    assert jobdir.age_s([now[0], now[1] + 60, "another boot"], now) == 0
    assert jobdir.age_s(jobdir.stamp()) < time.monotonic()
