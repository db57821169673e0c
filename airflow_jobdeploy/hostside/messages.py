"""What a job tells about itself in JOBDEPLOY_MESSAGES_FILE: one JSON object a line, appended.

{"type": "progress", "value": 0.4}             or "done" and "total"; "text" for people
{"type": "metric", "name": "loss", "value": 1} "step" and "time" go into metrics.csv
{"type": "asset", "uri": "s3://b/m"}           "extra": an object; becomes an Airflow asset event
{"type": "artifact", "path": "model.pt"}       an output worth naming; "text"
{"type": "checkpoint"}                         everything needed to go on from here lies in JOBDEPLOY_CHECKPOINT_DIR

`{"progress": 0.4}` means the same as the first: a mapping without "type" whose one key is a type holds its body. All
of it is data of a job, perhaps hostile: bounded, cleaned of control characters, and what is no message is counted only.
"""

from __future__ import annotations

import json
import math
import os
import stat
from typing import Any, Callable, Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import logs

#: A line longer than this is no message, in bytes.
_LINE = 64 * 1024
#: Of what has come since the last look so much is read; the rest at the end.
_LIVE = 128 * 1024
_CHUNK = 1024 * 1024
#: No more than this is read of one job, in bytes.
MOST = 128 * 1024 * 1024
#: How many of a kind are kept, and the longest texts, in characters; of all assets together, in bytes of JSON.
_METRICS, _ASSETS, _OUTPUTS = 50, 50, 20
_TEXT, _NAME, _URI, _EXTRAS = 200, 100, 1000, 8 * 1024
_TYPES = ("progress", "metric", "asset", "artifact", "checkpoint")
#: What a type's body is called where it is no object.
_BARE = {"progress": "value", "asset": "uri", "artifact": "path"}

OnMetric = Callable[[Any, Any, str, float], None]


class Digest:
    """What the messages of one job come to: the newest progress and metrics, all assets and outputs, within bounds."""

    def __init__(self, on_metric: Optional[OnMetric] = None) -> None:
        self.odd = 0
        self.checkpoints = 0
        self._progress: Optional[dict] = None
        self._metrics: Dict[str, List[Any]] = {}
        self._assets: Dict[str, dict] = {}
        self._outputs: Dict[str, str] = {}
        self._dropped = 0
        self._on_metric = on_metric
        self._rest = b""
        #: Inside a line whose beginning was too long, or not read.
        self._skips = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes; a line counts once it is whole."""
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            lines = (self._rest + whole).split(b"\n")
            self._rest = b""
            for line in lines[1:] if self._skips else lines:
                self._line(line)
            self._skips = False
        if not self._skips:
            self._rest += rest
            if len(self._rest) > _LINE:
                self._rest, self._skips = b"", True
                self.odd += 1

    def skip(self) -> None:
        """What comes next is not what follows."""
        self._rest, self._skips = b"", True

    def end(self) -> None:
        """Nothing more comes: a last line without its end is one, if it is whole."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            kind, body = _read(line)
            getattr(self, "_take_" + kind)(body)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            self.odd += 1

    def _take_checkpoint(self, _: dict) -> None:
        self.checkpoints += 1

    def _take_progress(self, body: dict) -> None:
        taken: Dict[str, Any] = {}
        if "done" in body:
            taken["done"], taken["total"] = _number(body["done"]), _number(body["total"])
            share = taken["done"] / taken["total"] if taken["total"] > 0 else 0.0
        else:
            share = _number(body["value"])
        taken["value"] = round(min(1.0, max(0.0, share)), 6)
        if body.get("text"):
            taken["text"] = _text(body["text"])
        self._progress = taken

    def _take_metric(self, body: dict) -> None:
        name, value = _text(body["name"], _NAME), body["value"]
        if not name or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(name)
        step, time = _mark(body.get("step")), _mark(body.get("time"))
        if self._on_metric is not None:
            self._on_metric(time, step, name, float(value))
        if name in self._metrics or len(self._metrics) < _METRICS:
            # JSON has no word for them, Python's reader of it has.
            shown = float(value) if math.isfinite(value) else str(float(value))
            self._metrics[name] = [shown, step]

    def _take_asset(self, body: dict) -> None:
        uri, extra = body["uri"], body.get("extra") or {}
        if not isinstance(uri, str) or not uri.strip() or len(uri) > _URI or _text(uri, _URI) != uri:
            raise ValueError(uri)
        if not isinstance(extra, dict):
            raise ValueError(extra)
        known = {**self._assets, uri: json.loads(json.dumps(extra, allow_nan=False))}
        if len(known) > _ASSETS or len(json.dumps(known)) > _EXTRAS:
            self._dropped += 1
        else:
            self._assets = known

    def _take_artifact(self, body: dict) -> None:
        path = _text(body["path"])
        if not path:
            raise ValueError(path)
        if path in self._outputs or len(self._outputs) < _OUTPUTS:
            self._outputs[path] = _text(body.get("text") or "")

    def summary(self) -> dict:
        """As it travels: only what there is. {} while there was no message."""
        found = {
            "progress": self._progress,
            "metrics": dict(self._metrics),
            "assets": [{"uri": uri, "extra": extra} for uri, extra in self._assets.items()],
            "assets_dropped": self._dropped,
            "outputs": [{"path": path, "text": text} for path, text in self._outputs.items()],
            "odd_lines": self.odd,
        }
        return {key: value for key, value in found.items() if value}


def _read(line: bytes) -> Tuple[str, dict]:
    if len(line) > _LINE:
        raise ValueError("too long")
    message = json.loads(line.decode())
    if not isinstance(message, dict):
        raise ValueError("no object")
    kind: Any = message.get("type")
    body: Any = message
    if "type" not in message and "checkpoint" in message:
        kind = "checkpoint"
    elif "type" not in message and len(message) == 1:
        ((kind, body),) = message.items()
        if not isinstance(body, dict):
            body = {_BARE[kind]: body} if kind in _BARE else {}
    if kind not in _TYPES:
        raise ValueError("no type")
    return kind, body


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _mark(value: Any) -> Any:
    """A step or a time: a number, or a short text; "" for neither."""
    if isinstance(value, str):
        return _text(value, 40)
    try:
        number = _number(value)
    except (ValueError, OverflowError):
        return ""
    return int(number) if number == int(number) else number


def _text(value: Any, limit: int = _TEXT) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    # Half a surrogate pair cannot be written anywhere.
    plain = value[: 4 * limit].encode("utf-8", "replace").decode()
    shown = logs.shown(" ".join(plain.split()))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


# -- while the job runs ---------------------------------------------------------------------------------------------


class Live:
    """The messages of a running job, looked at now and then: only what has come since."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self._digest = Digest()

    def summary(self) -> dict:
        """What they come to now; of a flood the newest part counts until the end."""
        try:
            size = os.lstat(self._path).st_size
        except OSError:
            return {}
        if size != self._offset:
            self._take(size)
        return self._digest.summary()

    def _take(self, size: int) -> None:
        if size < self._offset:  # begun anew
            self._offset, self._digest = 0, Digest()
        if size - self._offset > _LIVE:
            self._offset = size - _LIVE
            self._digest.skip()
        file = _open(self._path)
        if file is not None:
            with file:
                file.seek(self._offset)
                self._digest.feed(file.read(_LIVE))
                self._offset = file.tell()


class Checkpoints:
    """Checkpoint lines that come after this was made."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = os.path.getsize(path) if os.path.isfile(path) else 0
        self._digest = Digest()

    def came(self) -> bool:
        """Has one come?"""
        file = None if self._digest.checkpoints else _open(self._path)
        if file is not None:
            with file:
                file.seek(self._offset)
                data = file.read(_CHUNK)
                self._digest.feed(data)
                self._offset += len(data)
        return self._digest.checkpoints > 0


def _open(path: str) -> Optional[Any]:
    """The file, if it is a regular one: a job may put a FIFO, a link or a directory there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return os.fdopen(fd, "rb")


# -- at its end -----------------------------------------------------------------------------------------------------


def close(path: str, output: str, beside: str) -> Tuple[dict, str]:
    """(what all messages come to, why there is no metrics.csv) when the job has ended.

    Metrics are written to `output`/metrics.csv, by way of `beside`, unless the job wrote a file of that name.
    """
    file = _open(path)
    if file is None:
        return {}, ""
    table = _Table(beside)
    digest = Digest(table.add)
    with file:
        left = MOST
        while left > 0:
            data = file.read(min(_CHUNK, left))
            if not data:
                break
            digest.feed(data)
            left -= len(data)
    digest.end()
    return digest.summary(), table.publish(output)


class _Table:
    """metrics.csv: nothing of it is seen before it is whole."""

    NAME = "metrics.csv"

    def __init__(self, beside: str) -> None:
        self._beside = beside
        self._file: Optional[Any] = None
        self._writer: Any = None
        self._trouble = ""

    def add(self, time: Any, step: Any, name: str, value: float) -> None:
        if self._trouble:
            return
        try:
            if self._file is None:
                self._begin()
            self._writer.writerow([time, step, name, repr(value)])
        except OSError as error:
            self._fail(error)

    def _begin(self) -> None:
        import csv

        self._file = open(self._beside, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed by publish
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(["time", "step", "name", "value"])

    def publish(self, output: str) -> str:
        """Give it its name; why it has none, or ""."""
        target = os.path.join(output, self.NAME)
        try:
            if self._file is None:
                return self._trouble
            self._file.close()
            if os.path.islink(output) or os.path.lexists(target):
                os.unlink(self._beside)
            else:
                os.rename(self._beside, target)
        except OSError as error:
            self._fail(error)
        return self._trouble

    def _fail(self, error: OSError) -> None:
        self._trouble = "the metrics could not be written to %s: %s" % (self.NAME, error.strerror)
        try:
            if self._file is not None:
                self._file.close()
        except OSError:  # what is in its buffer finds no room, either
            pass
        self._file = None
        try:
            os.unlink(self._beside)
        except OSError:  # never made
            pass
