"""Trees on an engine: by content, read-only for jobs, whole or not there.

All lie in one volume, so that files which another tree has are hard links; each whole one is shown as a volume of its
own, made last: that volume is the tree's name, and all that a job sees. Files arrive as tar streams, in turns that are
noted: what has been noted is not sent again (transfer.py). A tar stream cannot go on in the middle of a file: large
ones arrive in parts, and a container of an image that is there anyway puts them together (joining.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from airflow_jobdeploy.backends.base import Progress, TreeBusy, TreeReport
from airflow_jobdeploy.backends.engine import config, names
from airflow_jobdeploy.backends.engine.api import EngineError
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.transfer import STORE, WHOLE, Transfer, noted
from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside import layout
from airflow_jobdeploy.hostside import manifest as manifests

#: Who brings a tree, and says nothing for so long, was killed, in seconds.
_HELD_S = 120.0


def has(places: Places, name: str) -> bool:
    """See `Backend.has_tree`. Jobs cannot write to a tree: one that was whole when it was shown has stayed so, unless
    the engine has lost its files; then its name goes, too."""
    if is_shown(places, name):
        if _is_whole(places, name):
            return True
        places.remove_volume(names.tree_volume(name))  # not while a job has it: it is filled again in its place
    _check_free(places, name)
    return False


def is_shown(places: Places, name: str) -> bool:
    """Is there the volume of a whole tree, and not one that an engine has made for want of it?"""
    labels: Mapping[str, str] = places.volume_labels(names.tree_volume(name)) or {}
    return labels.get(names.KIND) == names.TREE_KIND


def _is_whole(places: Places, name: str) -> bool:
    place = f"{names.TOP}/place"
    try:
        with places.helper({names.tree_volume(name): place}) as helper:
            return WHOLE in places.small(helper, f"{place}/{WHOLE}", 0)
    except EngineError as error:
        if error.is_broken_mount:
            return False
        raise


def _check_free(places: Places, key: str) -> None:
    """TreeBusy while somebody brings it; a holder that was killed is removed."""
    # Not asked of that container itself: it answers nothing while a stream comes in through it.
    found = places.listed(names.fill_holder(key))
    if found is None:
        return
    with places.helper({names.STORE_VOLUME: STORE}) as helper:
        note = noted(places, helper, key)
    said = max(float(found.get("Created") or 0.0), float(note.get("at") or 0.0))
    if places.now() - said > _HELD_S:
        places.remove_container(found["Id"], force=True)
        return
    done, todo = int(note.get("done") or 0), int(note.get("todo") or 0)
    raise TreeBusy(f"{places.worker}: another session is bringing the same tree", done_bytes=done, todo_bytes=todo)


def send(places: Places, source: TreeSource, progress: Progress, shells: Sequence[str]) -> TreeReport:
    """See `Backend.send_tree`. `shells`: images that may be on the engine, and have a shell."""
    manifest = source.manifest
    try:
        manifests.read(manifest.text)
    except manifests.BadManifest as error:
        raise StagingError(f"the tree could not be brought to {places.worker}: {error}") from error
    name = manifest.name if manifest.is_known else ""
    if name and has(places, name):
        return TreeReport(name=name, files=manifest.files, bytes=manifest.bytes, manifest=manifest)
    # What nobody has read, and nothing tells apart from another time, is sent anew.
    state = source.version.encode() or os.urandom(16)
    key = name or "i" + layout.letters(manifest.text + b"\n" + state, 32)
    with _held(places, key) as container:
        return Transfer(places, container, key, source, progress, shells).run()


@contextlib.contextmanager
def _held(places: Places, key: str) -> Iterator[str]:
    """The container through which one tree is brought: its name is taken meanwhile. TreeBusy."""
    places.make_volume(names.STORE_VOLUME, {names.KIND: names.OTHER_KIND})
    try:
        container = places.create(names.fill_holder(key), config.helper({names.STORE_VOLUME: STORE}))
    except EngineError as error:
        if error.is_conflict:
            _check_free(places, key)
            raise TreeBusy(f"{places.worker}: another session is bringing the same tree") from error
        raise
    try:
        yield container
    finally:
        places.remove_container(container, force=True)
