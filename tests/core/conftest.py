"""Golden texts: what people read is compared with a file. REWRITE_GOLDEN=1 writes the files anew; look at the diff."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """`golden(name, text)`: the text is that of `golden/<name>.txt`."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("REWRITE_GOLDEN") == "1":
            path.write_text(text + "\n")
        assert text + "\n" == path.read_text(), f"differs from {path.name}; REWRITE_GOLDEN=1 writes it anew"

    return compare


@pytest.fixture
def data() -> Path:
    """The seed's own files."""
    return Path(__file__).parent / "data"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`write(name=text)`: files `name.yaml` in an empty current directory, so that paths in texts are short."""
    monkeypatch.chdir(tmp_path)

    def write_files(**files: str) -> None:
        for name, text in files.items():
            Path(f"{name}.yaml").write_text(text)

    return write_files
