"""What a job's processes find in their environment, and the directories named there.

`login`: HOME, USER, SHELL, LANG=C.UTF-8 and the PATH of one login shell, asked once and cached: what a person gets who
logs in, whatever sshd gave us. `inherit`: our own environment (the `local` worker: that of the task). The plan's env
goes over it, secrets over that, our own names last.
"""

from __future__ import annotations

import os
import pwd
import signal
import stat
import time
from typing import TYPE_CHECKING, Dict, Optional

from airflow_jobdeploy.hostside import files
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths

if TYPE_CHECKING:
    import subprocess

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_ASK_S, _END_S = 5.0, 1.0
_CACHE_S = 3600.0
_LABEL = "jobdeploy-path:"


class Refused(Exception):
    """The environment cannot be made; the text says why and what to do."""


def base(host: HostPaths, mode: str, path: Optional[str]) -> Dict[str, str]:
    """The environment before the plan's own. `mode`: "login" or "inherit"; `path`: the pool's PATH, or None."""
    if mode == "inherit":
        found = {key: value for key, value in os.environ.items() if not key.startswith("JOBDEPLOY_")}
    else:
        user = pwd.getpwuid(os.geteuid())
        shell = user.pw_shell or "/bin/sh"
        found = {"HOME": user.pw_dir, "USER": user.pw_name, "SHELL": shell, "LANG": "C.UTF-8"}
        found["PATH"] = path or login_path(host, shell, found)
    if path:
        found["PATH"] = path
    found.setdefault("PATH", DEFAULT_PATH)
    found.setdefault("HOME", os.path.expanduser("~"))
    return found


def login_path(host: HostPaths, shell: str, env: Dict[str, str]) -> str:
    """PATH as one login shell sees it, cached on the host for an hour; a default when it does not tell in time."""
    try:
        cached = files.read_json(host.login) or {}
    except files.Damaged:
        cached = {}
    if cached.get("shell") == shell and 0 <= time.time() - cached.get("asked", 0) < _CACHE_S:
        return str(cached["path"])
    path = _ask(shell, env) or DEFAULT_PATH
    try:
        files.write_json(host.login, {"shell": shell, "path": path, "asked": time.time()})
    except OSError:  # full or read-only: the next session asks again
        pass
    return path


def _ask(shell: str, env: Dict[str, str]) -> Optional[str]:
    import subprocess  # here: supervisors never ask, and it is 0.8 MB of each

    # A leading "-" in argv[0] makes any shell (sh, bash, zsh, csh, fish) a login shell; the text means the same in all.
    text = "exec /bin/sh -c 'echo \"%s$PATH\"'" % _LABEL
    try:
        child = subprocess.Popen(
            ["-" + os.path.basename(shell), "-c", text],
            executable=shell,
            env={"PATH": DEFAULT_PATH, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        output, _ = child.communicate(timeout=_ASK_S)
    except subprocess.TimeoutExpired:
        output = b""
    finally:
        _end_group(child)
    for line in reversed(output.decode("utf-8", "surrogateescape").splitlines()):
        if _LABEL in line:
            return line.partition(_LABEL)[2].strip() or None
    return None


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM first: start-up files take locks (pyenv does), and who is killed with one keeps later logins waiting."""
    if child.poll() is None and _signalled(child.pid, signal.SIGTERM):
        until = time.monotonic() + _END_S
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.02)  # rare, and short
    _signalled(child.pid, signal.SIGKILL)
    if child.stdout:
        child.stdout.close()
    child.wait()


def _signalled(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except OSError:  # gone, as it should be
        return False
    return True


def own(job: Job) -> Dict[str, str]:
    """The names that every process of a job finds."""
    paths, temporary = job.paths, job.temporary()
    return {
        "JOBDEPLOY_JOB_ID": job.id,
        "JOBDEPLOY_ATTEMPT": str(job.plan().get("attempt", 1)),
        "JOBDEPLOY_OUTPUT_DIR": paths.output,
        "JOBDEPLOY_CHECKPOINT_DIR": job.host.checkpoint(job.plan()["uid"]),
        "JOBDEPLOY_RESULT_FILE": paths.result,
        "JOBDEPLOY_EXIT_FILE": paths.exit_file,
        "JOBDEPLOY_MESSAGES_FILE": paths.messages,
        "TMUX_TMPDIR": temporary,
        "TMPDIR": temporary,
        "PYTHONUNBUFFERED": "1",
    }


def make_temporary(path: str) -> None:
    """Make TMPDIR below /tmp, ours alone: a directory that somebody else has put there is refused."""
    for folder in (os.path.dirname(path), path):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise Refused("cannot make %s: %s" % (folder, error.strerror)) from None
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise Refused("%s is not a directory of ours (owner: user %d): remove it" % (folder, found.st_uid))
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(folder, 0o700)


def expand(path: str, home: str) -> str:
    """A directory as a person writes it: `~` is their home, and relative paths start there."""
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    elif path.startswith("~"):
        path = os.path.expanduser(path)
    return os.path.normpath(os.path.join(home, path))
