"""Is this the GPU that was asked for? Names as drivers print them, against names as people write them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import FrozenSet, Tuple

#: Words that say who made it, or which line it is sold in; people leave them out, drivers do not always print them.
_MAKERS = frozenset(("nvidia", "amd", "intel", "geforce", "tesla", "radeon", "instinct", "quadro", "gpu"))
#: Of those, the words that tell one maker from another; a name without any is NVIDIA's.
_OF_MAKERS = {"amd": "amd", "radeon": "amd", "instinct": "amd", "intel": "intel"}


@lru_cache(maxsize=4096)
def is_model(wanted: str, model: str) -> bool:
    """Does `wanted` ("A100", "rtx4090", "nvidia-tesla-v100", "A100 80GB") name `model` ("NVIDIA A100-SXM4-80GB")?

    Every word of `wanted` must be a word of `model` ("A10" is no "A100"); spaces, dashes and case do not matter.
    Nothing asked for ("") is any model, "NVIDIA" and "AMD" are any of theirs.
    """
    if _maker(wanted) not in ("", _maker(model) or "nvidia"):
        return False
    asked = tuple(word for word in _words(wanted) if word not in _MAKERS)
    has = tuple(word for word in _words(model) if word not in _MAKERS)
    return set(asked) <= set(has) or "".join(asked) in _joined(has)


def _maker(text: str) -> str:
    words = _words(text)
    found = next((_OF_MAKERS[word] for word in words if word in _OF_MAKERS), "")
    return found or ("nvidia" if "nvidia" in words else "")


def _words(text: str) -> Tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def _joined(words: Tuple[str, ...]) -> FrozenSet[str]:
    """All that neighbours make when written as one: rtx4090, a100sxm4."""
    starts = range(len(words))
    return frozenset("".join(words[i : j + 1]) for i in starts for j in starts if j >= i)
