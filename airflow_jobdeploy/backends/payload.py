"""What is sent to a host so that it can serve: `hostside/` as one content-addressed bundle."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from airflow_jobdeploy import hostside
from airflow_jobdeploy.hostside import bootstrap

#: Where hostside lies inside the bundle: the same import path as here, so that its modules name each other alike.
_PACKAGE = "airflow_jobdeploy"


@dataclass(frozen=True, kw_only=True)
class Payload:
    """`data` is zlib-compressed JSON {path: text}; `digest` names it before compression (zlibs differ)."""

    digest: str
    data: bytes
    raw_size: int

    def opening(self, root: str) -> bytes:
        """The two lines that begin a session (see hostside/bootstrap.py)."""
        source = Path(bootstrap.__file__).read_bytes()
        order = {"root": root, "digest": self.digest, "size": len(self.data), "raw_size": self.raw_size}
        return base64.b64encode(source) + b"\n" + json.dumps(order).encode() + b"\n"


@functools.cache
def payload() -> Payload:
    """The bundle of this release. The same digest for the same sources, wherever it is made."""
    folder = Path(hostside.__file__).parent
    bundle = {f"{_PACKAGE}/__init__.py": ""}
    for path in sorted(folder.glob("*.py")):
        bundle[f"{_PACKAGE}/{folder.name}/{path.name}"] = path.read_text(encoding="utf-8")
    raw = json.dumps(bundle, sort_keys=True).encode()
    return Payload(digest=hashlib.sha256(raw).hexdigest(), data=zlib.compress(raw, 9), raw_size=len(raw))


def command(python: str) -> list[str]:
    """The command of a session. Its last word tells a person who looks at `ps` whose it is."""
    return [python, "-S", "-E", "-u", "-c", bootstrap.ONE_LINER, "jobdeploy"]
