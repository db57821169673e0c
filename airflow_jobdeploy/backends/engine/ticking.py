"""A long answer of an engine, and the right to look up meanwhile: steps of a build may say nothing for an hour."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.errors import WorkerError

#: Between two looks while nothing comes, in seconds; how long a reader may take to notice that it is not wanted.
EVERY_S, _LAST_S, _GONE_S = 0.5, 0.1, 5.0
_HELD = 64

#: A piece; the end, or what it failed with.
_Item = bytes | WorkerError | None


@contextlib.contextmanager
def ticking(engine: Engine, pieces: Iterator[bytes], tick: Callable[[], None]) -> Iterator[Iterator[bytes]]:
    """The same pieces, read by a thread of its own: `tick` is called now and then while none comes, and may raise.

    What `engine` answers is interrupted when the block ends before the answer does. It may be asked other things
    meanwhile.
    """
    found: queue.Queue[_Item] = queue.Queue(_HELD)
    over = threading.Event()
    reader = threading.Thread(target=_read, args=(pieces, found, over), name="jobdeploy-answer", daemon=True)
    reader.start()
    try:
        yield _told(found, tick)
    finally:
        over.set()
        reader.join(_LAST_S)  # the answer may be at its end
        if reader.is_alive():
            engine.interrupt()
        reader.join(_GONE_S)
        if reader.is_alive():  # its stream knows no interrupt: with the connection it ends
            engine.drop()


def _read(pieces: Iterator[bytes], found: queue.Queue[_Item], over: threading.Event) -> None:
    end: WorkerError | None = None
    try:
        for piece in pieces:
            _put(found, piece, over)
            if over.is_set():
                break
    except WorkerError as error:  # whoever waits for the pieces is to have it
        end = error
    finally:
        _put(found, end, over)


def _put(found: queue.Queue[_Item], item: _Item, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(queue.Full):
            found.put(item, timeout=EVERY_S)
            return


def _told(found: queue.Queue[_Item], tick: Callable[[], None]) -> Iterator[bytes]:
    while True:
        try:
            item = found.get(timeout=EVERY_S)
        except queue.Empty:
            tick()
            continue
        if isinstance(item, WorkerError):
            raise item
        if item is None:
            return
        yield item
