"""Numbers as people say them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """ "12 s", "14 min", "3 h 5 min", "2 d 4 h": as people say it."""
    if seconds is None:
        return "an unknown time"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = minutes % 1440 // 60
    return f"{minutes // 1440} d {hours} h" if hours else f"{minutes // 1440} d"


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    if abs(count) < 1024:
        return counted(round(count), "byte")
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if abs(count) < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """ "1 file", "3 files"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
