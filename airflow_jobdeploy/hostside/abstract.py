"""Abstract unix sockets as claims (unix(7)): one name, one holder in a network namespace, over all accounts and roots.

No files, no rights, gone with the last descriptor of its holder, whatever kills that. Everybody sees the names, and
everybody may connect: the kernel then says whose it is (SO_PEERCRED), and tells the end of the holder by a hang-up of
the connection, though nobody ever accepts it. What the list of names says is believed in nothing but where to connect:
names may hold anything, also what looks like lines of that list.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from typing import List, NamedTuple, Optional

PREFIX = b"jobdeploy/"
MUTEX = PREFIX + b"mutex"
#: The longest name, in bytes: sockaddr_un without its first one.
NAME_LIMIT = 107
#: How many may look at a claim at once before its holder lets go of those who have left (`forget_gone`).
_BACKLOG = 4096
_LIST = "/proc/net/unix"
#: So many lines surely are one page.
_ONE_PAGE = 20
_LISTENS = 0x10000  # __SO_ACCEPTCON, linux/net.h
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def are_there() -> bool:
    """Does this system have abstract sockets, and tell their names?"""
    return os.path.exists(_LIST)


def hold(name: bytes) -> Optional[socket.socket]:
    """Claim a name, until the socket is closed; None: somebody else has it. OSError: no descriptors left."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(b"\0" + name)
        answer_for(claim)
        claim.setblocking(False)
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return claim


def answer_for(claim: socket.socket) -> None:
    """From now on the kernel names this process as the holder: also of a claim that was handed to us."""
    claim.listen(_BACKLOG)


def names() -> List[bytes]:
    """Names of ours, as far as the list tells the truth: `reach` tells whether one is held."""
    found = []
    for line in _listed():
        place = line.find(b" @" + PREFIX)
        if place < 0:
            continue
        fields = line[:place].split()
        if len(fields) == 7 and _is_listening(fields[3]):
            found.append(line[place + 2 :])
    return found


def _listed() -> List[bytes]:
    """The lines of the list. It is read page by page, and while sockets come and go a page may skip one: so twice."""
    with open(_LIST, "rb") as file:
        lines = file.read().split(b"\n")
        if len(lines) > _ONE_PAGE:
            file.seek(0)
            lines = list({*lines, *file.read().split(b"\n")})
    return lines


def _is_listening(flags: bytes) -> bool:
    try:
        return bool(int(flags, 16) & _LISTENS)
    except ValueError:
        return False


class Peer(NamedTuple):
    """Who holds a name. Where that cannot be asked (too many look already): no connection, pid 0, uid -1."""

    connection: Optional[socket.socket]
    pid: int = 0
    uid: int = -1

    @property
    def is_gone(self) -> bool:
        """Has the holder let go since? False where we do not know."""
        if self.connection is None:
            return False
        poll = select.poll()
        poll.register(self.connection, 0)  # hang-ups are always told
        return bool(poll.poll(0))

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


def reach(name: bytes) -> Optional[Peer]:
    """Who holds this name; None: nobody. The connection stays open, to see the holder's end."""
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError:  # no descriptors left
        return Peer(None)
    try:
        connection.connect(b"\0" + name)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError as error:
        connection.close()
        return None if error.errno in (errno.ECONNREFUSED, errno.ENOENT, errno.EINVAL) else Peer(None)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return Peer(connection, pid, uid)


def user_of(connection: socket.socket) -> int:
    """The uid at the other end of an accepted connection."""
    return int(_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1])


class Lookers:
    """Who looks at the claims of a holder: those that have left are let go, else nobody new could look in the end."""

    _MOST = 256

    def __init__(self) -> None:
        self._accepted: List[socket.socket] = []

    def forget_gone(self, claims: List[socket.socket]) -> None:
        staying = []
        for looker in self._accepted:
            if Peer(looker).is_gone:
                looker.close()
            else:
                staying.append(looker)
        self._accepted = staying
        for claim in claims:
            while len(self._accepted) < self._MOST:
                try:
                    looker, _ = claim.accept()
                except OSError:  # nobody waits; or no descriptors left: later
                    break
                if Peer(looker).is_gone:
                    looker.close()
                else:
                    self._accepted.append(looker)


class Mutex:
    """One process of this host at a time, across accounts. Whoever dies with it has let go of it.

    `holder`: who had it when it could not be taken.
    """

    def __init__(self) -> None:
        self.holder: Optional[Peer] = None
        self._claim: Optional[socket.socket] = None

    def take(self, wait_s: float) -> bool:
        until = time.monotonic() + wait_s
        while True:
            self._claim = hold(MUTEX)
            if self._claim is not None:
                return True
            peer = reach(MUTEX)
            left = until - time.monotonic()
            if left <= 0:
                self.holder = peer
                if peer is not None:
                    peer.close()
                return False
            if peer is not None:
                _await_end(peer, left)
                peer.close()

    def release(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None


def _await_end(peer: Peer, wait_s: float) -> None:
    if peer.connection is None:
        time.sleep(min(wait_s, 0.01))  # a crowd waits already, more than can be told of the end
        return
    poll = select.poll()
    poll.register(peer.connection, 0)
    poll.poll(wait_s * 1000)
