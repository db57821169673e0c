"""Virtual environments of a worker, by content: made once, shared by its jobs, and by machines that share the root.

    <root>/store/envs/<name>/    name: follows from the interpreter and the lines
        lock                     exclusive: somebody makes or removes it; shared: jobs use it
        building.json            who makes it
        requirements.txt, constraints.txt
        venv/                    made where it stays: environments cannot be moved
        ready.json               written last; its time is the last use. Without it all the rest is half, and wiped

A supervisor runs this module as a child (role "environment"): what it says is the job's log, what came of it stands in
the job's environment.json. The processes that install hold the lock, too, and die with whoever started them: a new
builder never wipes what an old one still writes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from typing import Any, Dict, List, Optional

from airflow_jobdeploy.hostside import files, identity, layout, pythons
from airflow_jobdeploy.hostside.jobdir import Job, retire
from airflow_jobdeploy.hostside.layout import EnvPaths, HostPaths
from airflow_jobdeploy.hostside.pythons import Unmade

#: Probes of others hold a lock for a moment only.
_MOMENT_S = 0.3


def main(job: Job) -> int:
    """Have the environment of a job ready, as a child of its supervisor; the exit status."""
    path = os.environ.get("PATH", os.defpath)
    os.chdir("/")  # of no directory shall anything be read that was not asked for
    try:
        outcome: Dict[str, Any] = {"name": ensure(job, path)}
    except Unmade as error:
        outcome = {"error": str(error), "disk": error.disk}
    except OSError as error:
        trouble = _unmade(error, job.host.root)
        outcome = {"error": str(trouble), "disk": trouble.disk}
    files.write_json(job.paths.environment, outcome)
    return 1 if "error" in outcome else 0


def _unmade(error: OSError, place: str) -> Unmade:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = "the environment cannot be made: %s" % error
    return Unmade(text, {"disk_path": error.filename or place} if is_full else None)


def ensure(job: Job, path: str) -> str:
    """The name of the environment of a job, made if it is not there. Unmade, OSError."""
    wanted = job.plan()["environment"]
    python = _interpreter(wanted.get("python") or "", path)
    name = _name(python, wanted)
    paths = job.host.env(name)
    while True:
        if is_ready(job.host, name):
            _say(name, "there already, %s" % _counted(files.read_json(paths.ready) or {}))
            return name
        files.private_dir(paths.dir)
        try:
            lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the folder was taken away that moment
        try:
            _lock(lock, name, paths)
            if _is_same(lock, paths.lock) and not is_ready(job.host, name):
                _make(job, name, wanted, python, path, lock)
                return name
        finally:
            os.close(lock)


def _name(python: List[str], wanted: Dict[str, Any]) -> str:
    content = [python[:3], list(wanted.get("requirements", ())), list(wanted.get("constraints", ()))]
    return "e" + layout.letters(json.dumps(content).encode(), 32)


def _say(name: str, text: str) -> None:
    print("[environment %s: %s]" % (name[:10], text), flush=True)


def _counted(record: Dict[str, Any]) -> str:
    count = len(record.get("packages", ()))
    return "%d package%s" % (count, "" if count == 1 else "s")


# -- the interpreter ------------------------------------------------------------------------------------------------


def _interpreter(wanted: str, path: str) -> List[str]:
    """[version, path, platform, "3.11"] of the first that answers, and is what was asked for. Unmade."""
    silent = ""
    for program in pythons.candidates(wanted, path):
        found, complaint = pythons.ask(program)
        if found is None:
            silent = silent or "; %s was asked and said: %s" % (program, complaint)
        elif not _is_version(wanted) or wanted == "python" + found[3] or wanted == "python" + found[3].split(".")[0]:
            return found
    text = "%s was not found on this worker%s. There: %s. Install it there, or choose another with `python`"
    raise Unmade(text % (wanted or "python3 (or python)", silent, pythons.seen(path)))


def _is_version(wanted: str) -> bool:
    return wanted.startswith("python") and wanted[6:].replace(".", "").isdigit()


# -- one builder at a time ------------------------------------------------------------------------------------------


def _lock(fd: int, name: str, paths: EnvPaths) -> None:
    """Take the lock for ourselves; say for whom we wait."""
    until = time.monotonic() + _MOMENT_S
    while not _try(fd, fcntl.LOCK_EX):
        if time.monotonic() > until:
            who = _builder(paths)
            _say(name, "waiting for job %s on %s, which is making it" % (who.get("job", "?"), who.get("host", "?")))
            fcntl.flock(fd, fcntl.LOCK_EX)  # ended with us, by an order or a limit of the job
            return
        time.sleep(0.01)  # a blocking flock could not be bounded


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Unmade(
            "%s: the root's filesystem has no locks (%s): set another root" % ("environments", error)
        ) from None
    return True


def _builder(paths: EnvPaths) -> Dict[str, Any]:
    try:
        return files.read_json(paths.building) or {}
    except files.Damaged:
        return {}


def _is_same(fd: int, path: str) -> bool:
    """Is it still the file of this name? An evictor may have taken the folder away while we waited."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _make(job: Job, name: str, wanted: Dict[str, Any], python: List[str], path: str, lock: int) -> None:
    from airflow_jobdeploy.hostside import install

    paths = job.host.env(name)
    _wipe(paths)
    begun = time.monotonic()
    made = False
    try:
        who = {"job": job.id, "host": os.uname().nodename, "pid": os.getpid()}
        files.write_json(paths.building, who)
        for place, lines in ((paths.requirements, "requirements"), (paths.constraints, "constraints")):
            with open(place, "w", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in wanted.get(lines, ()))
        installer = install.installer(paths, python[1], path, lock)
        _say(name, "made with %s for Python %s (%s)" % (installer.title, python[3], python[1]))
        installer.run(job.paths.log)
        record = {"packages": installer.freeze(), "made_with": installer.title, "python": python, "made_by": who}
        _close(paths.venv)
        size, checked = _size(paths.venv), {job.host.machine: identity.boot()}
        files.write_json(paths.ready, {"layout": layout.LAYOUT, **record, **size, "checked": checked}, sync=True)
        made = True
    except OSError as error:
        raise _unmade(error, paths.dir) from None
    finally:
        if not made:
            _wipe(paths)
    _say(name, "ready after %.1f s, %s" % (time.monotonic() - begun, _counted(record)))


def _wipe(paths: EnvPaths) -> None:
    """Remove all but the lock, which is ours."""
    files.forget_file(paths.ready)
    for name in os.listdir(paths.dir):
        full = os.path.join(paths.dir, name)
        if os.path.isdir(full) and not os.path.islink(full):
            files.remove_tree(full)
        elif full != paths.lock:
            files.forget_file(full)


def _close(folder: str) -> None:
    """Nothing is to be added by a job that shares it: its `pip install` shall fail, not change what others import."""
    for inner, _, _ in os.walk(folder):
        os.chmod(inner, 0o500)


def _size(folder: str) -> Dict[str, int]:
    """{"files", "bytes"} as they were installed: what Python compiles comes and goes."""
    count = total = 0
    for inner, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            count += 1
            total += os.lstat(os.path.join(inner, name)).st_size
    return {"files": count, "bytes": total}


# -- for those who use and remove them ------------------------------------------------------------------------------


def is_ready(host: HostPaths, name: str) -> bool:
    """Is it there, whole? Looked at anew after each boot: a power cut may have emptied what was just written."""
    paths = host.env(name)
    try:
        record = files.read_json(paths.ready)
        if record is None:
            return False
        if record.get("checked", {}).get(host.machine) != identity.boot():
            if {key: record.get(key) for key in ("files", "bytes")} != _size(paths.venv):
                return False
            checked = {**record.get("checked", {}), host.machine: identity.boot()}
            _rewrite(paths.ready, {**record, "checked": checked})
        return os.path.exists(os.path.join(paths.venv, "bin", "python"))
    except (files.Damaged, FileNotFoundError):
        return False


def _rewrite(path: str, record: Dict[str, Any]) -> None:
    try:
        files.write_json(path, record)
    except OSError:  # a full disk: the next job looks again
        pass


def hold(host: HostPaths, name: str) -> Optional[int]:
    """Keep it from being removed for as long as the file descriptor lives; None: it has gone meanwhile."""
    paths = host.env(name)
    try:
        fd = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if _try(fd, fcntl.LOCK_SH) and _is_same(fd, paths.lock) and os.path.exists(paths.ready):
        try:
            os.utime(paths.ready)
        except OSError:  # read-only: nobody can evict there, either
            pass
        return fd
    os.close(fd)
    return None


def names(host: HostPaths) -> List[str]:
    """All environments, also halves."""
    try:
        return sorted(name for name in os.listdir(host.envs) if layout.is_name(name))
    except OSError:
        return []


def last_used(host: HostPaths, name: str) -> float:
    """When a job took it last (seconds of the wall clock); 0.0 for a half that nobody is making: it may go first."""
    try:
        return os.stat(host.env(name).ready).st_mtime
    except OSError:
        return 0.0


def size_bytes(host: HostPaths, name: str) -> int:
    """What it takes on disk, roughly: files that an installer's cache shares are counted."""
    try:
        record = files.read_json(host.env(name).ready)
        return int(record["bytes"]) if record else _size(host.env(name).dir)["bytes"]
    except (files.Damaged, OSError, KeyError, TypeError, ValueError):
        return 0


def evict(host: HostPaths, name: str) -> bool:
    """Remove it, unless somebody uses or makes it."""
    paths = host.env(name)
    try:
        fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # gone already
        return False
    try:
        if not _try(fd, fcntl.LOCK_EX) or not _is_same(fd, paths.lock):
            return False
        retire(host, paths.dir)
        return True
    except (OSError, Unmade):
        return False
    finally:
        os.close(fd)
