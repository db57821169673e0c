"""Process 1 of containers, piece by piece, in the shells of this machine: what needs no engine to be tried."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.engine import script

INIT = Path(script.__file__).with_name("init")
SHELLS = [
    pytest.param(argv, id=argv[0])
    for argv in (["dash"], ["bash", "--posix"], ["busybox", "sh"])
    if shutil.which(argv[0])
]
#: Nothing but the wait for a child; a nap that nobody ends is longer than the test may take.
WAITING = """
set -u
report=$1
exec 3>/dev/null 2>/dev/null
release() { :; }
. "$2/naps.sh"
. "$2/children.sh"
longest_nap=20000
has_cause() { return 1; }
patience() { patience=$longest_nap; }
"""


def run(shell: list[str], text: str, tmp_path: Path, timeout_s: float = 100.0) -> str:
    program = tmp_path / "program"
    program.write_text(WAITING + text)
    argv = [*shell, str(program), str(tmp_path), str(INIT)]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_nap_ends_however_soon_it_is_told_to(shell: list[str], tmp_path: Path) -> None:
    # A process that is asked to end between fork and exec must end: with TERM three in a hundred were not.
    nap = '(kill -s USR2 "$$") &\nchild=$!\ndoze 20000\nawait_child "$child"\ni=$((i + 1))'
    assert run(shell, f'i=0\nwhile [ "$i" -lt 400 ]; do\n{nap}\ndone\necho "$i"', tmp_path) == "400\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_end_of_a_command_is_never_missed(shell: list[str], tmp_path: Path) -> None:
    text = 'i=0\nwhile [ "$i" -lt 100 ]; do run true; [ "$code" = 0 ] || exit 1; i=$((i + 1)); done\necho "$i"'
    assert run(shell, text, tmp_path) == "100\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_child_that_is_killed_with_its_news_is_noticed(shell: list[str], tmp_path: Path) -> None:
    sleeper = """ends() { exec sh -c 'echo $$ >"$1"; exec sleep 300' sleeper "$report/sleeper"; }\n"""
    kill = 'killed() { read -r pid <"$report/$1"; kill -s KILL "$pid"; }\n'
    patience = 'patience() { echo "$runner" >"$report/runner"; patience=$longest_nap; }\n'
    known = 'until [ -s "$report/runner" ] && [ -s "$report/sleeper" ]; do sleep 0.05; done'
    text = f"longest_nap=100\n({known}; killed runner) &\nrun ends\necho $code\nkilled sleeper"
    assert run(shell, sleeper + kill + patience + text, tmp_path, 20) == "137\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_signal_ends_a_nap_and_no_wait_for_a_child(shell: list[str], tmp_path: Path) -> None:
    text = """
    (sleep 0.3; kill -s USR1 "$$") &
    first=$!
    doze 15000
    await_child "$first"
    (sleep 0.2; kill -s USR1 "$$"; sleep 0.5; echo ended) &
    await_child "$!"
    echo after
    """
    assert run(shell, text, tmp_path, 20) == "ended\nafter\n"


def test_the_program_is_whole_in_every_shell(tmp_path: Path) -> None:
    program = tmp_path / "init"
    program.write_bytes(script.init())
    assert {path.stem for path in INIT.iterdir()} == set(script.INIT)
    for param in SHELLS:
        subprocess.run([*param.values[0], "-n", str(program)], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_life_lasts_with_all_that_was_added(shell: list[str], tmp_path: Path) -> None:
    settings = "JD_LIFE=100 JD_GRACE=0 JD_SIGNAL=TERM JD_BUILD= JD_LEASE= JD_TIMEOUT= terminated= shared=$1\n"
    clock = (
        'began=1000 life_end=1100 JD_ID=j\nnow() { now=$time; }\nends_at() { time=$1; has_cause && echo "$life"; }\n'
    )
    (tmp_path / "life.half").write_text("5")  # its line has no end yet: what it says counts all the same
    (tmp_path / "life.a").write_text("20\n")
    (tmp_path / "life.b").write_text("30\n")
    (tmp_path / "life.odd").write_text("$(exit 9); 7\n")
    text = f'{settings}. "$2/orders.sh"\n{clock}ends_at 1099; ends_at 1154; ends_at 1155; echo "$cause $limit"'
    assert run(shell, text, tmp_path, 20) == "155\ntimeout life_span\n"
