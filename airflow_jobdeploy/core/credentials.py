"""Passwords and tokens that files of other systems hold: accepted with a warning; never recorded, sent or logged.

They are taken out before anything else looks at what a file says, and problems of its YAML do not show them.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_jobdeploy.core.source import Item

#: Wherever they stand.
CREDENTIALS = ("email", "password", "primeway_api_token")
#: In these, names are the user's own: a variable may well be called `email`.
_OWN_NAMES = ("env", "secret_env")
_LINE = re.compile(rf"^([^#]*?[\"']?\b({'|'.join(CREDENTIALS)})\b[\"']?\s*:\s*).+$", re.MULTILINE)


def masked(text: str) -> str:
    """YAML with "..." for what follows the name of a credential in its line."""
    return _LINE.sub(r"\1...", text)


def without_credentials(item: Item, warnings: list[str]) -> Item:
    """`item` without credentials in it, however deep; each is a warning that names its line, and not its value."""
    return item.holding(_without(item, warnings))


def _without(item: Item, warnings: list[str]) -> Any:
    if isinstance(item.value, list):
        return [_without(element, warnings) for element in item.elements()]
    if not isinstance(item.value, dict):
        return item.value
    kept = {}
    for name, child in item.fields():
        if name in CREDENTIALS:
            warnings.append(f"{child.where}: {name} is not needed here and is not kept. Remove it from the file.")
        else:
            kept[name] = child.value if name in _OWN_NAMES else _without(child, warnings)
    return kept
