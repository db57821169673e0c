"""Remote repositories: their URLs without what is secret, and the web page of a commit where the forge is known."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit

#: user@host:path, as scp has it; not C:\path, not ./a:b.
_SCP = re.compile(r"(?:(?P<user>[\w.~+-]+)@)?(?P<host>[\w.-]{2,}):(?!/)(?P<path>[^:\\]+)\Z")
#: Host names of forges, and how the page of a commit is called there.
_PAGES = (
    (re.compile(r"(^|\.)gitlab\."), "{repo}/-/commit/{commit}"),
    (re.compile(r"(^|\.)bitbucket\.org$"), "{repo}/commits/{commit}"),
    (re.compile(r"(^|\.)(github\.|codeberg\.org$|gitea\.|forgejo\.)|^git\.sr\.ht$"), "{repo}/commit/{commit}"),
)


def without_secrets(url: str) -> str:
    """A remote's URL without user and password; of SSH URLs the user stays, who is no secret. "" for a local path."""
    if _SCP.match(url):
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname:
        return ""
    user = f"{parts.username}@" if parts.username and parts.scheme == "ssh" else ""
    return urlunsplit((parts.scheme, f"{user}{_place(parts)}", parts.path, "", ""))


def _place(parts: object) -> str:
    place = str(parts.netloc).rpartition("@")[2]  # type: ignore[attr-defined]
    return place if re.fullmatch(r"[\w.:\[\]-]+", place) else ""


def page(url: str, commit: str) -> str:
    """The web page of a commit, or "" where the forge is not known."""
    scp = _SCP.match(url)
    if scp is not None:
        host, path, port = scp["host"], scp["path"], ""
    else:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname:
            return ""
        host, path = parts.hostname, parts.path
        port = _place(parts).removeprefix(host) if parts.scheme in ("https", "http") else ""
    repo = f"https://{host}{port}/{quote(path.strip('/').removesuffix('.git'), safe='/~')}"
    for known, form in _PAGES:
        if known.search(host.lower()):
            return form.format(repo=repo, commit=commit)
    return ""
