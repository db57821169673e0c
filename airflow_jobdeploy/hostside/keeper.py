"""A provisional lease: claims held by a small process of their own until a job takes them over, or for two minutes.

serve     decides under the mutex, binds the claims, forks the keeper, and may die then: the lease stands
keeper    answers at jobdeploy/lease/<id>, to its own account only: `take` by the supervisor of the job that the
          lease was granted to, `release` by whoever waits no more, `stay` by the session that has claimed the job:
          while that is open the two minutes do not run, however long code and data take to come. A lease may be
          tied to the session that was granted it: until a job is claimed it ends with that
take      the keeper sends the GPUs' claims themselves (SCM_RIGHTS): there is no moment in which nobody holds them.
          The supervisor publishes its own notice and says "ok"; only then the keeper ends. Killed before that,
          it has taken nothing.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Tuple

from airflow_jobdeploy.hostside import abstract, kernel, notices
from airflow_jobdeploy.hostside.abstract import Lookers
from airflow_jobdeploy.hostside.census import DOOR, GPU, tag_of

#: How long a lease waits for its job, in seconds.
PROVISIONAL_S = 120.0
#: How long the two sides of a take wait for each other's next word.
_WORD_S = 5.0
#: How often a keeper lets go of those that have looked at its claims.
_TIDY_S = 10.0
_LINE = 4096
#: The kernel passes at most 253 descriptors at once (SCM_MAX_FD).
_MOST_GPUS = 200


class Claims(NamedTuple):
    """What a lease holds. `lease`: as notices.lease_values wants it, with "id"."""

    lease: Dict[str, Any]
    gpus: List[socket.socket]
    notice: List[socket.socket]

    def close(self) -> None:
        notices.close(self.gpus)
        notices.close(self.notice)


def claim(lease: Dict[str, Any]) -> Optional[Claims]:
    """Bind all claims of a lease, or none (None): a GPU is held meanwhile by who does not wait in our line."""
    claims = Claims(lease, [], [])
    try:
        for uuid in lease["gpus"][:_MOST_GPUS]:
            gpu = abstract.hold(GPU + uuid.encode("ascii"))
            if gpu is None:
                claims.close()
                return None
            claims.gpus.append(gpu)
        claims.notice.extend(notices.hold(notices.LEASE, tag_of(lease["id"]), notices.lease_values(lease)))
    except OSError:
        claims.close()
        raise
    return claims


# -- the keeper --------------------------------------------------------------------------------------------------------


def keep(claims: Claims, door: socket.socket, tie: Optional[socket.socket] = None) -> None:
    """Hand the claims to a keeper; ours are closed. `tie`: its other end is the session's."""
    try:
        child = os.fork()
        if child == 0:
            _become_keeper(claims, door, tie)
        os.waitpid(child, 0)  # it has forked the keeper: that one is nobody's child
    finally:
        claims.close()
        door.close()
        if tie is not None:
            tie.close()


def _become_keeper(claims: Claims, door: socket.socket, tie: Optional[socket.socket]) -> NoReturn:
    try:
        ties = [] if tie is None else [tie]
        # Before the second fork: when the session goes on, nobody else has its tickets and the mutex any more.
        _leave_session({each.fileno() for each in (door, *claims.gpus, *claims.notice, *ties)})
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        os.chdir("/")
        _Keeper(claims, door, tie).run()
    finally:
        os._exit(0)


def _leave_session(kept: set) -> None:
    """Close all else: the client's channel would stay open, tickets and the mutex would live on with us."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for fd in _open_fds():
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # that by which the list was read


def _open_fds() -> List[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


class _Keeper:
    """Holds the claims, until they are taken, released, or void."""

    def __init__(self, claims: Claims, door: socket.socket, tie: Optional[socket.socket]) -> None:
        self._claims = claims
        self._door = door
        self._tie = tie
        self._lookers = Lookers()
        self._until = kernel.boottime_s() + PROVISIONAL_S
        #: Connections of sessions that bring what the job needs, by descriptor.
        self._staying: Dict[int, socket.socket] = {}
        self._poll = select.poll()

    def run(self) -> None:
        for each in (self._door, *self._claims.gpus, *self._claims.notice):
            abstract.answer_for(each)
        self._poll.register(self._door, select.POLLIN)
        if self._tie is not None:
            self._poll.register(self._tie, select.POLLIN)
        while True:
            left = _TIDY_S if self._staying else self._until - kernel.boottime_s()
            if left <= 0:
                return
            ready = self._poll.poll(min(left, _TIDY_S) * 1000)
            for fd, _ in ready:
                if fd == self._door.fileno():
                    if self._answer():
                        return
                elif self._tie is not None and fd == self._tie.fileno():  # the session has gone, and no job was claimed
                    return
                elif fd in self._staying:  # nothing is said there: it has gone
                    self._poll.unregister(fd)
                    self._staying.pop(fd).close()
                    self._until = kernel.boottime_s() + PROVISIONAL_S
            if not ready:
                self._lookers.forget_gone([*self._claims.gpus, *self._claims.notice])

    def _answer(self) -> bool:
        """Serve one at the door; True when nothing is left to be kept."""
        try:
            caller, _ = self._door.accept()
        except OSError:
            return False
        with contextlib.ExitStack() as stack:
            stack.callback(caller.close)
            try:
                if abstract.user_of(caller) != os.geteuid():
                    return False
                caller.settimeout(_WORD_S)
                order = _read(caller)
                if order.get("do") == "stay":
                    caller.sendall(b'{"ok": true}\n')
                    self._staying[caller.fileno()] = caller
                    self._poll.register(caller, select.POLLIN)
                    self._untie()
                    stack.pop_all()
                    return False
                if order.get("do") == "release":
                    self._claims.close()
                    self._door.close()
                    caller.sendall(b'{"released": true}\n')
                    return True
                return order.get("do") == "take" and self._hand_over(caller, order)
            except (OSError, ValueError):
                return False  # it has gone, or talks nonsense: the lease is kept for who comes next

    def _untie(self) -> None:
        """A job was claimed: it may be started by who comes back for it."""
        if self._tie is not None:
            self._poll.unregister(self._tie)
            self._tie.close()
            self._tie = None

    def _hand_over(self, caller: socket.socket, order: dict) -> bool:
        lease = self._claims.lease
        if order.get("who") != lease["who"]:
            caller.sendall(_line({"error": "this lease was granted to another job"}))
            return False
        fds = array.array("i", [gpu.fileno() for gpu in self._claims.gpus])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        caller.sendmsg([_line({"lease": lease})], rights)
        return bool(_read(caller).get("ok"))


def _line(message: dict) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(caller: socket.socket) -> dict:
    """One line; ValueError when it is none of ours, OSError when none comes."""
    data = b""
    while not data.endswith(b"\n"):
        piece = caller.recv(_LINE)
        if not piece or len(data) > _LINE:
            raise ValueError("no whole line")
        data += piece
    message = json.loads(data.decode())
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


# -- at its door -------------------------------------------------------------------------------------------------------


def _at_the_door(lease: str) -> Optional[socket.socket]:
    """A connection to the keeper of a lease, if that is of our own account."""
    if not (lease.isalnum() and lease.isascii() and len(lease) <= 64):
        return None
    peer = abstract.reach(DOOR + lease.encode("ascii"))
    if peer is None or peer.connection is None:
        return None
    if peer.uid != os.geteuid():  # somebody else sits where our keeper was
        peer.close()
        return None
    peer.connection.settimeout(_WORD_S)
    return peer.connection


def release(lease: str) -> bool:
    """Give a provisional lease back; False: it is void, or a job's by now."""
    door = _at_the_door(lease)
    if door is None:
        return False
    with door:
        try:
            door.sendall(_line({"do": "release"}))
            return bool(_read(door).get("released"))
        except (OSError, ValueError):
            return False


def stay(lease: str) -> Optional[socket.socket]:
    """A connection that keeps a provisional lease from becoming void for as long as it is open; None: it is void, or a
    job's by now."""
    door = _at_the_door(lease)
    if door is None:
        return None
    try:
        door.sendall(_line({"do": "stay"}))
        if _read(door).get("ok"):
            return door
    except (OSError, ValueError):
        pass  # it has ended in this moment
    door.close()
    return None


def take(lease: str, who: str, job: str) -> Optional[Claims]:
    """Take over a provisional lease for a job; None: it is void, or not for that job."""
    door = _at_the_door(lease)
    if door is None:
        return None
    with door:
        try:
            door.sendall(_line({"do": "take", "who": who}))
            told, gpus = _receive(door)
        except (OSError, ValueError):
            return None
        claims = Claims({**told, "job": job}, gpus, [])
        try:
            if len(gpus) != len(told["gpus"]):
                raise ValueError("some claims did not come")
            claims.notice.extend(notices.hold(notices.LEASE, tag_of(lease), notices.lease_values(claims.lease)))
            for gpu in gpus:
                abstract.answer_for(gpu)
            door.sendall(_line({"ok": True}))
        except (OSError, ValueError, KeyError, TypeError):
            claims.close()
            return None
    return claims


def _receive(door: socket.socket) -> Tuple[dict, List[socket.socket]]:
    fds = array.array("i")
    room = socket.CMSG_LEN(_MOST_GPUS * fds.itemsize)
    data, extra, _, _ = door.recvmsg(1 << 16, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    gpus = [socket.socket(fileno=fd) for fd in fds]
    try:
        while data and not data.endswith(b"\n"):
            piece = door.recv(_LINE)
            data = data + piece if piece else b""
        return dict(json.loads(data.decode())["lease"]), gpus
    except (OSError, ValueError, KeyError, TypeError) as error:
        notices.close(gpus)
        raise ValueError("no lease came: %s" % error) from None
