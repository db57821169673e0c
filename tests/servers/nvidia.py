"""An engine's NVIDIA container toolkit that is not there: what dockerd calls before a container with GPUs starts.

dockerd gives out GPUs when it finds a program of this name on its PATH, tells it by the container's environment which
ones, and lets it put the driver's files into the container. This one puts a `FakeGpus` of those there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.servers.dockerd import Dockerd, started
from tests.servers.gpus import FakeGpus

_HOOK = f"""#!{sys.executable} -IS
import json, os, shutil, sys

here = os.path.dirname(os.path.abspath(__file__))
state = json.load(sys.stdin)
with open(os.path.join(state["bundle"], "config.json")) as file:
    config = json.load(file)
environment = dict(entry.partition("=")[::2] for entry in config["process"]["env"])
with open(os.path.join(here, "gpus")) as file:
    rows = dict((row.split(", ")[0], row) for row in file)
names = dict((row.split(", ")[1], index) for index, row in rows.items())
asked = environment.get("NVIDIA_VISIBLE_DEVICES", "")
wanted = list(rows) if asked == "all" else [names.get(name, name) for name in asked.split(",")]
for name in wanted:
    if name not in rows:
        sys.exit("nvidia-container-cli: device error: %s: unknown device" % name)
folder = os.path.join(state["bundle"], config["root"]["path"], "usr", "bin")
os.makedirs(folder, exist_ok=True)
for name in ("nvidia-smi", "apps", "hang", "fail"):
    if os.path.exists(os.path.join(here, name)):
        shutil.copy(os.path.join(here, name), folder)
with open(os.path.join(folder, "gpus"), "w") as file:
    file.write("".join(rows[name] for name in wanted))
with open(os.path.join(here, "given"), "a") as file:
    file.write("%s %s\\n" % (state["id"], ",".join(wanted)))
"""


class EngineGpus(FakeGpus):
    """GPUs of engines that have `folder` on their PATH."""

    def __post_init__(self) -> None:
        super().__post_init__()
        hook = self.folder / "nvidia-container-runtime-hook"
        hook.write_text(_HOOK)
        hook.chmod(0o755)

    @property
    def given(self) -> list[tuple[str, tuple[str, ...]]]:
        """(container's id, indices) of all containers that got some."""
        path = self.folder / "given"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], tuple(line.split()[1].split(","))) for line in lines]


@contextlib.contextmanager
def equipped(folder: Path, count: int = 2, *options: str) -> Iterator[tuple[Dockerd, EngineGpus]]:
    """An engine with so many GPUs. `folder`: where they are kept; `options`: more arguments of dockerd."""
    gpus = EngineGpus(folder, count=count)
    with started(*options, path=str(folder)) as engine:
        yield engine, gpus
