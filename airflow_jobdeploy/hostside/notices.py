"""What a lease or a ticket says of itself to all accounts: a short list of values, in the names of sockets.

    jobdeploy/use/<tag>/<n of m>/<text>     a lease: what is held beside GPUs, for which job
    jobdeploy/ask/<tag>/<n of m>/<text>     a ticket: what is waited for, until when this counts
    jobdeploy/gpu/<uuid>                    a GPU (abstract.py): held or not, nothing more
    jobdeploy/lease/<id>                    where a provisional lease is claimed (keeper.py)

A text too long for one name goes on in others of the same tag and account. Names hold no secrets: jobs, deployments and
owners are hashes. Sizes are in MiB, rounded up; times are CLOCK_BOOTTIME of this host.
"""

from __future__ import annotations

import json
import math
import socket
from typing import Any, Dict, List, Optional, Sequence, Tuple

from airflow_jobdeploy.hostside import abstract, layout
from airflow_jobdeploy.hostside.abstract import PREFIX

LEASE, TICKET = b"use", b"ask"
_MIB = 1024 * 1024
_PIECE = abstract.NAME_LIMIT - len(PREFIX) - len(b"use/") - 9 - 3
#: Pieces are numbered by one digit of base 16.
_MOST_PIECES = 15
_FAR = 1 << 60
_PRIORITIES = ("high", "normal", "low")


class TooLong(ValueError):
    """More than the names of sockets can tell."""


def pieces_of(values: Sequence[Any]) -> List[bytes]:
    """What each of the names tells. TooLong."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) > _MOST_PIECES * _PIECE:
        raise TooLong("it asks for more than can be told: %d bytes, at most %d" % (len(text), _MOST_PIECES * _PIECE))
    return [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]


def hold(kind: bytes, tag: str, values: Sequence[Any]) -> List[socket.socket]:
    """Publish a notice, until the sockets are closed. TooLong; OSError when there are no descriptors left."""
    pieces = pieces_of(values)
    held: List[socket.socket] = []
    try:
        for number, piece in enumerate(pieces):
            head = b"%s%s/%s/%x%x/" % (PREFIX, kind, tag.encode("ascii"), number, len(pieces))
            claim = abstract.hold(head + piece)
            if claim is None:  # whoever tries to be us: under another tag it works
                raise OSError(0, "the name of a notice is taken")
            held.append(claim)
    except OSError:
        close(held)
        raise
    return held


def close(sockets: List[socket.socket]) -> None:
    while sockets:
        sockets.pop().close()


def split(name: bytes) -> Optional[Tuple[bytes, str, int, int, bytes]]:
    """(kind, tag, number, how many, text) of a name of a notice; None for others."""
    parts = name.split(b"/", 4)
    if len(parts) != 5 or parts[1] not in (LEASE, TICKET) or len(parts[2]) > 10 or len(parts[3]) != 2:
        return None
    try:
        number, count = (int(digit, 16) for digit in parts[3].decode("ascii"))
        return parts[1], parts[2].decode("ascii"), number, count, parts[4]
    except ValueError:
        return None


def joined(pieces: Dict[int, bytes], count: int) -> Optional[list]:
    """The values of a notice; None while pieces are missing, or for nonsense."""
    if sorted(pieces) != list(range(count)):
        return None
    try:
        values = json.loads(b"".join(pieces[number] for number in range(count)).decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None


# -- leases ------------------------------------------------------------------------------------------------------------


def lease_values(lease: Dict[str, Any]) -> List[Any]:
    """Of {"job", "who", "deployment", "owner", "cpu", "memory", "disk", "since", "past", "gpus"}.

    Of one that a quota counts also "team", "priority" and "waited_s": its place in the line when it was granted.
    """
    amounts = [round(lease["cpu"], 3), _mib(lease["memory"]), _mib(lease["disk"]), int(lease["since"])]
    names = [lease[key] for key in ("job", "who", "deployment", "owner")]
    counted = [lease["team"], _PRIORITIES.index(lease["priority"]), int(lease["waited_s"])] if "team" in lease else []
    return [*names, *amounts, lease["past"], [gpu_hash(uuid) for uuid in lease["gpus"]], *counted]


def lease(values: list) -> Optional[Dict[str, Any]]:
    """The same, from a notice; the GPUs as hashes. None when it is none."""
    if len(values) < 10 or not all(_is_name(value) for value in values[:4]) or not _is_past(values[8]):
        return None
    if not all(_is_number(value) for value in values[4:8]) or not isinstance(values[9], list):
        return None
    job, who, deployment, owner, cpu, memory, disk, since, past, gpus = values[:10]
    sizes = {"cpu": cpu, "memory": memory * _MIB, "disk": disk * _MIB, "since": since, "past": past}
    names = {"job": job, "who": who, "deployment": deployment, "owner": owner}
    return {**names, **sizes, "gpus": [str(gpu) for gpu in gpus[:64]], **_counted(values[10:13])}


def _counted(values: list) -> Dict[str, Any]:
    """What only leases say that a quota counts."""
    if len(values) < 3 or not _is_name(values[0]) or values[1] not in (0, 1, 2) or not _is_number(values[2]):
        return {}
    return {"team": values[0], "priority": _PRIORITIES[int(values[1])], "waited_s": max(0, int(values[2]))}


def gpu_hash(uuid: str) -> str:
    return layout.letters(uuid.encode("utf-8", "replace"), 6)


# -- tickets -----------------------------------------------------------------------------------------------------------


def ticket_values(ticket: Dict[str, Any], until: float) -> List[Any]:
    """Of a ticket as queueing.py has it, with "who" and "since"."""
    demand, within = ticket["demand"], ticket.get("within") or {}
    wishes = [
        [wish.get("type") or "", wish.get("count", 1), _mib(wish.get("memory_min")), _mib_down(wish.get("memory_max"))]
        for wish in demand.get("gpus") or ()
    ]
    amounts = [demand.get("cpu") or 0, _mib(demand.get("memory")), _mib(demand.get("disk"))]
    names = [ticket["who"], ticket["deployment"], ticket["owner"]]
    rank = [_PRIORITIES.index(ticket["priority"]), round(ticket["since"], 2), math.ceil(until), int(ticket["reserves"])]
    team = [ticket["team"], ticket.get("team_max_gpus")] if ticket.get("team") else []
    return [*names, *rank, *amounts, ticket.get("max_gpus"), wishes, within or 0, *team]


def ticket(values: list) -> Optional[Tuple[Dict[str, Any], float]]:
    """(the same, until when it counts) from a notice; None when it is none. queueing.py judges what it asks for."""
    if len(values) < 13 or not all(_is_name(value) for value in values[:3]):
        return None
    if not all(_is_number(value) for value in (*values[3:7], *values[8:10])) or values[3] not in (0, 1, 2):
        return None
    who, deployment, owner, priority, since, until, reserves, cpu, memory, disk, most, wishes, within = values[:13]
    if not isinstance(wishes, list) or not all(_is_wish(wish) for wish in wishes):
        return None
    team, team_most = values[13:15] if len(values) > 14 else ("", None)
    if not _is_name(team):
        return None
    demand = {"cpu": cpu, "memory": memory * _MIB, "disk": disk * _MIB, "gpus": [_wish(wish) for wish in wishes]}
    found = {
        "who": who,
        "deployment": deployment,
        "owner": owner,
        "priority": _PRIORITIES[int(priority)],
        "since": since,
        "reserves": bool(reserves),
        "demand": demand,
        "max_gpus": most,
        "team": team,
        "team_max_gpus": team_most,
        "within": within or None,
    }
    return found, float(until)


def _is_wish(wish: Any) -> bool:
    if not isinstance(wish, list) or len(wish) != 4:
        return False
    kind = wish[0]
    if not (isinstance(kind, str) and kind.isprintable() and len(kind) <= 100):  # it is shown to people
        return False
    return all(value is None or _is_number(value) for value in wish[1:])


def _wish(wish: list) -> Dict[str, Any]:
    kind, count, least, most = wish
    limit = None if most is None else most * _MIB + _MIB - 1
    return {"type": kind, "count": count, "memory_min": (least or 0) * _MIB, "memory_max": limit}


def _is_name(value: Any) -> bool:
    return value == "" or layout.is_name(value)


def _is_past(value: Any) -> bool:
    """ "" or a job by the name that it has in the line (census.claimed_by)."""
    name, _, uid = value.partition("@") if isinstance(value, str) else ("?", "", "")
    return value == "" or (layout.is_name(name) and uid.isdigit() and len(uid) < 12)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_FAR < value < _FAR  # no nan, either


def _mib(size: Any) -> int:
    return -int(-(size or 0) // _MIB)


def _mib_down(size: Any) -> Optional[int]:
    return None if size is None else int(size // _MIB)
