"""Images for tests, made of this machine's own programs: no registry is asked. Tars of a root's files.

`python_root`: this interpreter, with its standard library and the pip that ensurepip brings. `apt_root`: apt and dpkg
of Debian, with a repository of one small package in the image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

#: What an interpreter can do without, in these tests.
_NOT_NEEDED = {"test", "idlelib", "tkinter", "__pycache__", "site-packages", "turtledemo", "lib2to3", "config"}
_LIBRARY = re.compile(r"(/\S+) \(0x")


class Root:
    """The files of an image."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w")  # noqa: SIM115 - closed by `data`
        self._there: set[str] = set()

    def text(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        data = text.encode() if isinstance(text, str) else text
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size, entry.mode = len(data), mode
        self._tar.addfile(entry, io.BytesIO(data))

    def folder(self, path: str, mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def link(self, path: str, target: str) -> None:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def file(self, source: str | Path, path: str = "") -> None:
        """A file of this machine, links followed, with the libraries that it is linked to."""
        target = path or str(source)
        if target in self._there:
            return
        self._there.add(target)
        real = Path(source).resolve()
        self._tar.add(real, target.lstrip("/"), recursive=False)
        if os.access(real, os.X_OK) or ".so" in real.name:
            for library in _libraries(real):
                self.file(library)

    def tree(self, source: Path) -> None:
        """A folder of this machine, without what is not needed."""
        for entry in sorted(source.iterdir()):
            if entry.name in _NOT_NEEDED or entry.name.startswith("config-"):
                continue
            if entry.is_dir():
                self.tree(entry)
            else:
                self.file(entry)

    def pip(self) -> None:
        """The pip that ensurepip brings, where this interpreter looks for packages."""
        (wheel,) = (Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled").glob("pip-*.whl")
        place = f"{sysconfig.get_path('stdlib')}/site-packages"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                self.text(f"{place}/{name}", archive.read(name))

    def shell(self) -> None:
        """sh and what busybox has, and folders that programs expect."""
        program = Path(shutil.which("busybox") or "/bin/busybox")
        for name in ("bin", "sbin", "etc", "proc", "root", "usr/bin", "usr/sbin", "var/tmp"):
            self.folder(name)
        self.folder("tmp", 0o1777)
        self.file(program, "/bin/busybox")
        for name in subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name not in ("busybox", "tar", "dpkg", "dpkg-deb", "start-stop-daemon"):
                self.link(f"bin/{name}", "busybox")
        self.text("etc/passwd", "root:x:0:0::/root:/bin/sh\nml:x:1000:1000::/tmp:/bin/sh\n_apt:x:42:65534::/:/bin/sh\n")
        self.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")

    @property
    def data(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def _libraries(program: Path) -> Iterable[str]:
    found = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    return _LIBRARY.findall(found.stdout) if found.returncode == 0 else ()


@cache
def python_root() -> bytes:
    """An image with this interpreter as python3, below its own prefix."""
    root = Root()
    root.shell()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    real = Path(sys.base_prefix) / "bin" / version
    if not real.exists():
        real = Path(sys.executable).resolve()
    root.file(real, f"{sys.base_prefix}/bin/{version}")
    root.tree(Path(sysconfig.get_path("stdlib")))
    root.link("bin/python3", f"{sys.base_prefix}/bin/{version}")
    return root.data


def wheel(name: str, version: str, text: str) -> tuple[str, bytes]:
    """(file name, content) of a wheel with one module `name` that holds `text`."""
    out = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{name}.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"{name}-{version}-py3-none-any.whl", out.getvalue()


_APT = (
    *(f"/usr/bin/{name}" for name in ("apt-get", "apt-config", "dpkg", "dpkg-deb", "dpkg-split", "tar")),
    *(f"/usr/lib/apt/methods/{name}" for name in ("file", "copy", "store", "gpgv")),
    *("/sbin/ldconfig", "/sbin/start-stop-daemon", "/usr/share/dpkg/cputable", "/usr/share/dpkg/tupletable"),
)


@cache
def apt_root() -> bytes:
    """An image with apt-get, dpkg and a repository that has the package `hello-jobdeploy`."""
    root = Root()
    root.shell()
    for program in _APT:
        root.file(program)
    for name in ("info", "updates", "triggers", "parts", "alternatives"):
        root.folder(f"var/lib/dpkg/{name}")
    for name in ("status", "available", "diversions", "statoverride"):
        root.text(f"var/lib/dpkg/{name}", "")
    for name in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt", "etc/apt/apt.conf.d"):
        root.folder(name)
    root.folder("etc/apt/preferences.d")
    root.folder("etc/dpkg/dpkg.cfg.d")
    root.text("etc/apt/sources.list", "deb [trusted=yes] file:/repo ./\n")
    deb = _deb("hello-jobdeploy", {"/usr/bin/hello-jobdeploy": "#!/bin/sh\necho hello from a package\n"})
    index = (
        "Package: hello-jobdeploy\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
        f"Filename: ./hello.deb\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\nDescription: says hello\n"
    )
    root.folder("repo")
    root.text("repo/hello.deb", deb)
    root.text("repo/Packages", index)
    return root.data


def _deb(name: str, files: dict[str, str]) -> bytes:
    """A Debian package (deb(5)) of a few executables."""
    control = (
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: x\n"
    )
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar_gz({"./control": (control, 0o644)}),
        "data.tar.gz": _tar_gz({f".{path}": (text, 0o755) for path, text in files.items()}),
    }
    out = b"!<arch>\n"
    for member, data in members.items():
        out += f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def _tar_gz(files: dict[str, tuple[str, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(f"./{folder}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, (text, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), mode
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue(), mtime=0)
