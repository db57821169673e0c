"""Start of a supervisor: a process of its own, in a session of its own, that outlives the one who asked."""

from __future__ import annotations

import os
import select
import sys
from typing import Dict, List

from airflow_jobdeploy.hostside import logs
from airflow_jobdeploy.hostside.jobdir import Job

#: Paths and ids are arguments, never part of the program text.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from airflow_jobdeploy.hostside.runner import main; sys.exit(main(sys.argv[1:]))"
)
_PLACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_ANSWER_S = 10.0


class NotStarted(Exception):
    """The supervisor did not come up; the text gives its last words."""


def role(name: str, job: Job) -> List[str]:
    """The command line of a role of the runner (runner.py) for a job."""
    command = [sys.executable or "python3", "-I", "-S", "-u", "-c", _PROGRAM, _PLACE, name]
    return [*command, "--root", job.host.root, "--machine", job.host.machine, "--job", job.id]


def start(job: Job, env: Dict[str, str]) -> bool:
    """Start a supervisor of this job; True once it holds the job, False when another one does."""
    import subprocess

    command = role("supervise", job)
    words = complaints(job)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            env=env,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise NotStarted("cannot run %s: %s" % (command[0], error)) from None
    finally:
        os.close(words)
    assert child.stdout is not None
    with child.stdout:
        ready = select.select([child.stdout], [], [], _ANSWER_S)[0]
        word = os.read(child.stdout.fileno(), 64).strip() if ready else b""
    if word:
        child.wait()  # only the first of two processes: it has ended already
        return word == b"held"
    child.poll()
    raise NotStarted("the supervisor of %s did not start: %s" % (job.id, _last_words(job)))


def complaints(job: Job) -> int:
    """A file descriptor for what the processes of a job's supervision have to say when they break."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(job.paths.supervisor_log, flags, 0o600)
    except OSError:  # a full disk: the job may still run, its supervisor has nowhere to complain
        return os.open(os.devnull, flags)


def _last_words(job: Job) -> str:
    try:
        with open(job.paths.supervisor_log, "rb") as file:
            return logs.last_lines(file.read()[-4096:]) or "it said nothing"
    except OSError as error:
        return str(error)
