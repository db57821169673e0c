"""What a tree holds, as it is sent: a JSON list of [path, kind, size, content], sorted by path (see core/manifest.py).

It comes from outside, so nothing in it is believed: whatever could lead out of the tree, or be written twice, is
refused before a byte is written.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Set

from airflow_jobdeploy.hostside import files, layout

FILE, EXECUTABLE, LINK, FOLDER = "f", "x", "l", "d"
#: The sha256 of no bytes at all.
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

#: The most that a manifest may measure, in bytes: about a million files.
LIMIT = 128 * 1024 * 1024
#: One file may be so large, in bytes; and so many folders deep, each of which takes a descriptor of ours.
_MOST_BYTES = 1 << 50
_DEEPEST = 200

_PATH = re.compile(r"(?:(?!\.\.?(?:/|\Z))[^/\0]+(?:/|\Z))+(?<!/)\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
#: After so many links the kernel gives up (ELOOP), too.
_MOST_LINKS = 40


class BadManifest(Exception):
    """The tree is not one that we keep; the text names the entry."""


def name_of(text: bytes) -> str:
    """The name of the tree of this manifest."""
    return "t" + layout.letters(text, 32)


def parsed(text: bytes) -> List[list]:
    """The entries of a manifest that was checked when it came. files.Damaged."""
    try:
        entries = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise files.Damaged("the manifest is no JSON: %s" % error) from None
    if not isinstance(entries, list):
        raise files.Damaged("the manifest is no list")
    return entries


def written(entries: List[list]) -> bytes:
    """The canonical text, as core/manifest.py has it."""
    return json.dumps(entries, separators=(",", ":")).encode("ascii")


def read(text: bytes) -> List[list]:
    """The entries of a manifest from outside, checked. BadManifest."""
    try:
        entries = parsed(text)
    except files.Damaged as error:
        raise BadManifest(str(error)) from None
    folders: Set[str] = set()
    links: Dict[str, str] = {}
    before, folder = "", ""
    for entry in entries:
        path, kind = _checked(entry)
        if path <= before:
            raise BadManifest("%r is in the tree twice, or not in its place" % path)
        before = path
        if kind == LINK:
            links[path] = entry[3]
        above = path.rpartition("/")[0]
        if above != folder:
            folder = above
            while above and above not in folders:
                folders.add(above)
                above = above.rpartition("/")[0]
    for path, kind, _, _ in entries:
        if kind != FOLDER and path in folders:
            raise BadManifest("%r is a file or a link, and a folder of other files" % path)
    for path, target in links.items():
        if leads_out(path, target, links):
            raise BadManifest("the link %r -> %r leads out of the tree" % (path, target))
    return entries


def _checked(entry: Any) -> Any:
    """(path, kind) of one entry that is right by itself."""
    if not isinstance(entry, list) or len(entry) != 4 or not isinstance(entry[0], str):
        raise BadManifest("not an entry: %.200r" % (entry,))
    path, kind, size, content = entry
    if not _PATH.match(path):
        raise BadManifest("%r leads out of the tree, or is no path" % path)
    if not path.isascii():
        _encoded(path)
    if path.count("/") > _DEEPEST:
        raise BadManifest("%.200r lies more than %d folders deep" % (path, _DEEPEST))
    if type(size) is not int or not isinstance(content, str):
        raise BadManifest("%r has size %.50r and content %.100r" % (path, size, content))
    if kind in (FILE, EXECUTABLE):
        if not 0 <= size <= _MOST_BYTES:
            raise BadManifest("%r has %d bytes, from 0 to %d are possible" % (path, size, _MOST_BYTES))
        if content and not _SHA256.match(content):
            raise BadManifest("%r has %.100r for a sha256" % (path, content))
    elif kind == LINK and not size:
        if not content or "\0" in content or content.startswith("/") or len(_encoded(content)) > 4000:
            raise BadManifest("the link %r -> %.200r leads out of the tree" % (path, content))
    elif kind != FOLDER or size or content:
        raise BadManifest("%r is %.50r: no file, link or folder of ours" % (path, kind))
    return path, kind


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except ValueError:
        raise BadManifest("%a is no name of a file" % text) from None


def leads_out(path: str, target: str, links: Dict[str, str]) -> bool:
    """Would following it, and links on the way, leave the tree?"""
    place, hops = path.split("/")[:-1], 0
    rest = target.split("/")[::-1]
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not place:
                return True
            place.pop()
            continue
        place.append(part)
        further = links.get("/".join(place))
        if further is not None:
            hops += 1
            if hops > _MOST_LINKS:
                return False
            place.pop()
            rest += further.split("/")[::-1]
    return False


def folders_of(entries: List[list]) -> List[str]:
    """All folders of a tree but its top, each before what lies in it."""
    found: Set[str] = set()
    folder = ""
    for path, kind, _, _ in entries:
        above = path if kind == FOLDER else path.rpartition("/")[0]
        if above == folder:
            continue
        folder = above
        while above and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return sorted(found)
