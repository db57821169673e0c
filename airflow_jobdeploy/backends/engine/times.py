"""Times as an engine writes them."""

from __future__ import annotations

from datetime import datetime, timezone

_NEVER = "0001-01-01T00:00:00Z"


def seconds(text: object) -> float | None:
    """A time of the engine (RFC 3339, nanoseconds) in seconds since 1970; None for "never"."""
    if not isinstance(text, str) or not text or text == _NEVER:
        return None
    whole, _, rest = text.partition(".")
    fraction = rest.rstrip("Z").partition("+")[0].partition("-")[0] if rest else ""
    zone = text[19:].lstrip("." + fraction) if rest else text[19:]
    moment = datetime.fromisoformat(whole[:19] + (zone if zone and zone != "Z" else "+00:00"))
    return moment.astimezone(timezone.utc).timestamp() + (float(f"0.{fraction}") if fraction.isdigit() else 0.0)
