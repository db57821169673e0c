"""First text that runs on a host: takes what the client lacks there, then becomes `runner.main`.

The client starts `python3 -S -E -u -c <ONE_LINER>` and writes two lines: this file as base64, and a
JSON object {"root", "digest", "size", "raw_size"}. We answer MARK (what came before it is noise of the login
shell) and a J frame: {"ok": true, "have": bool, "root", "python"} or {"ok": false, "error", "message"}. When
`have` is false the client sends `size` bytes, zlib-compressed JSON {path: text} whose sha256 before
compression is `digest`; a second J frame {"ok": true} or an error follows. Then the same process
and streams are the session: the client waits for our answer before it writes more, so nothing of
the session is ever left in the buffer of `stdin`.

Pythons too old for the runner read this file to say so, hence neither __future__ nor f-strings.
"""
# ruff: noqa: I002

import errno
import fcntl
import json
import os
import stat
import struct
import sys

#: What `python3 -c` is given: no quotes, `!`, `$` or backslashes, so that every shell passes it on unchanged.
ONE_LINER = "import sys,base64;exec(base64.b64decode(sys.stdin.buffer.readline()))"

MARK = b"\x00jobdeploy\x01"
OLDEST = (3, 8)


class Refused(Exception):
    """We cannot serve; `code` is for the program, the text for the person."""

    def __init__(self, code: str, message: str) -> None:
        Exception.__init__(self, message)
        self.code = code


def _send(message: dict) -> None:
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">cI", b"J", len(data)) + data)
    sys.stdout.buffer.flush()


def _check_python() -> None:
    if sys.version_info[:2] < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        raise Refused("old-python", "%s is Python %s, 3.8 or newer is needed" % (sys.executable, found))


def _own_directory(path: str) -> None:
    """Make `path` ours alone. Secrets will lie below it."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        found = os.stat(path)
        if found.st_uid != os.getuid():
            text = "%s belongs to user %d, not to us (%d): set another `root`" % (path, found.st_uid, os.getuid())
            raise Refused("foreign-root", text)
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise _os_refusal(error, path) from None


def _os_refusal(error: OSError, path: str) -> Refused:
    place = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("disk-full", "the disk of %s is full (%s): free some space" % (place, error.strerror))
    if error.errno == errno.EROFS:
        return Refused("read-only", "%s is on a read-only file system: set another `root`" % place)
    return Refused("root-unusable", "cannot use %s (%s): mend it or set another `root`" % (place, error.strerror))


def _receive(size: int, raw_size: int, digest: str) -> dict:
    """The bundle {path: text}, verified. Read whole even if it cannot be stored: the client writes it anyway."""
    import hashlib  # here: a session whose files are there already begins 10 ms sooner without
    import zlib

    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        raise EOFError("the client went away while it sent the runner")
    raw = zlib.decompressobj().decompress(data, raw_size + 1)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise Refused("damaged", "the runner arrived damaged (sha256 differs): try again")
    bundle = json.loads(raw.decode())
    assert isinstance(bundle, dict)
    return bundle


def _publish(bundle: dict, target: str) -> None:
    """Write the files beside, then rename: another session sees all of them or none."""
    beside = "%s.%s" % (target, os.urandom(4).hex())
    try:
        for name in sorted(bundle):
            _write(os.path.join(beside, *name.split("/")), bundle[name].encode())
        os.rename(beside, target)
    except OSError as error:
        import shutil

        shutil.rmtree(beside, ignore_errors=True)
        if not os.path.isdir(target):  # else another session was faster, with the same bytes
            raise _os_refusal(error, target) from None


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # after a power cut a published folder must not hold empty modules


def hold(place: str) -> bool:
    """Is the runner there? Then it stays while this process lives: it is as good as new, and locked (collect.py)."""
    try:
        fd = os.open(place, os.O_RDONLY)  # never closed
        try:
            os.utime(place)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # somebody is removing it at this moment
        except OSError:
            pass  # a filesystem that is read-only or has no locks: nobody can collect there, either
        return os.path.samestat(os.fstat(fd), os.stat(place))
    except OSError:
        return False


def _prepare(order: dict) -> str:
    """Answer the client's order; the folder to import the runner from."""
    _check_python()
    root = os.path.abspath(os.path.expanduser(order["root"]))
    place = os.path.join(root, "runner", order["digest"])
    _own_directory(root)
    have = hold(place)
    _send({"ok": True, "have": have, "root": root, "python": sys.version.split()[0]})
    if not have:
        bundle = _receive(order["size"], order["raw_size"], order["digest"])
        _own_directory(os.path.dirname(place))
        _publish(bundle, place)
        hold(place)
        _send({"ok": True})
    sys.path.insert(0, place)
    return root


def main() -> int:
    """Serve one session on stdin and stdout; the exit status."""
    os.umask(0o077)
    sys.stdout.buffer.write(MARK)
    try:
        root = _prepare(json.loads(sys.stdin.buffer.readline().decode()))
    except Refused as error:
        _send({"ok": False, "error": error.code, "message": str(error)})
        return 1
    except EOFError:
        return 1
    from airflow_jobdeploy.hostside import runner

    return int(runner.main(["serve", "--root", root]) or 0)


if __name__ == "__main__":
    sys.exit(main())
