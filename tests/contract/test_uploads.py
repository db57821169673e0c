"""Output files that their worker sends to a URL."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend, Upload, UploadNews
from tests.contract.labs import Lab
from tests.contract.steps import launch, outcome

FILES = {"model.json": "{}", "deep/er/x.txt": "y" * 3_000_000, "empty": ""}


class Taker(http.server.ThreadingHTTPServer):
    """Takes what is put, as an object store does: whole, or not at all."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Taker

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        data = self.rfile.read(size)
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
            return
        if len(data) == size:
            self.server.objects[self.path] = data
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture
def taker() -> Iterator[Taker]:
    with Taker() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def produced(lab: Lab) -> tuple[Backend, str]:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.output(FILES, code=1)))
    outcome(backend, job_id)
    return backend, job_id


def order(path: str, taker: Taker, **other: Any) -> Upload:
    data = FILES.get(path, "").encode()
    facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **other}
    return Upload(path=path, url=f"{taker.url}/bucket/{path}?Signature=secret", **facts)


def told(news: list[UploadNews]) -> dict[str, str]:
    return {item.path: item.error for item in news if item.path}


def test_files_are_put_and_their_tags_told(produced: tuple[Backend, str], taker: Taker) -> None:
    backend, job_id = produced
    news = list(backend.upload(job_id, [order(path, taker) for path in FILES]))
    assert taker.objects == {f"/bucket/{path}?Signature=secret": text.encode() for path, text in FILES.items()}
    assert {item.path: item.tag for item in news if item.path} == {
        path: hashlib.md5(text.encode()).hexdigest() for path, text in FILES.items()
    }
    assert news[-1].sent == 3_000_002
    assert "secret" not in repr(order("empty", taker))
    given_up = backend.upload(job_id, [order(path, taker) for path in FILES])
    next(given_up)
    given_up.close()  # type: ignore[attr-defined]
    assert told(list(backend.upload(job_id, [order("model.json", taker)]))) == {"model.json": ""}


def test_what_is_not_as_expected_is_no_object(produced: tuple[Backend, str], taker: Taker) -> None:
    backend, job_id = produced
    wrong = [
        order("deep/er/x.txt", taker, sha256="0" * 64),
        order("model.json", taker, size=3),
        order("empty", taker, size=1),
        order("../plan.json", taker),
        order("gone", taker),
    ]
    news = list(backend.upload(job_id, wrong))
    assert told(news) == dict.fromkeys(["deep/er/x.txt", "model.json", "empty", "../plan.json", "gone"], "changed")
    assert taker.objects == {}


def test_a_store_that_is_busy_or_cannot_be_reached(produced: tuple[Backend, str], taker: Taker) -> None:
    backend, job_id = produced
    taker.failures = 2
    assert told(list(backend.upload(job_id, [order("deep/er/x.txt", taker)]))) == {"deep/er/x.txt": ""}
    taker.failures = 9
    (news,) = [item for item in backend.upload(job_id, [order("model.json", taker)]) if item.path]
    assert (news.error, news.message) == ("refused", "the store answered 503")
    nowhere = Upload(path="empty", size=0, sha256=hashlib.sha256(b"").hexdigest(), url="http://127.0.0.1:9/x?secret")
    (news,) = [item for item in backend.upload(job_id, [nowhere]) if item.path]
    assert (news.error, news.message) == ("unreachable", "127.0.0.1: Connection refused")
