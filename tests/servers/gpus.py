"""GPUs that are not there: an nvidia-smi that prints what a test wrote down, fails or hangs."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

#: The directory is that of the program: a host that has mounted it elsewhere finds its files all the same.
_PROGRAM = """#!/bin/sh
here=${0%/*}
echo x >> "$here/asked" 2>/dev/null
[ -e "$here/hang" ] && exec sleep 100000
[ -s "$here/fail" ] && { cat "$here/fail"; exit 9; }
case "$1 $2" in
  "--query-gpu=index,uuid,memory.total,driver_version,mig.mode.current,name --format=csv,noheader,nounits")
    [ -s "$here/gpus" ] || { echo "No devices were found"; exit 6; }
    cat "$here/gpus" ;;
  "--query-compute-apps=gpu_uuid,pid,used_memory,name --format=csv,noheader,nounits")
    cat "$here/apps" 2>/dev/null ;;
  *) echo "unknown option: $*"; exit 2 ;;
esac
"""


@dataclass
class FakeGpus:
    """`folder` is for the PATH of a worker's jobs."""

    folder: Path
    count: int = 2
    model: str = "NVIDIA H200"
    memory_mib: int = 143771
    mig: str = "Disabled"
    uuids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.uuids = self.uuids or [f"GPU-{uuid.uuid4()}" for _ in range(self.count)]
        rows = [f"{n}, {u}, {self.memory_mib}, 570.00, {self.mig}, {self.model}" for n, u in enumerate(self.uuids)]
        self.say_gpus("".join(row + "\n" for row in rows))
        self.use()
        program = self.folder / "nvidia-smi"
        program.write_text(_PROGRAM)
        for path in (self.folder, program):
            path.chmod(0o755)

    def say_gpus(self, text: str) -> None:
        """What it prints of the GPUs, as it is."""
        self._write("gpus", text)

    def say_apps(self, text: str) -> None:
        """What it prints of the processes, as it is."""
        self._write("apps", text)

    def use(self, *processes: tuple[int, int], memory: object = 1000) -> None:
        """These (index of the GPU, pid) compute on them, and no others."""
        self.say_apps("".join(f"{self.uuids[index]}, {pid}, {memory}, python\n" for index, pid in processes))

    def fail(self, text: str) -> None:
        """From now on it only complains; "": it is well again."""
        self._write("fail", text)

    def hang(self) -> None:
        (self.folder / "hang").touch()

    def recover(self) -> None:
        (self.folder / "hang").unlink(missing_ok=True)

    @property
    def times_asked(self) -> int:
        path = self.folder / "asked"
        return len(path.read_text().split()) if path.exists() else 0

    def _write(self, name: str, text: str) -> None:
        beside = self.folder / f"{name}.new"
        beside.write_text(text)
        beside.chmod(0o644)
        beside.replace(self.folder / name)
