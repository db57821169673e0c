"""The files of a job in its container's configuration: the shell that is to run the job makes them first.

To copy files into a container takes an engine about half as long as to run one. It is done all the same with what is
too large for a variable, or not to be shown by `docker inspect`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.backends.engine import names, script
from airflow_jobdeploy.backends.engine.tar import Member
from airflow_jobdeploy.core.plan import Plan

#: The kernel's limit of one variable is 128 KiB.
LIMIT_BYTES = 96 * 1024
_PROGRAM, _FILES = "JOBDEPLOY_INIT", "JOBDEPLOY_FILES"
_ROOT = ("", "0", "root")


def text_of(plan: Plan, members: Sequence[Member]) -> str:
    """The files as a program of a shell; "": they are to be copied.

    So are those of builds, which may hold what a template's secrets became, and of whoever has secrets at all.
    """
    if plan.resource_id or plan.secret_env:
        return ""
    folders = " ".join(shlex.quote(member.path) for member in members if member.data is None and member.path != ".")
    made = [f"mkdir -p {folders} && chmod 777 . && umask 022"]
    try:
        made += [_written(member) for member in members if member.data is not None and member.path != script.PROGRAM]
    except UnicodeDecodeError:
        return ""
    text = f"umask 0\ncd {names.JOB} &&\n" + " &&\n".join(made)
    # A container that is started again finds them.
    text = f"[ -d {names.REPORT}/begun ] || (\n{text}\n) || exit {names.NO_ROOM_CODE}\nunset {_PROGRAM} {_FILES}\n"
    return text if len(text.encode()) < LIMIT_BYTES and "\0" not in text else ""


def _written(member: Member) -> str:
    path, data = shlex.quote(member.path), member.data or b""
    if data and not data.strip(b"\0"):
        return f"printf '%0{len(data)}d' 0 >{path}"
    return f"printf %s {shlex.quote(data.decode())} >{path}"


def is_root(user: str, described: Mapping[str, Any]) -> bool:
    """Does process 1 run as root, whose the volumes are? `user`: the pool's; `described`: the image."""
    name = user or str((described.get("Config") or {}).get("User") or "")
    return name.partition(":")[0] in _ROOT


def configured(body: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A container that gets its files so."""
    return {
        **body,
        "Entrypoint": ["/bin/sh", "-c", f'eval "${_FILES}${_PROGRAM}"', "init"],
        "Env": [*body["Env"], f"{_PROGRAM}={script.program()}", f"{_FILES}={text}"],
        "Labels": {**body["Labels"], names.FILES: names.INLINE},
    }


def is_in(labels: Mapping[str, str] | None) -> bool:
    """Has the container of these labels its files so?"""
    return (labels or {}).get(names.FILES) == names.INLINE


def kept(described: Mapping[str, Any]) -> str:
    """The text in a container, as the engine describes that."""
    found = (entry.partition("=") for entry in (described.get("Config") or {}).get("Env") or ())
    return next((text for name, _, text in found if name == _FILES), "")
