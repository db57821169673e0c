"""How packages get into an environment: with uv where the job's PATH has it, else with venv and pip.

Both are given the same files, and both shall mean the same by them: what uv reads differently is told to it. No line
of a user ever stands in a command: they are in the files.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import evidence, kernel, logs, pythons
from airflow_jobdeploy.hostside.layout import EnvPaths
from airflow_jobdeploy.hostside.pythons import Unmade

#: What of the job's environment would make an installer look or write elsewhere.
_UNSET = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "UV_TARGET",
)
#: Options of requirements files that uv takes on its command line only; None: it has no need of it.
_ARGUMENTS = {
    "--pre": ("--prerelease", "allow"),
    "--require-hashes": ("--require-hashes",),
    "--trusted-host": ("--allow-insecure-host",),
    "--prefer-binary": (),
}
#: Where pip and uv are told of the same, pip's list being split by blanks, uv's joined by these.
_SETTINGS = (
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("cert", "SSL_CERT_FILE", " "),
)
_FULL = re.compile(r"No space left on device|os error 28|Disk quota exceeded|os error 122")
#: So much of the output is looked through for the installer's last words, in bytes.
_TAIL = 64 * 1024
_WORDS = 1500
_NOISE = re.compile(r"To fix this you could|^\d\. (loosen|remove)|^\[notice\]|^WARNING: ")


class Installer:
    """The part that uv and pip share."""

    title = ""

    def __init__(self, paths: EnvPaths, python: str, lock: int) -> None:
        self.paths = paths
        #: The interpreter that the environment is made of, and the environment's own.
        self.python = python
        self.inner = os.path.join(paths.venv, "bin", "python")
        self._lock = lock
        self.env = {key: value for key, value in os.environ.items() if key not in _UNSET}
        self.env.update(PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1", NO_COLOR="1")

    def commands(self) -> List[List[str]]:
        """What makes the environment, in order."""
        raise NotImplementedError

    def freezer(self) -> List[str]:
        """What lists the packages."""
        raise NotImplementedError

    def _files(self) -> List[str]:
        pins = ["-c", self.paths.constraints] if os.path.getsize(self.paths.constraints) else []
        return ["-r", self.paths.requirements, *pins]

    def run(self, log: str) -> None:
        """Make the environment. Unmade with the installer's own last words. Its output goes where ours goes: `log`."""
        for command in self.commands():
            begun = os.path.getsize(log)
            try:
                code = self._popen(command, None).wait()
            except OSError as error:
                raise Unmade("cannot run %s: %s" % (command[0], error.strerror)) from None
            if code:
                raise self._complaint(code, _tail(log, begun))

    def _popen(self, command: List[str], output: Optional[int]) -> subprocess.Popen[bytes]:
        # It holds the lock as we do, and ends when we do: the next builder finds nobody at work.
        return subprocess.Popen(
            command,
            env=self.env,
            cwd=self.paths.dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            pass_fds=(self._lock,),
            preexec_fn=kernel.die_with_parent,
        )

    def _complaint(self, code: int, tail: str) -> Unmade:
        disk = evidence.full_disk([self.paths.dir, self.env.get("TMPDIR", "/tmp")])
        if not disk and _FULL.search(tail):
            disk = {"disk_path": self.paths.dir}
        how = "killed by signal %d" % -code if code < 0 else "exit code %d" % code
        words = last_words(tail) or "it said nothing"
        return Unmade("the environment could not be made (%s, %s): %s" % (self.title, how, words), disk)

    def freeze(self) -> List[str]:
        """The packages that are in it, as `pip freeze` has them."""
        with self._popen(self.freezer(), subprocess.PIPE) as child:
            output = child.communicate()[0].decode("utf-8", "replace")
        return [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("#")]


class Pip(Installer):
    """`python -m venv`, and the pip of the interpreter; where that has none of its own, the one that venv brings."""

    def __init__(self, paths: EnvPaths, python: str, lock: int) -> None:
        super().__init__(paths, python, lock)
        self.title = "venv and pip"
        self._has_pip = self._says("-m", "pip", "--python", self.python, "--version")  # since pip 22.3
        if not self._says("-c", "import venv" if self._has_pip else "import ensurepip, venv"):
            raise Unmade(
                "%s cannot make environments: it lacks ensurepip. Do one of these on the worker, once: put uv on the "
                "PATH of jobs, or install what has it (Debian, Ubuntu: apt-get install python3-venv); or choose "
                "another Python with `python`. There: %s"
                % (self.python, pythons.seen(self.env.get("PATH", os.defpath)))
            )

    def _says(self, *words: str) -> bool:
        command, null = [self.python, *words], subprocess.DEVNULL
        return not subprocess.run(command, env=self.env, stdin=null, stdout=null, stderr=null, cwd="/").returncode

    def commands(self) -> List[List[str]]:
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        bare = ["--without-pip"] if self._has_pip else []
        return [
            [self.python, "-m", "venv", *bare, self.paths.venv],
            [*self._pip(), "install", *options, *self._files()],
        ]

    def freezer(self) -> List[str]:
        return [*self._pip(), "freeze"]

    def _pip(self) -> List[str]:
        return [self.python, "-m", "pip", "--python", self.inner] if self._has_pip else [self.inner, "-m", "pip"]


class Uv(Installer):
    """uv, told to mean by the files what pip means."""

    def __init__(self, paths: EnvPaths, python: str, lock: int, uv: str) -> None:
        super().__init__(paths, python, lock)
        self.title = "uv"
        self._uv = uv
        self._options, kept = _arguments(_lines(paths.requirements))
        with open(paths.requirements, "w", encoding="utf-8") as file:
            file.writelines(kept)
        self.env.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1")
        # pip takes the best of all indexes; uv would take the first that has the package at all.
        self.env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
        self.env.update({key: value for key, value in _settings(self.env).items() if key not in self.env})
        if self.env.get("PIP_NO_INDEX", "0").lower() in ("1", "true", "yes", "on"):
            self._options.append("--no-index")

    def commands(self) -> List[List[str]]:
        return [
            [self._uv, "venv", "--quiet", "--python", self.python, self.paths.venv],
            [self._uv, "pip", "install", "--python", self.inner, "--compile-bytecode", *self._options, *self._files()],
        ]

    def freezer(self) -> List[str]:
        return [self._uv, "--quiet", "pip", "freeze", "--python", self.inner]


def installer(paths: EnvPaths, python: str, path: str, lock: int) -> Installer:
    """The best that the PATH `path` offers. Unmade when nothing can make environments with that Python."""
    for folder in path.split(os.pathsep):
        uv = os.path.join(folder, "uv")
        if folder and os.access(uv, os.X_OK) and not os.path.isdir(uv) and _answers(uv):
            return Uv(paths, python, lock, uv)
    return Pip(paths, python, lock)


def _answers(uv: str) -> bool:
    """A shim without its program is no uv."""
    command, null = [uv, "--version"], subprocess.DEVNULL
    try:
        return subprocess.run(command, stdin=null, stdout=null, stderr=null, cwd="/", timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _lines(path: str) -> List[str]:
    with open(path, encoding="utf-8") as file:
        return file.readlines()


def _arguments(lines: List[str]) -> Tuple[List[str], List[str]]:
    """(arguments, lines that stay): options that uv knows on its command line only."""
    arguments: List[str] = []
    kept = []
    for line in lines:
        name, _, value = line.strip().partition(" ")
        if name in _ARGUMENTS:
            arguments += [*_ARGUMENTS[name], *([value] if value else [])]
        else:
            kept.append(line)
    return arguments, kept


def _settings(env: Dict[str, str]) -> Dict[str, str]:
    """Where pip would look on this host, in uv's words: of its variables, else of its files."""
    found = {}
    filed = _pip_files(env)
    for name, ours, joint in _SETTINGS:
        value = env.get("PIP_" + name.replace("-", "_").upper()) or filed.get(name, "")
        if value.split():
            found[ours] = joint.join(value.split())
    if "UV_INDEX_URL" in env:  # uv's older word for it
        found.pop("UV_DEFAULT_INDEX", None)
    return found


def _pip_files(env: Dict[str, str]) -> Dict[str, str]:
    """Options of pip's own files, the later over the earlier (https://pip.pypa.io/en/stable/topics/configuration/)."""
    import configparser

    home = env.get("HOME", os.path.expanduser("~"))
    parser = configparser.RawConfigParser(strict=False)
    config = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    named = env.get("PIP_CONFIG_FILE")
    places = [] if named == os.devnull else [
        "/etc/pip.conf", os.path.join(home, ".pip", "pip.conf"), os.path.join(config, "pip", "pip.conf"), named or "",
    ]  # fmt: skip
    for place in filter(None, places):
        try:
            parser.read(place, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself would say so
    sections = [name for name in ("global", "install") if parser.has_section(name)]
    return {key: value for section in sections for key, value in parser.items(section)}


def _tail(log: str, begun: int) -> str:
    with open(log, "rb") as file:
        file.seek(max(begun, os.path.getsize(log) - _TAIL))
        return file.read(_TAIL).lstrip(b"\0").decode("utf-8", "replace")


def last_words(output: str) -> str:
    """What an installer's output says of its failure: from its first line of an error on, without advice."""
    lines = [logs.shown(line) for line in output.split("\n")]
    begins = [number for number, line in enumerate(lines) if re.match(r"\s*(×|error:|ERROR:|Error:)", line)]
    kept = [line for line in lines[begins[0] if begins else -logs.LAST_LINES - 1 :] if line.strip()]
    text = "\n".join(line for line in kept if not _NOISE.search(line.strip()))
    return text if len(text) <= _WORDS else text[: _WORDS // 2] + "\n...\n" + text[-_WORDS // 2 :]
