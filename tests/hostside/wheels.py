"""Tiny wheels, and PATHs with and without uv: all that environments need, and no network."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

UV = Path(sys.executable).parent / "uv"
#: A PATH without uv: pip has to do.
PLAIN = "/usr/bin:/bin"


def wheel(folder: Path, name: str, version: str = "1.0", needs: Sequence[str] = (), *, text: str = "") -> str:
    """A pure wheel of one module, which knows its version; the requirement that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n{text}",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:main\n",
    }
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, data)
    return f"{name}=={version}"


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def path_with_uv(folder: Path) -> str:
    """A PATH whose only addition is uv."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "uv").exists():
        (folder / "uv").symlink_to(UV)
    return f"{folder}{os.pathsep}{PLAIN}"
