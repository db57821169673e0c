"""What a session can be asked about trees: is it here, take it in, give it to a job."""

from __future__ import annotations

import errno
import os
import zlib
from typing import Any, Callable, Iterator, Optional, Tuple

from airflow_jobdeploy.hostside import collect, evict, given, incoming, jobdir, layout, manifest, receive, store
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.protocol import OpError, Reply

#: What the system says of names that it cannot hold.
_BAD_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP, errno.ENOTDIR, errno.EEXIST)


class TreeOps:
    """The trees of one session: at most one arrives at a time."""

    def __init__(self, host: HostPaths, who: str, cache_limit: Optional[int], pulse: Callable[[], None]) -> None:
        self._host = host
        self._store = host.store
        self._who = who
        self._cache_limit = cache_limit
        self._pulse = pulse
        self._arrival: Optional[receive.Arrival] = None

    def tree(self, ask: dict) -> Reply:
        name = layout.checked_name(ask["name"])
        told = incoming.busy(self._store.arriving(name))
        if told is not None:
            return Reply(have=False, busy=told)
        return Reply(have=store.has(self._store, name))

    def sizes(self, ask: dict) -> Reply:
        return Reply(may=store.may_have(self._store, {size for size in ask["sizes"] if isinstance(size, int)}))

    def offer(self, ask: dict, blobs: Iterator[bytes]) -> Reply:
        self.close()
        if ask.get("name"):
            told = incoming.busy(self._store.arriving(layout.checked_name(ask["name"])))
            if told is not None:
                return Reply(have=False, busy=told)
        text = _inflated(blobs, ask["size"])
        try:
            arrival = receive.Arrival(self._store, text, str(ask.get("version") or ""), self._who, self._pulse)
        except manifest.BadManifest as error:
            raise OpError("bad-request", str(error)) from None
        if ask.get("name") and ask["name"] != arrival.name:
            raise OpError("bad-request", "the manifest is that of %s, not of %s" % (arrival.name, ask["name"]))
        return self._offered(arrival)

    def _offered(self, arrival: receive.Arrival) -> Reply:
        try:
            is_lacking = not arrival.is_here() and arrival.begin(self._make_room)
        except incoming.Busy as error:
            return Reply(have=False, busy=error.told)
        except OSError as error:
            raise _refusal(error) from None
        if is_lacking and arrival.is_known and not arrival.lacks:  # other trees had all of it
            try:
                arrival.publish()
            finally:
                arrival.drop()
            is_lacking = False
        if not is_lacking:
            return Reply(have=True, name=arrival.name)
        self._arrival = arrival
        return Reply(have=False, **arrival.wanted())

    def fill(self, _: dict, blobs: Iterator[bytes]) -> Reply:
        arrival = self._arrival
        if arrival is None:
            raise OpError("bad-request", "nothing has been offered in this session: the tree comes first")
        lacked, size = len(arrival.lacks), arrival.todo_bytes
        try:
            arrival.fill(blobs)
            arrival.publish()
        except OSError as error:
            raise _refusal(error) from None
        finally:
            self.close()
        collect.room_in_background(self._host, self._cache_limit)
        return Reply(name=arrival.name, files=lacked, bytes=size, contents=arrival.contents())

    def use(self, ask: dict) -> Reply:
        job = jobdir.known(self._host, ask["job"])
        role, name = ask["role"], layout.checked_name(ask["name"])
        if role not in given.ROLES:
            raise OpError("bad-request", "a tree has no role %r; there are: %s" % (role, ", ".join(given.ROLES)))
        try:
            given.give(job, role, name)
        except given.NoTree as error:
            raise OpError("no-such-tree", str(error)) from None
        return Reply()

    def close(self) -> None:
        """What has not come whole is somebody else's to go on with."""
        if self._arrival is not None:
            self._arrival.drop()
            self._arrival = None

    def _make_room(self, wanted: int) -> int:
        return evict.make_room(self._host, wanted)


def check_given(job: Job) -> None:
    """May the job start, has it all the trees that it wants? OpError."""
    has = given.given(job)
    for role in wanted_roles(job):
        if role not in has and not (role == "work" and os.path.isdir(work_of(job))):
            raise OpError("bad-request", "job %s was not given its %s: send the tree, and `use` it" % (job.id, role))
    for role, name in has.items():
        if role in given.ROLES and not os.path.isdir(job.host.store.tree(name).dir):
            raise OpError("no-such-tree", "the tree %s has gone: send it again" % name)


def wanted_roles(job: Job) -> Tuple[str, ...]:
    """What of the store the plan asks for."""
    plan = job.plan()
    code = ("work",) if plan.get("ships_project") or plan.get("bundle") else ()
    return code + (("dataset",) if "tree" in (plan.get("dataset") or {}) else ())


def work_of(job: Job) -> str:
    """The working directory that is the job's own, or its resource's."""
    resource = job.plan().get("resource_id")
    return job.host.resource(resource).work if resource else job.paths.work


def _inflated(blobs: Iterator[bytes], size: object) -> bytes:
    """The manifest's text; never more of it than was announced. OpError."""
    if not isinstance(size, int) or not 0 < size <= manifest.LIMIT:
        text = "a manifest of %s bytes, at most %d: pack many small files into fewer"
        raise OpError("bad-request", text % (size, manifest.LIMIT))
    inflater, found, left = zlib.decompressobj(), [], size
    try:
        for blob in blobs:
            rest = blob
            while rest and left >= 0:
                found.append(inflater.decompress(rest, left + 1))
                left -= len(found[-1])
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise OpError("bad-request", "the manifest arrived damaged: %s" % error) from None
    if left or not inflater.eof:
        raise OpError("bad-request", "the manifest does not have the %d bytes that were announced" % size)
    return b"".join(found)


def _refusal(error: OSError) -> Exception:
    """A name that no file can have here is the tree's fault."""
    if error.errno in _BAD_NAMES:
        return OpError("bad-request", "%s: %s" % (_shown(error.filename), error.strerror))
    return error


def _shown(name: Any) -> str:
    return repr(os.fsdecode(name)) if isinstance(name, (bytes, str)) else "the tree"
