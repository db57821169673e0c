"""Output files sent straight to an object store, by URLs that were signed for one object each.

A process of its own, started for one request: orders on stdin as one line of JSON, news on stdout as lines of JSON.
It ends when stdin ends: nobody waits for it any more. The URLs are secrets: they are written nowhere, and no message
holds one. Nothing else is known here of the store or its credentials.

    order   [{"path", "size", "sha256", "url"}]
    news    {"sent": bytes so far}                                   about one a second
            {"path", "tag", "sent"}                                  the object is there; `tag`: what the store calls it
            {"path", "error": code, "message": sentence, "sent"}     unreachable, refused, changed

A file's last piece is sent when its sha256 is known to be right: what is wrong never becomes an object.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import queue
import random
import re
import ssl
import sys
import threading
import time
from typing import IO, Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from airflow_jobdeploy.hostside import pack

CONNECT_S = 10.0
#: How long the store may be silent.
STALL_S = 60.0
#: Files at once.
_LANES = 4
_CHUNK = 1024 * 1024
_TRIES = 3
_SIGN_OF_LIFE_S = 1.0
_MD5 = re.compile("[0-9a-f]{32}")

Open = Callable[[str], IO[bytes]]


class Failed(Exception):
    """This file was not sent; `code` as above."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Again(Failed):
    """It may go better the next time."""


def main(output: str) -> int:
    """The files below `output` as the orders on stdin have it; the exit status."""
    orders = json.loads(sys.stdin.buffer.readline().decode())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    lock = threading.Lock()

    def say(news: Dict[str, Any]) -> None:
        data = json.dumps(news).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(1, data) :]

    top = pack.top(output)
    try:
        send_all(orders, lambda path: pack.opened(top, path), say)
    except BrokenPipeError:
        return 1
    return 0


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def send_all(orders: List[dict], open_file: Open, say: Callable[[Dict[str, Any]], None]) -> None:
    """Send each file, several at once, and say how it went."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    news: queue.SimpleQueue = queue.SimpleQueue()
    for order in orders:
        waiting.put(order)
    sent = [0] * _LANES
    lanes = [_Lane(number, waiting, news, open_file, sent) for number in range(min(_LANES, len(orders)))]
    for lane in lanes:
        threading.Thread(target=lane.run, daemon=True).start()
    left = len(orders)
    while left:
        try:
            told = news.get(timeout=_SIGN_OF_LIFE_S)
            left -= 1
        except queue.Empty:
            told = {}
        say({**told, "sent": sum(sent)})


class _Lane:
    """Sends one file after the other over one connection."""

    def __init__(self, number: int, waiting: Any, news: Any, open_file: Open, sent: List[int]) -> None:
        self._number, self._waiting, self._news, self._open, self._sent = number, waiting, news, open_file, sent
        self._connection: Optional[http.client.HTTPConnection] = None
        self._place: Tuple[str, str] = ("", "")

    def run(self) -> None:
        while True:
            try:
                order = self._waiting.get_nowait()
            except queue.Empty:
                self._close()
                return
            try:
                self._news.put({"path": order["path"], "tag": self._send(order)})
            except Failed as error:
                self._news.put({"path": order["path"], "error": error.code, "message": str(error)})
            except Exception as error:  # noqa: BLE001 - one line of a stranger's library must not stop the others
                self._news.put({"path": order["path"], "error": "refused", "message": type(error).__name__})

    def _send(self, order: dict) -> str:
        for number in range(1, _TRIES + 1):
            before = self._sent[self._number]
            try:
                return self._try(order)
            except Failed as error:
                self._close()
                self._sent[self._number] = before
                if not isinstance(error, Again) or number == _TRIES:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * number)
        raise AssertionError("not reached")

    def _try(self, order: dict) -> str:
        try:
            file = self._open(order["path"])
        except OSError as error:
            raise Failed("changed", error.strerror or str(error)) from None
        with file:
            return self._put(order, file)

    def _put(self, order: dict, file: IO[bytes]) -> str:
        parts = urlsplit(order["url"])
        checked = _Checked(file, order)
        piece = checked.read()
        answer = None
        connection = self._connected(parts.scheme, parts.netloc)
        try:
            connection.putrequest("PUT", parts.path + ("?" + parts.query if parts.query else ""))
            connection.putheader("Content-Length", str(order["size"]))
            connection.endheaders()
            while piece:
                connection.send(piece)
                self._sent[self._number] += len(piece)
                piece = checked.read()
        except (OSError, http.client.HTTPException) as error:
            answer = self._last_words(connection)
            if answer is None:
                raise Again("unreachable", _why(parts, error)) from None
        return _judged(answer or self._answer(connection, parts), checked)

    def _connected(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        if self._connection is not None and self._place == (scheme, netloc):
            return self._connection
        self._close()
        host = netloc.rpartition("@")[2]
        if scheme == "https":
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, timeout=CONNECT_S, context=ssl.create_default_context()
            )
        else:
            made = http.client.HTTPConnection(host, timeout=CONNECT_S)
        try:
            made.connect()
            made.sock.settimeout(STALL_S)
        except OSError as error:
            made.close()
            raise Failed("unreachable", _why(urlsplit("//" + host), error)) from None
        self._connection, self._place = made, (scheme, netloc)
        return made

    def _answer(self, connection: http.client.HTTPConnection, parts: Any) -> Tuple[int, Any, bytes]:
        try:
            response = connection.getresponse()
            return response.status, response.headers, response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Again("unreachable", _why(parts, error)) from None

    def _last_words(self, connection: http.client.HTTPConnection) -> Optional[Tuple[int, Any, bytes]]:
        """What a store said that did not listen to the end."""
        try:
            response = connection.getresponse()
            return response.status, response.headers, response.read(_CHUNK)
        except (OSError, http.client.HTTPException):
            return None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class _Checked:
    """The pieces of a file; the last one only of a file that is the right one. Failed otherwise."""

    def __init__(self, file: IO[bytes], order: dict) -> None:
        self._file, self._order, self._left = file, order, int(order["size"])
        self._sha256 = hashlib.sha256()
        try:
            self._md5: Any = hashlib.md5()
        except ValueError:  # where only what FIPS 140 allows is there
            self._md5 = None
        if not self._left:
            self._check()

    def read(self) -> bytes:
        if not self._left:
            return b""
        data = self._file.read(min(_CHUNK, self._left))
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        self._left -= len(data)
        if not data or not self._left:
            self._check()
        return data

    def _check(self) -> None:
        if self._left or self._file.read(1) or self._sha256.hexdigest() != self._order["sha256"]:
            raise Failed("changed", "it is not what the manifest says: it was changed after the job's end, or damaged")

    @property
    def md5(self) -> str:
        return self._md5.hexdigest() if self._md5 is not None else ""


def _judged(answer: Tuple[int, Any, bytes], checked: _Checked) -> str:
    """The object's tag. Failed when it was not taken, or is another one than was sent."""
    status, headers, body = answer
    if status not in (200, 201, 204):
        kind = Again if status >= 500 or status in (408, 429) else Failed
        raise kind("refused", "the store answered %d%s" % (status, _code(body)))
    tag = (headers.get("ETag") or "").strip('"')
    # Amazon S3 API reference, PutObject: the tag is the MD5 unless the object is encrypted by KMS or a customer's key.
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    plain = plain and not headers.get("x-amz-server-side-encryption-customer-algorithm")
    if plain and checked.md5 and _MD5.fullmatch(tag) and tag != checked.md5:
        raise Again("refused", "the store has other bytes than were sent (ETag %s, MD5 %s)" % (tag, checked.md5))
    return tag


def _code(body: bytes) -> str:
    """ " (AccessDenied)" of an error in XML; the rest of it may repeat the request."""
    found = re.search(rb"<Code>([A-Za-z0-9]{1,60})</Code>", body)
    return " (%s)" % found.group(1).decode() if found else ""


def _why(parts: Any, error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "%s: %s" % (parts.hostname, said)
