"""Addresses of git repositories and names of commits: which of them are given to git."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_jobdeploy.core.kinds import Problems, Schema, Text, expected
from airflow_jobdeploy.core.source import Item, suggestion

#: What a repository may be reached by; anything else could run a program, or say what is secret.
SCHEMES = ("https", "ssh", "git", "file")
#: What `dirty` may be: send uncommitted changes, or refuse them.
INCLUDE, REFUSE = "include", "refuse"


def url_fault(url: str) -> str:
    """Why git is not given this address; "" when it is."""
    if url.startswith("-") or not url.strip() or re.search(r"[\x00-\x1f\x7f]", url):
        return "is no address of a repository"
    scheme, separator, rest = url.partition("://")
    if separator and "::" not in scheme:
        if scheme not in SCHEMES:
            return f"begins with {scheme}://; use {', '.join(f'{known}://' for known in SCHEMES)}, or a path"
        userinfo, _, host = rest.partition("/")[0].rpartition("@")
        if userinfo and (scheme != "ssh" or ":" in userinfo):
            return "holds a user or password: keep them in git's credential helper, or use an SSH key"
        return "names a host that begins with '-'" if host.startswith("-") or userinfo.startswith("-") else ""
    if "::" in url.partition("/")[0]:
        return "would run a program (transport::address)"
    return ""


def ref_fault(ref: str) -> str:
    """Why this is no branch, tag or commit that could be asked for; "" when it may be one."""
    if ref.startswith(("-", "^")):
        return f"begins with {ref[0]!r}"
    if re.search(r"[\x00-\x20\x7f:?*\[\\]|\.\.", ref):
        return "holds a character that no branch, tag or commit has"
    return ""


@dataclass(frozen=True)
class Repository:
    """An address of a git repository: https, ssh (or user@host:path), git, file, or a path here."""

    def read(self, item: Item, problems: Problems) -> str | None:
        url = Text().read(item, problems)
        fault = url_fault(url) if url is not None else ""
        if fault:
            problems.append(item.problem(f"the address {fault}."))
            return None
        return url

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Ref:
    """A branch, tag or commit; `HEAD~2` and the like as well."""

    def read(self, item: Item, problems: Problems) -> str | None:
        ref = Text().read(item, problems)
        fault = ref_fault(ref) if ref is not None else ""
        if fault:
            problems.append(item.problem(f"{ref!r} {fault}."))
            return None
        return ref

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Dirty:
    """`include` or `refuse`; true and false mean the same."""

    def read(self, item: Item, problems: Problems) -> str | None:
        value = item.value.strip().lower() if isinstance(item.value, str) else item.value
        if isinstance(value, bool) or value in ("true", "false"):
            return INCLUDE if value in (True, "true") else REFUSE
        if value in (INCLUDE, REFUSE):
            return str(value)
        hint = suggestion(value, (INCLUDE, REFUSE)) if isinstance(value, str) else ""
        expected(item, f"{INCLUDE} or {REFUSE}", problems, hint)
        return None

    def schema(self) -> Schema:
        return {"enum": [INCLUDE, REFUSE, True, False]}
