"""How one step becomes files and an argv. No text of a user ever becomes part of a command line that a shell parses."""

from __future__ import annotations

import errno
import os
import stat
from typing import Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import files
from airflow_jobdeploy.hostside.layout import JobPaths


class SetupError(Exception):
    """The step cannot be started; the text says what is missing, where, and what to do."""


class Place:
    """Where steps run: working directory, the job's own paths, and the environment with its PATH."""

    def __init__(self, workdir: str, paths: JobPaths, env: Dict[str, str]) -> None:
        self.workdir = workdir
        self.paths = paths
        self.env = env
        #: That of the job's virtual environment, when it has one.
        self.python = ""

    def find(self, program: str) -> Optional[str]:
        """A program by path (from the working directory) or on the job's PATH."""
        if "/" in program:
            return _runnable(os.path.normpath(os.path.join(self.workdir, os.path.expanduser(program))))
        folders = self.env.get("PATH", os.defpath).split(os.pathsep)
        return next(filter(None, (_runnable(os.path.join(folder, program)) for folder in folders)), None)


def _runnable(path: str) -> Optional[str]:
    return path if os.access(path, os.X_OK) and not os.path.isdir(path) else None


def prepare(step: dict, number: int, place: Place) -> Optional[List[str]]:
    """Bring a step's files into place; its argv, None when nothing is to be run. SetupError; OSError on a full disk."""
    kind = step["kind"]
    if kind == "file":
        write_below(place.workdir, step["path"], step["content"], 0o600)
        return None
    if kind == "script":
        write_below(place.workdir, step["path"], step["content"], 0o700)
        return _script(step["path"], [], place, _shell(place))
    if kind == "shell":
        path = os.path.join(place.paths.scripts, "%d.sh" % number)
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(_encoded(step["content"]))
        return [*_shell(place), path]
    if kind == "entry":
        return _entry(step, place)
    if kind == "argv":
        return _argv(step, place)
    if kind == "main":
        return _main(step, place)
    raise SetupError("step %r has kind %r, which this runner does not know" % (step.get("name"), kind))


def _entry(step: dict, place: Place) -> List[str]:
    path, args = step["path"], list(step.get("args", ()))
    parts_of(path)
    full = os.path.join(place.workdir, path)
    if not os.path.isfile(full):
        raise SetupError("entry_script %r is not there: looked for %s%s" % (path, full, _nearest(full)))
    inside = os.path.realpath(place.workdir)
    if os.path.commonpath([inside, os.path.realpath(full)]) != inside:
        raise SetupError("entry_script %r leads out of the working directory %s" % (path, place.workdir))
    if _shebang(full) is not None:
        return _script(path, args, place, None)
    if path.endswith(".py"):
        return [_python(step.get("python", ""), place), _dotted(path), *args]
    if path.endswith(".sh"):
        return [*_shell(place), _dotted(path), *args]
    if os.access(full, os.X_OK):
        return [full, *args]
    raise SetupError(
        "entry_script %r cannot be run: it has no #! line, is neither .py nor .sh, and is not executable; "
        "add a first line such as #!/usr/bin/env bash" % path
    )


def _main(step: dict, place: Place) -> List[str]:
    """main(dataset_dir, model_output_dir) of main.py at the working directory's root: see call_main.py."""
    full = os.path.join(place.workdir, "main.py")
    if not os.path.isfile(full):
        raise SetupError("main.py is not at the root of the project: looked for %s%s" % (full, _nearest(full)))
    dataset = place.env.get("JOBDEPLOY_DATASET_DIR") or files.private_dir(place.paths.dataset)
    helper = os.path.join(os.path.dirname(os.path.abspath(__file__)), "call_main.py")
    return [_python(step.get("python", ""), place), helper, dataset, place.paths.output, *step.get("args", ())]


def _argv(step: dict, place: Place) -> List[str]:
    args = list(step.get("args", ()))
    if not args:
        raise SetupError("step %r has an empty command line" % step.get("name"))
    found = place.find(args[0])
    if found is None:
        raise SetupError(_not_found(args[0], place))
    return [found, *args[1:]]


def _script(path: str, args: List[str], place: Place, without: Optional[List[str]]) -> List[str]:
    """By the shebang, which we read ourselves: a filesystem mounted noexec runs no script, its interpreter does."""
    found = _shebang(os.path.join(place.workdir, path))
    if found is None:
        return [*(without or []), _dotted(path), *args]
    interpreter = found[0]
    if place.find(interpreter) is None:
        ends = "; the line ends like a Windows one (CRLF)" if interpreter.endswith("\r") else ""
        raise SetupError("the interpreter %r of the #! line of %s is not on this worker%s" % (interpreter, path, ends))
    return [*found, _dotted(path), *args]


def _shebang(path: str) -> Optional[List[str]]:
    """[interpreter] or [interpreter, argument] as execve(2) reads them; None without a #! line."""
    with open(path, "rb") as file:
        first = file.readline(4096)
    if not first.startswith(b"#!"):
        return None
    words = os.fsdecode(first[2:].rstrip(b"\n").strip(b" \t")).split(None, 1)
    if first.rstrip(b"\n").endswith(b"\r") and words:
        words[-1] = words[-1] if words[-1].endswith("\r") else words[-1] + "\r"
    return [words[0], *(word.rstrip(" \t") for word in words[1:])] if words else None


def _python(wanted: str, place: Place) -> str:
    if place.python:  # the environment was made with the one that is wanted
        return place.python
    for name in [wanted] if wanted else ["python3", "python"]:
        found = place.find(name)
        if found:
            return found
    from airflow_jobdeploy.hostside import pythons  # seldom needed: not in every supervisor's memory

    path = place.env.get("PATH", os.defpath)
    for found in pythons.candidates(wanted, path):
        if os.path.basename(os.path.realpath(found)) == wanted or os.path.basename(found) == wanted:
            return found
    raise SetupError("%s. There: %s" % (_not_found(wanted or "python3 (or python)", place), pythons.seen(path)))


def _shell(place: Place) -> List[str]:
    found = "/bin/sh" if os.path.exists("/bin/sh") else place.find("sh")
    if found is None:
        raise SetupError(_not_found("sh", place))
    return [found]


def _not_found(program: str, place: Place) -> str:
    where = "in %s" % place.workdir if "/" in program else "on PATH %s" % place.env.get("PATH", os.defpath)
    return "%s was not found on this worker (looked %s): install it there, or set PATH or `python`" % (program, where)


def _nearest(full: str) -> str:
    folder = os.path.dirname(full)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return " (there is no directory %s)" % folder
    return "; there: %s" % ", ".join(names[:10]) if names else " (the directory is empty)"


def _dotted(path: str) -> str:
    # Neither an option to the interpreter nor a name to be looked up on PATH.
    return path if path.startswith("/") else "./" + path


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- writing below a directory, through nobody's links --------------------------------------------------------------


def parts_of(path: str) -> Tuple[str, ...]:
    """The components of a relative path. SetupError for absolute ones, `..`, empty ones and NUL."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or ".." in parts or not parts or "\0" in path:
        raise SetupError("%r leads out of the working directory" % path)
    return parts


def write_below(directory: str, path: str, content: str, mode: int) -> None:
    """Write a file below `directory`: folders 0700 where new, no link followed on the way, published by rename."""
    parts = parts_of(path)
    folder = _open_folder(directory, parts[:-1])
    beside = ".%s.new" % os.urandom(6).hex()
    try:
        if _is_link(parts[-1], folder):
            raise SetupError("%r below %s is a link, a file is to be written there: remove it" % (path, directory))
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_encoded(content))
                os.fchmod(file.fileno(), mode)
            os.rename(beside, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(beside, dir_fd=folder)
            raise
    except (IsADirectoryError, NotADirectoryError):
        raise SetupError("%s is a directory on the worker, a file is to be written there" % path) from None
    except PermissionError as error:
        raise SetupError("cannot write %s below %s: %s" % (path, directory, error.strerror)) from None
    finally:
        os.close(folder)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _open_folder(directory: str, parts: Tuple[str, ...]) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            inner = _step_into(fd, part)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                text = "%r below %s is a link or a file, a folder is needed: remove it" % (part, directory)
                raise SetupError(text) from None
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise SetupError("cannot write below %s: %s" % (directory, error.strerror)) from None
            raise
        finally:
            os.close(fd)
        fd = inner
    return fd


def _step_into(fd: int, part: str) -> int:
    try:
        os.mkdir(part, 0o700, dir_fd=fd)
    except FileExistsError:
        pass
    return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)


def make_workdir(path: str, make: bool) -> None:
    """The working directory is there and ours to enter, or SetupError. `make`: it is the job's own, made if missing."""
    if make:
        files.private_dir(path)
    if not os.path.isdir(path):
        what = "is not a directory" if os.path.exists(path) else "does not exist"
        raise SetupError("workdir %s %s on this worker: make it, or send a project with project_dir" % (path, what))
    if not os.access(path, os.X_OK | os.R_OK):
        raise SetupError("workdir %s cannot be entered by this user" % path)
