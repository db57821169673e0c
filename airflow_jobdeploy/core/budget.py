"""How much one rendering may do: a count that every operation pays into, so that no template hangs or eats memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from string import Formatter
from typing import Any

from jinja2 import Undefined

#: Longest text that one operation, or one whole template text, may make.
MAX_TEXT = 1 << 20
#: Work of one rendering: characters made or read, list items, loop rounds.
MAX_WORK = 8_000_000
#: Rounds of all loops and calls of one rendering.
MAX_ROUNDS = 50_000
#: Widths and precisions in formats.
MAX_WIDTH = 1000
#: Integers have at most this many bits (1233 digits).
MAX_BITS = 4096

#: A conversion of `%`: its width and precision (stdtypes, "printf-style String Formatting").
_CONVERSION = re.compile(r"%(?:\([^)]{0,100}\))?[#0 +-]*(\*|\d*)(?:\.(\*|\d*))?")
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict, range)


class RefusedError(Exception):
    """A template text does what templates may not do."""


class TooMuchError(RefusedError):
    """A template text asks for more than the limits above."""


class Budget:
    """What is left of one rendering."""

    def __init__(self) -> None:
        self.work = MAX_WORK
        self.rounds = MAX_ROUNDS

    def pay(self, amount: int) -> None:
        """Raise TooMuchError when `amount` more is too much, before it is made."""
        self.work -= amount
        if amount > MAX_TEXT or self.work < 0:
            raise TooMuchError(f"makes more than {MAX_TEXT >> 20} MiB of text, or works too long")

    def round(self) -> None:
        """One round of a loop, or one call."""
        self.rounds -= 1
        if self.rounds < 0:
            raise TooMuchError(f"loops more than {MAX_ROUNDS} times")
        self.pay(1)

    def settle(self, value: Any) -> Any:
        """Pay for `value`, which has been made; generators and views become lists, so that they can be measured."""
        if isinstance(value, Undefined):
            return value  # whoever uses it says what is missing
        if not isinstance(value, _PLAIN) and isinstance(value, Iterable) and not hasattr(value, "__html__"):
            value = list(islice(value, MAX_TEXT))
        self.pay(measured(value))
        return value


def measured(value: Any) -> int:
    """The size of `value` written out, roughly; stops counting beyond MAX_TEXT."""
    total, queue = 0, [value]
    while queue and total <= MAX_TEXT:
        part = queue.pop()
        if isinstance(part, (str, range)):
            total += len(part) + 1
        elif isinstance(part, dict):
            total += len(part)
            queue.extend((*part.keys(), *part.values()))
        elif isinstance(part, (list, tuple)):
            total += len(part)
            queue.extend(part)
        elif isinstance(part, Undefined) and part is not value:
            part._fail_with_undefined_error()  # its repr() would be printed otherwise
        else:
            total += 1 + (part.bit_length() // 3 if isinstance(part, int) else 0)
    return total


def check_product(left: Any, right: Any) -> int:
    """The size of `left * right`, before it is made."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise TooMuchError("makes a number of more than 1000 digits")
        return 1
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, (str, list, tuple)):
            return measured(many) * max(times, 0)
    return 1


def check_power(base: Any, exponent: Any) -> None:
    """Refuse `base ** exponent` where the result is a huge number."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise TooMuchError("makes a number of more than 1000 digits")


def percent_size(text: str) -> int:
    """The size of `text % ...` without its values, at most. Raises TooMuchError for wide fields."""
    return len(text) + sum(_width(part) for found in _CONVERSION.findall(text) for part in found)


def format_size(text: str) -> int:
    """The size of `text.format(...)` without its values, at most. Raises TooMuchError for wide fields."""
    specs = [spec or "" for _, _, spec, _ in Formatter().parse(text)]
    return len(text) + sum(_width(part) for spec in specs for part in re.findall(r"\d+|\{", spec))


def _width(text: str) -> int:
    if text in ("*", "{") or len(text) > 3:
        raise TooMuchError(f"formats with a width that may pass {MAX_WIDTH - 1}")
    return int(text or 0)


def replaced_size(text: str, old: str, new: str) -> int:
    """The size of `text.replace(old, new)`, at most."""
    return len(text) + (len(text) // max(len(old), 1) + 1) * len(new)


def joined_size(parts: Any, separator: str) -> int:
    """The size of `separator.join(parts)`, at most."""
    return measured(parts) + len(parts) * len(separator)
