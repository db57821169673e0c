"""The host name of a part of an Airflow whose parts share this machine: `[core] hostname_callable` names it."""

from __future__ import annotations

import os

#: The environment variable that says it.
PART = "TEST_PART"


def of_this_part() -> str:
    return os.environ.get(PART, "nobody")
