"""Folders of the pool's storage for one job: a link each, below a directory of the job's own.

    $JOBDEPLOY_VOLUMES_DIR/mnt/data -> <storage root>/<path>

Where a job has a file system of its own (a container) the variable is empty and the volume lies at /mnt/data itself, so
`"$JOBDEPLOY_VOLUMES_DIR/mnt/data"` is right in both. What a job asks for lies below the storage's root, all links
resolved; nothing keeps its processes from going elsewhere by themselves, or from writing to a read-only volume.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Dict, List

from airflow_jobdeploy.hostside import environment, files
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.steps import SetupError, parts_of


def attach(job: Job, home: str) -> Dict[str, str]:
    """Make the links of a job's volumes; what its environment says of them. SetupError; OSError on a full disk."""
    wanted = job.plan().get("volumes") or []
    if not wanted:
        return {}
    root = _root(job, home)
    for volume, link in zip(wanted, links(job)):
        target = find(root, volume["path"], make=not volume.get("read_only"))
        files.private_dir(os.path.dirname(link))
        os.symlink(target, link)
    return {"JOBDEPLOY_VOLUMES_DIR": job.paths.volumes}


def links(job: Job) -> List[str]:
    """The paths at which a job finds its volumes."""
    return [os.path.join(job.paths.volumes, *parts_of(volume["link"])) for volume in job.plan().get("volumes") or []]


def stored(job: Job, path: str, home: str) -> str:
    """The folder of a dataset that is used where it is in the storage; of one file a folder with a link to it."""
    found = find(_root(job, home), path, make=False)
    if os.path.isdir(found):
        return found
    folder = files.private_dir(job.paths.dataset)
    os.symlink(found, os.path.join(folder, path.rsplit("/", 1)[-1]))
    return folder


def _root(job: Job, home: str) -> str:
    """The real path of the storage's root. One that is shared must be there: else it may not be mounted."""
    storage = job.plan().get("storage") or {}
    root = environment.expand(storage["root"], home)
    if not os.path.isdir(root) and not storage.get("shared"):
        try:
            os.makedirs(root, mode=0o700, exist_ok=True)
        except OSError as error:
            raise SetupError("cannot make the pool's storage %s: %s" % (root, error.strerror)) from None
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "is not there"
        raise SetupError("the pool's shared storage %s %s on this worker: is it mounted?" % (root, what))
    return os.path.realpath(root)


def find(root: str, path: str, make: bool) -> str:
    """The real path of `path` below the real path `root`; with `make` folders that are missing are made.

    SetupError when it is missing otherwise, or leads out of `root`.
    """
    parts = parts_of(path) if path else ()
    found = os.path.realpath(os.path.join(root, *parts))
    if not _is_inside(found, root):
        raise SetupError("storage:%s leads out of the pool's storage %s, by a link to %s" % (path, root, found))
    if make and not os.path.exists(found):
        _make(root, found, path)
    if not os.path.exists(found):
        raise SetupError("storage:%s is not in the pool's storage: there is no %s on this worker" % (path, found))
    if not os.access(found, os.R_OK | (os.X_OK if os.path.isdir(found) else 0)):
        raise SetupError("storage:%s cannot be read by this account: %s" % (path, found))
    return found


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _make(root: str, found: str, path: str) -> None:
    """Make the folders of a real path, each as open to others as the one it lies in: storage may serve several."""
    folder = root
    for part in os.path.relpath(found, root).split("/"):
        outer, folder = folder, os.path.join(folder, part)
        try:
            mode = stat.S_IMODE(os.stat(outer).st_mode)
            os.mkdir(folder, 0o700)
            os.chmod(folder, mode)
        except FileExistsError:  # also when another job is as quick
            pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SetupError("cannot make storage:%s, %s: %s" % (path, folder, error.strerror)) from None
    if os.path.realpath(found) != found:  # somebody has put a link there meanwhile
        raise SetupError("storage:%s leads out of the pool's storage %s" % (path, root))
