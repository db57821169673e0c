"""One session: requests in, answers and changes out, until `bye` or the end of stdin. No job needs it to go on.

Single-threaded. Of several waiting requests `stop` is answered first. The ops of protocol 1:

    op        asks for                       answers
    hello     client, env_mode, path,        identity and size of the host, live_jobs, cordoned, warnings, extra
              idle_s, cache_limit_bytes      (capabilities)
    claim     plan, secrets                  new, state; an `up` also makes its resource's record
    put       job, into, then tar            files, bytes; published by rename. into: "checkpoint"
    tree      name                           have; a whole tree counts as used. Or busy: {"by", "bytes", "of"}, while
                                             another session brings it
    sizes     sizes                          may: could a tree hold a file of one of these sizes, in bytes?
    offer     name, version, size, then the  have, name: nothing is lacking; or busy; or lacks: [[first entry, count]],
              manifest, compressed by zlib   offsets: [[entry, bytes that are here]], bytes to come
    fill      then all that it lacks         name, files, bytes; contents: sha256 of each file that came without one
    use       job, role, name                {}; role: "work", "dataset". The tree stays until the job has ended
    start     job                            state
    poll      jobs                           states: {id: state or null}
    watch     jobs                           states; from then on {"event": "state", "job", "state"} at each change
    stop      job, reason, by, grace_s       state; the worker carries it through alone
    preempt   job, reason, by, signal, grace_s   state; SUSPENDED in the end, its checkpoint directory kept
    renew     jobs                           {}; those that stop when nobody asks for them are being asked for
    extend    job, seconds, token            state; its life_span is so much longer; the same token counts once
    move      job, job_id, attempt, worker   {}; another attempt has taken the place of `job`
    own       job, owner                     {}
    seek      ticket (core/leases.py)        lease or null, position, ahead, why; the ticket is in line, or renewed
    drop      uid                            released: was it granted a lease meanwhile, which is given back?
    release   lease                          released: false when it is void, or a job's
    room                                     capacity, leases, tickets, outsiders, driver, enforced, ends (of
                                             the last jobs), warnings
    cordon    by, why, or lift               cordoned: by whom and why no new jobs are taken now, or ""
    log       job, offset, limit             offset, dropped, size, bytes, then the bytes
    jobs      deployment, live_only          jobs: [{"plan", "state"}], newest first
    resource  resource                       record or null
    manifest  job, match                     files: [{"path", "size", "sha256", "mode"}], ended; of a job that has not
                                             ended only the paths that the regular expression `match` matches whole
    get       job, paths, offset             files, then a tar stream of them in order, the first from `offset` on
    upload    job, files                     {}, then lines of JSON: how each file gets to its URL (upload.py)
    checkpoint  job                          files, then a tar stream of its checkpoint directory
    forget    job                            {}; the record of an ended job is gone
    collect   dry_run, cache_limit_bytes     {items, more}: what is old goes, or is only named
    bye                                      {}; the session ends

`env_mode` is "login" or "inherit" (environment.py); a client that says nothing for `idle_s` seconds is taken for gone,
inside a transfer for 120 s: others may wait for the tree. {"event": "working"} tells that a long answer is being made.
A no is {"ok": false, "error": code, "message": sentence}, with one of the codes no-such-job, active, moved,
bad-request, disk-full, read-only, newer-layout, no-such-resource, no-such-build, no-such-tree, damaged, failed; after
the answer to `log` or `get` it takes the place of the last bytes.

A state has the fields of core.status.JobState. `message` is empty where the near side can say it from status, reason
and facts; a Setup failure and an UNKNOWN bring their own. Facts, each only where there is something to say: last_lines,
stopped_by, stop_reason, checkpointed, orphaned_s, limit, limit_s, memory_used_bytes, memory_limit_bytes,
disk_free_bytes, disk_path, swept, leftovers, left_behind, hint, exit_unknown, result_error, manifest_error,
metrics_error, log_cap_error, gpus (held), enforced (cpu, memory), line (where it stands: position, ahead, why),
foreign_gpus (used, not held).
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections import deque
from typing import Any, Callable, Deque, Iterator, Optional, Sequence

from airflow_jobdeploy.hostside import kernel, protocol
from airflow_jobdeploy.hostside.files import Damaged
from airflow_jobdeploy.hostside.jobdir import NewerLayout
from airflow_jobdeploy.hostside.ops import Ops
from airflow_jobdeploy.hostside.protocol import MAX_FRAME, OpError, Reply

_OPS = (
    *(
        "hello",
        "claim",
        "put",
        "tree",
        "sizes",
        "offer",
        "fill",
        "use",
        "start",
        "poll",
        "watch",
        "stop",
        "preempt",
        "renew",
    ),
    *("extend", "move", "own", "log", "jobs", "resource", "manifest", "get", "upload", "checkpoint", "forget"),
    *("collect", "bye"),
    *("seek", "drop", "release", "room", "cordon"),
)
#: Those that bytes follow.
_WITH_BYTES = ("put", "offer", "fill")
#: Those that are not in ops.py itself -> its part that has them: treeops.py, fileops.py, lineops.py.
_PART_OF = {
    **dict.fromkeys(("tree", "sizes", "offer", "fill", "use"), "trees"),
    **dict.fromkeys(("log", "manifest", "get", "upload", "checkpoint", "put"), "job_files"),
    **dict.fromkeys(("seek", "drop", "release", "room"), "lines"),
}
#: How long a transfer may stand still, and how often a long answer gives a sign of life, in seconds.
_STALL_S, _PULSE_S = 120.0, 5.0
#: How often children that end dead supervisors' jobs are asked whether they are done, in seconds.
_REAP_S = 0.25
#: So many bytes of a transfer are written at once.
_FRAMES = 4 * MAX_FRAME


def serve(root: str, source: int, target: int) -> int:
    """Serve one session on two file descriptors; the exit status."""
    try:
        Session(Ops(root), source, target).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0  # the client has gone: no job is touched by that
    except protocol.ProtocolError:
        return 2
    return 0


class Session:
    """The loop around `Ops`."""

    def __init__(self, ops: Ops, source: int, target: int) -> None:
        self._ops = ops
        self._source = source
        self._target = target
        self._reader = protocol.Reader()
        self._frames: Deque[Any] = deque()
        self._ended = False
        self._asked = time.monotonic()
        #: How long the client may say nothing, in seconds: sshd may notice only after hours that a connection was cut.
        self._idle_s: Optional[float] = None
        self._pulsed = 0.0
        ops.pulse = self._pulse

    def run(self) -> None:
        """Until `bye`; EOFError at the end of the stream."""
        while not self._ended:
            self._gather()
            request = self._next_request()
            if request is not None:
                self._answer(request)
                if self._ops.watcher is not None:
                    self._ops.watcher.expect()
            self._look()

    def _gather(self) -> None:
        """Take what has arrived; wait only when nothing is to be done."""
        watcher, judge = self._ops.watcher, self._ops.judge
        patience: Optional[float] = None if watcher is None else watcher.patience_s()
        if judge is not None and judge.has_children:
            patience = min(_REAP_S, _REAP_S if patience is None else patience)
        line = self._ops.line
        if line is not None:
            due = line.line.patience_s()
            patience = patience if due is None else due if patience is None else min(due, patience)
        if self._frames:
            patience = 0.0
        if self._is_readable(patience, () if line is None else line.line.fds()):
            self._read()

    def _is_readable(self, patience: Optional[float], also: Sequence[int] = ()) -> bool:
        """Has something arrived, within `patience` or until one of `also` has news?

        EOFError when the client has been silent for too long.
        """
        if self._idle_s is not None:
            left = max(0.0, self._asked + self._idle_s - time.monotonic())
            patience = left if patience is None else min(patience, left)
        watcher = self._ops.watcher
        bell = None if watcher is None else watcher.fd
        ears = [self._source, *also] if bell is None else [self._source, bell, *also]
        ready = select.select(ears, [], [], patience)[0]
        if ready:
            return self._source in ready
        if self._idle_s is not None and time.monotonic() - self._asked >= self._idle_s:
            raise EOFError("the client has said nothing for %d s" % self._idle_s)
        return False

    def _read(self) -> None:
        data = os.read(self._source, 1 << 18)
        self._asked = time.monotonic()
        if not data:
            raise EOFError("the client has gone")
        self._frames.extend(self._reader.feed(data))

    def _next_request(self) -> Optional[dict]:
        """The next request, `stop` first. Requests behind a transfer that is still arriving wait for its end."""
        position = 0
        for index, (kind, payload) in enumerate(self._frames):
            if kind != b"J" or payload.get("op") in _WITH_BYTES:
                break
            if payload.get("op") == "stop":
                position = index
                break
        if not self._frames:
            return None
        kind, payload = self._frames[position]
        del self._frames[position]
        return payload if kind == b"J" else None  # bytes nobody waits for: the rest of a refused transfer

    def _blobs(self) -> Iterator[bytes]:
        kernel.widen_pipe(self._source)
        while True:
            until = time.monotonic() + _STALL_S
            while not self._frames:
                if self._is_readable(max(0.0, until - time.monotonic())):
                    self._read()
                elif time.monotonic() >= until:
                    raise EOFError("the transfer has stood still for %d s" % _STALL_S)
            kind, payload = self._frames.popleft()
            if kind != b"B":
                raise protocol.ProtocolError("a request inside a transfer")
            if not payload:
                return
            yield payload

    def _pulse(self) -> None:
        now = time.monotonic()
        if now - self._pulsed >= _PULSE_S:
            self._pulsed = now
            self._send(protocol.pack_json({"event": "working"}))

    def _answer(self, request: dict) -> None:
        self._pulsed = time.monotonic()
        head = {"id": request.get("id"), "ok": True}
        try:
            reply = self._perform(request)
            self._send(protocol.pack_json({**head, **reply}))
            if reply.after is not None:
                reply.after(self._send_bytes)
                self._send(protocol.pack(b"B", b""))
        except (BrokenPipeError, ConnectionResetError, EOFError, protocol.ProtocolError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever one request does, the others are still answered
            code, message = _explained(error)
            self._send(protocol.pack_json({**head, "ok": False, "error": code, "message": message}))
        self._ended = request.get("op") == "bye"
        self._asked = time.monotonic()  # an answer may have been long

    def _perform(self, request: dict) -> Reply:
        op = request.get("op")
        if op not in _OPS:
            raise OpError("bad-request", "no op %r; there are: %s" % (op, ", ".join(_OPS)))
        if op == "hello" and isinstance(request.get("idle_s"), (int, float)):
            self._idle_s = float(request["idle_s"])
        ops: Any = getattr(self._ops, _PART_OF[op]) if op in _PART_OF else self._ops
        method: Callable[..., Reply] = getattr(ops, op)
        return method(request, self._blobs()) if op in _WITH_BYTES else method(request)

    def _look(self) -> None:
        judge = self._ops.judge
        if judge is not None:
            judge.reap()
        if self._ops.line is not None:
            for event in self._ops.line.turn():
                self._send(protocol.pack_json(event))
        watcher = self._ops.watcher
        if watcher is None:
            return
        for job, state in watcher.changes().items():
            self._send(protocol.pack_json({"event": "state", "job": job, "state": state}))

    def _send_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _FRAMES):
            self._send(protocol.pack_bytes(view[start : start + _FRAMES]))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._target, view) :]


def _explained(error: Exception) -> Any:
    """(code, sentence) for whatever went wrong."""
    if isinstance(error, OpError):
        return error.code, str(error)
    if isinstance(error, NewerLayout):
        return "newer-layout", str(error)
    if isinstance(error, Damaged):
        return "failed", str(error)
    if isinstance(error, OSError):
        return _os_explained(error)
    if isinstance(error, KeyError):
        return "bad-request", "the request lacks %s" % error
    if isinstance(error, (ValueError, TypeError)):
        return "bad-request", str(error)
    return "failed", "the runner failed: %s: %s" % (type(error).__name__, error)


def _os_explained(error: OSError) -> Any:
    place = error.filename or "the root"
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk-full", "the disk of %s is full (%s): free some space there" % (place, why)
    if error.errno == errno.EROFS:
        return "read-only", "%s lies on a read-only filesystem: set another root" % place
    return "failed", "%s: %s" % (place, why)
