"""Submitting in a crowd: a stock sshd drops connections at random once ten wait for their authentication."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import sshd

ROOT = Path(__file__).resolve().parents[2]


def crowd(count: int, folder: Path) -> None:
    with sshd.running(folder) as host:  # MaxStartups 10:30:100, as OpenSSH has it
        root = folder / "root"
        place = [str(host.port), host.user, str(host.key_file), str(host.known_hosts), str(root)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.service.crowd", str(count), *place],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        log = (host.dir / "log").read_text()
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout)
    assert json.loads(done.stdout)["failures"] == 0
    assert "MaxStartups" not in log, "sshd dropped connections, which were made again"
    exits = [json.loads(path.read_text()) for path in root.glob("hosts/*/jobs/*/exit.json")]
    assert len(exits) == count, "one job each"


@pytest.mark.sshd
def test_sixty_at_once(tmp_path: Path) -> None:
    crowd(60, tmp_path)


@pytest.mark.sshd
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_at_once(tmp_path: Path) -> None:
    crowd(500, tmp_path)
