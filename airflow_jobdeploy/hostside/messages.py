"""What a job tells about itself in JOBDEPLOY_MESSAGES_FILE: JSON lines. The runner reads one kind: checkpoints.

{"type": "checkpoint", ...}   everything needed to go on from here lies in JOBDEPLOY_CHECKPOINT_DIR
"""

from __future__ import annotations

import json
import os


class Checkpoints:
    """Checkpoint lines that come after this was made."""

    #: A line longer than this is no message.
    _MOST = 1024 * 1024

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = os.path.getsize(path) if os.path.isfile(path) else 0
        self._came = False

    def came(self) -> bool:
        """Has one come?"""
        if self._came or not os.path.isfile(self._path):
            return self._came
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read(self._MOST)
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole) or (len(data) if len(data) == self._MOST else 0)
        self._came = any(_is_checkpoint(line) for line in whole.splitlines())
        return self._came


def _is_checkpoint(line: bytes) -> bool:
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and (message.get("type") == "checkpoint" or "checkpoint" in message)
