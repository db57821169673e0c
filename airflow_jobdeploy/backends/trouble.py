"""What a failed connect or a session that never began means, in words that say what to do."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

from airflow_jobdeploy.backends.proxy import ProxyFailed
from airflow_jobdeploy.errors import WorkerUnreachable

_BUSY = ("protocol banner", "kex_exchange_identification")
_NOLOGIN = ("not available", "nologin", "sftp connections only")


def connect_errors() -> tuple[type[Exception], ...]:
    """What connects fail with; anything else is a bug or a wrong setting, and passes through."""
    import paramiko

    return (paramiko.SSHException, OSError, EOFError)


def is_busy(error: Exception, after_s: float = 0.0) -> bool:
    """Did the sshd drop us before the handshake, as it does beyond MaxStartups? Worth another try.

    A host that hangs gives the same error, but late.
    """
    if after_s > 5.0:
        return False
    said = str(error)  # the last: what ssh says when a jump host's sshd drops it
    return isinstance(error, ConnectionResetError | EOFError) or any(sign in said for sign in _BUSY)


def busy_pauses_s() -> Iterator[float]:
    """How long to wait before each further try, in seconds; at random, so that many do not come back together."""
    return (random.uniform(0.5, 1.5) * pause for pause in (0.3, 1.0, 2.0, 4.0, 8.0))


def unreachable(worker: str, error: Exception) -> WorkerUnreachable:
    """The error of a connect, with what to do about it."""
    said = str(error).strip() or type(error).__name__
    text = f"cannot connect to {worker}: {said.rstrip('.')}. {_advice(error, said)}".rstrip()
    return WorkerUnreachable(text, lasting=_is_lasting(error, said))


def _is_lasting(error: Exception, said: str) -> bool:
    """Must a person do something first?"""
    import paramiko

    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_NONAME
    refusals = (paramiko.BadHostKeyException, paramiko.AuthenticationException, paramiko.PasswordRequiredException)
    return isinstance(error, refusals) or "not found in known_hosts" in said


def _advice(error: Exception, said: str) -> str:
    import paramiko

    if isinstance(error, paramiko.BadHostKeyException):
        return (
            "The host key is another one than known: either the host was installed anew (then replace its line in"
            " known_hosts, or `host_key` of the connection) or somebody stands between."
        )
    if "not found in known_hosts" in said:
        return (
            "The host key is not known yet: add it to known_hosts (`ssh-keyscan`, then compare the fingerprint) or put"
            " it into the connection's `host_key`."
        )
    if isinstance(error, paramiko.AuthenticationException | paramiko.PasswordRequiredException):
        return "Check the connection's login, key_file, private_key, private_key_passphrase and password."
    if isinstance(error, ProxyFailed):
        return "Run that command by hand, as the account that runs Airflow's workers and triggerer, until it connects."
    if isinstance(error, socket.gaierror):
        return "The name is unknown here: check the connection's host."
    if is_busy(error):
        return "The sshd drops connections (MaxStartups, a firewall, or a host that is starting)."
    if isinstance(error, TimeoutError):
        return "The host does not answer: is it up, and reachable from this machine?"
    if isinstance(error, ConnectionRefusedError | paramiko.ssh_exception.NoValidConnectionsError):
        return "Nothing listens there: check the connection's host and port, and that sshd runs."
    return ""


def no_session(worker: str, python: str, status: int | None, stderr: str, noise: bytes) -> WorkerUnreachable:
    """A login shell that ended, or was silent, before our Python answered. `status` None: it did not end."""
    said = stderr or " / ".join(noise.decode(errors="replace").split("\n")[-4:]).strip()
    told = f"; it said: {said[-800:]!r}" if said else ""
    # A login shell that says nothing may be that of a host under load; what it says, it will say again.
    return WorkerUnreachable(f"no session on {worker}: {_why(python, status, said)}{told}", lasting=status is not None)


def _why(python: str, status: int | None, said: str) -> str:
    if status in (126, 127) or ("not found" in said.lower() and python in said):
        return (
            f"{python} was not found or cannot be run there (exit status {status}). Install Python 3.8 or newer,"
            " or put it on the PATH of a login without terminal (~/.bashrc is read, ~/.bash_profile is not)"
        )
    if any(word in said for word in _NOLOGIN):
        return "the account has no login shell that runs commands. Use another account, or `chsh` it"
    if status is None:
        return (
            f"{python} did not answer in time. Does a start-up file of the login shell wait for something,"
            " or read from standard input?"
        )
    return (
        f"the login shell ended with status {status} before {python} began. Does a start-up file (~/.bashrc,"
        " ~/.config/fish/config.fish, ~/.cshrc) call `exit` or `exec`?"
    )


def too_noisy(worker: str, limit_bytes: int, noise: bytes) -> WorkerUnreachable:
    """A start-up file that prints without end."""
    text = noise[:200].decode(errors="replace")
    return WorkerUnreachable(
        f"no session on {worker}: the login shell printed more than {limit_bytes} bytes before our command ran,"
        f" beginning {text!r}. Let its start-up files print only for a terminal (`[ -t 1 ]`)",
        lasting=True,
    )
