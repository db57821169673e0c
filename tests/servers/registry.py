"""A registry of images for one engine of the tests, on the loopback of the engine's own network namespace.

It speaks what engines ask when they pull (Distribution, HTTP API V2), with a login, and as slowly as is wanted. As a
program: `registry.py LAYER [--user U --password P] [--rate BYTES]`, prints its port, serves LAYER (a tar) as an image
of any name with the tag 1.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

USER, PASSWORD = "puller", "pull it"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_PIECE = 64 * 1024


@dataclass(frozen=True)
class Registry:
    """Where it listens, as images' names begin; what to pull by digest."""

    host: str
    digest: str


@contextlib.contextmanager
def serving(engine_pid: int, layer: Path, *, rate: int = 0, private: bool = False) -> Iterator[Registry]:
    """A registry that the engine of this pid can reach as 127.0.0.1, which engines trust without TLS."""
    inside = [shutil.which("nsenter") or "/usr/bin/nsenter", "--target", str(engine_pid), "--net"]
    subprocess.run([*inside, shutil.which("ip") or "/usr/sbin/ip", "link", "set", "lo", "up"], check=True)
    login = ["--user", USER, "--password", PASSWORD] if private else []
    command = [*inside, sys.executable, __file__, str(layer), *login]
    with subprocess.Popen([*command, "--rate", str(rate)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port, digest = server.stdout.readline().split()
            yield Registry(f"127.0.0.1:{port}", digest)
        finally:
            server.kill()


# -- the program -----------------------------------------------------------------------------------------------------


class _Content:
    """An image of one layer."""

    def __init__(self, layer: bytes) -> None:
        packed = gzip.compress(layer, compresslevel=1, mtime=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            }
        ).encode()
        self.blobs = {_digest(data): data for data in (packed, config)}
        one = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(config),
                    "digest": _digest(config),
                },
                "layers": [{**one, "size": len(packed), "digest": _digest(packed)}],
            }
        ).encode()
        self.digest = _digest(self.manifest)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content: ClassVar[_Content]
    login: ClassVar[str] = ""
    rate: ClassVar[int] = 0

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        kind, _, reference = self.path.rpartition("/")
        if self.login and self.headers.get("Authorization") != self.login:
            self._refuse(401, "UNAUTHORIZED", "authentication required")
        elif self.path == "/v2/":
            self._send(b"{}", "application/json")
        elif kind.endswith("/manifests") and reference in ("1", self.content.digest):
            self._send(self.content.manifest, _MANIFEST)
        elif reference in self.content.blobs:
            self._send(self.content.blobs[reference], "application/octet-stream")
        else:
            self._refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.send_response(status)
        self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", _digest(body))
        self.end_headers()
        for at in range(0, len(body) if self.command == "GET" else 0, _PIECE):
            self.wfile.write(body[at : at + _PIECE])
            if self.rate:
                time.sleep(_PIECE / self.rate)

    def log_message(self, *words: object) -> None:
        pass


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", type=Path)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--rate", type=int, default=0)
    args = parser.parse_args()
    _Handler.content, _Handler.rate = _Content(args.layer.read_bytes()), args.rate
    if args.user:
        _Handler.login = "Basic " + base64.b64encode(f"{args.user}:{args.password}".encode()).decode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], _Handler.content.digest, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _main()
