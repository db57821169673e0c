"""An engine that cannot be reached: why, and what to do about it, in one line.

The docker SDK and what lies below it say neither which engine nor what to do; their texts are told apart here, once.
"""

from __future__ import annotations

from airflow_jobdeploy.backends.engine.api import reason
from airflow_jobdeploy.core.pool import Worker
from airflow_jobdeploy.errors import WorkerUnreachable

_NOT_OURS = "What answers there is no Docker engine: check the URL."
_LOGIN = "The login there must be able to run `docker`: try `ssh ... docker version` as the account that runs Airflow."
#: Schemes of URLs, signs in what was said, advice; the first that fits.
_ADVICE: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        ("ssh",),
        ("uthentication", "not found in known_hosts", "No existing session"),
        "Log in once by hand (ssh), as the account that runs Airflow.",
    ),
    (("ssh",), ("Connection aborted", "BadStatusLine", "Remote end closed"), _LOGIN),
    (
        ("unix",),
        ("Permission denied",),
        "The account of Airflow may not open the socket: add it to the group docker.",
    ),
    (
        ("unix",),
        ("No such file", "FileNotFoundError"),
        "There is no such socket or file on this machine: does dockerd run?",
    ),
    (("tcp",), ("CERTIFICATE_VERIFY_FAILED",), "Check `tls: {ca_cert}`: it must have signed the engine's certificate."),
    (
        ("tcp",),
        ("CERTIFICATE_REQUIRED", "bad certificate", "HANDSHAKE_FAILURE"),
        "The engine wants ours: give `tls: {client_cert, client_key}`.",
    ),
    (
        ("tcp",),
        ("UNKNOWN_CA", "unknown ca"),
        "The engine does not trust our certificate: `tls: {client_cert}` must be signed by who it knows.",
    ),
    (("tcp",), ("KEY_VALUES_MISMATCH",), "`tls: {client_key}` is not the key of `client_cert`."),
    (("tcp",), ("WRONG_VERSION_NUMBER",), "What listens there speaks no TLS: check the port, or leave `tls` out."),
    (("tcp",), ("HTTP request to an HTTPS server",), "The engine speaks TLS: give `tls: {ca_cert, ...}`."),
    (
        (),
        ("Connection refused", "Unable to connect to port"),
        "Nothing listens there: check the URL; does it run?",
    ),
    (("tcp",), ("there is no file",), "Triggerer and workers of Airflow all need it, at this path."),
    ((), ("Expecting value", "has no Api-Version"), _NOT_OURS),
)


def unreachable(worker: Worker, error: Exception, *, lasting: bool = False) -> WorkerUnreachable:
    """The error of a worker whose engine cannot be reached because of `error`."""
    said = reason(error)
    name = worker.name if worker.name == worker.url else f"{worker.name} ({worker.url})"
    return WorkerUnreachable(f"cannot connect to {name}: {said}. {_advice(worker, f'{said} {error}')}", lasting=lasting)


def _advice(worker: Worker, said: str) -> str:
    scheme = (worker.url or "").partition("://")[0]
    for schemes, signs, text in _ADVICE:
        if (not schemes or scheme in schemes) and any(sign in said for sign in signs):
            return text
    if scheme == "tcp" and worker.tls is None and "Connection aborted" in said:
        return "Does it want TLS? Then give `tls: {ca_cert, ...}`."
    return "Is the engine up, and reachable from this machine?"
