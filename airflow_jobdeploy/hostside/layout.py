"""Names and places on a worker: the one authority for paths. Layout 1.

    <root>/                                   0700
      machine                                 random id of this root (see identity.py)
      runner/<digest>/                        airflow_jobdeploy/hostside/, as sent
      hosts/<machine>/
        jobs/<job id>/                        one attempt (JobPaths)
        incoming/<random>/                    job directories being built; renamed into jobs/ = the claim
        uids/<uid>/checkpoint/                survives attempts
        resources/<resource id>/              what an `up` left (ResourcePaths)
        slots/<pool>/<n>                      one lock file a slot
        trash/                                directories on their way out
      store/                                  content, for all machines that share the root (StorePaths)
        trees/<name>/                         bundles and datasets: tree/, manifest.json (TreePaths)
        envs/<name>/                          a virtual environment (EnvPaths)
        incoming/<name>/                      a tree that arrives; stays when it is cut, to be gone on with
        trash/                                directories on their way out
        lock                                  held while a tree is given to a job, published or evicted
    /tmp/jd-<user id>/<short id>/             TMUX_TMPDIR and TMPDIR of one resource or job

The layout is a compatibility contract: fields and files are only added. A directory whose `layout`
is newer than ours is never touched.
"""

from __future__ import annotations

import os
import re
import sys

try:  # Python's own: that of hashlib is OpenSSL, which would be 0.6 MB of every supervisor
    sha256 = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256").sha256
except ImportError:
    from hashlib import sha256

#: Version of everything below; a newer one found on disk is reported, never touched.
LAYOUT = 1

_NAME = re.compile(r"[a-z0-9-]{1,40}\Z")


def job_id(uid: str, attempt: int) -> str:
    """`j` + 20 base32 characters of sha256(uid, attempt): the same for whoever computes it."""
    return "j" + letters(("%s,%d" % (uid, attempt)).encode(), 20)


def letters(data: bytes, count: int) -> str:
    """The first `count` (at most 51) characters of the sha256 of `data` in base32 (RFC 4648), in lower case."""
    number = int.from_bytes(sha256(data).digest(), "big")
    return "".join("abcdefghijklmnopqrstuvwxyz234567"[number >> (251 - 5 * place) & 31] for place in range(count))


def short(*parts: str) -> str:
    """8 characters that follow from `parts`."""
    return letters("\n".join(parts).encode("utf-8", "surrogateescape"), 8)


def is_name(name: object) -> bool:
    """Is this a name we could have made: `[a-z0-9-]{1,40}`?"""
    return isinstance(name, str) and bool(_NAME.match(name))


def checked_name(name: object) -> str:
    """`name` if it may become part of a path, else ValueError."""
    if not is_name(name):
        raise ValueError("not a name of ours: %r" % (name,))
    return str(name)


class HostPaths:
    """Where one host keeps its state below a root."""

    def __init__(self, root: str, machine: str) -> None:
        self.root = root
        #: A folder for each release of the runner that was sent here, named by its digest (bootstrap.py).
        self.runners = os.path.join(root, "runner")
        self.machine = machine
        self.host = os.path.join(root, "hosts", checked_name(machine))
        self.jobs = os.path.join(self.host, "jobs")
        self.incoming = os.path.join(self.host, "incoming")
        self.trash = os.path.join(self.host, "trash")
        self.uids = os.path.join(self.host, "uids")
        self.resources = os.path.join(self.host, "resources")
        self.slots = os.path.join(self.host, "slots")
        #: What a login shell said of PATH, and when.
        self.login = os.path.join(self.host, "login.json")
        #: The GPUs that were seen last, and when.
        self.gpus = os.path.join(self.host, "gpus.json")
        #: There while the host takes no new jobs (cordon.py).
        self.cordon = os.path.join(self.host, "cordon.json")
        self.store = StorePaths(os.path.join(root, "store"))
        self.envs = os.path.join(self.store.dir, "envs")

    def env(self, name: str) -> EnvPaths:
        return EnvPaths(os.path.join(self.envs, checked_name(name)))

    def job(self, job: str) -> JobPaths:
        return JobPaths(os.path.join(self.jobs, checked_name(job)))

    def resource(self, resource: str) -> ResourcePaths:
        return ResourcePaths(os.path.join(self.resources, checked_name(resource)))

    def uid(self, uid: str) -> str:
        return os.path.join(self.uids, checked_name(uid))

    def checkpoint(self, uid: str) -> str:
        return os.path.join(self.uid(uid), "checkpoint")

    def pool_slots(self, pool: str) -> str:
        """The folder of a pool's slots; names of pools are Airflow's and may hold any character."""
        return os.path.join(self.slots, pool if is_name(pool) else "x" + short(pool))

    def temporary(self, user: int, name: str) -> str:
        """TMUX_TMPDIR and TMPDIR of a resource or job: tmux fails near 100 bytes, so not below the root."""
        return os.path.join("/tmp", "jd-%d" % user, short(self.host, name))


class StorePaths:
    """What can be had again, by name: kept while it is used and as long as there is room (evict.py)."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        self.trees = os.path.join(directory, "trees")
        self.incoming = os.path.join(directory, "incoming")
        self.trash = os.path.join(directory, "trash")
        self.lock = os.path.join(directory, "lock")

    def tree(self, name: str) -> TreePaths:
        return TreePaths(os.path.join(self.trees, checked_name(name)))

    def arriving(self, name: str) -> TreePaths:
        return TreePaths(os.path.join(self.incoming, checked_name(name)))


class TreePaths:
    """One tree, or what has come of it."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        #: The files, 0444 or 0555, and folders, 0555; all changed last at one moment long ago (store.MTIME_S).
        self.tree = os.path.join(directory, "tree")
        self.manifest = os.path.join(directory, "manifest.json")
        #: Held (flock): shared by whoever uses it, exclusively by who brings or removes it. Changed last = used last.
        self.lock = os.path.join(directory, "lock")
        #: {"files", "bytes"}
        self.facts = os.path.join(directory, "facts.json")


class JobPaths:
    """The files of one attempt."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        join = os.path.join
        #: What was asked for (a plan as JSON), without secrets; written once, at the claim.
        self.plan = join(directory, "plan.json")
        #: Environment values that must not be shown; 0600, removed at the end.
        self.secrets = join(directory, "secrets.json")
        #: Held by the supervisor (flock) for life.
        self.lock = join(directory, "lock")
        #: Phase, pids, boot, times: made at the claim, rewritten by the supervisor at each change.
        #: Two files take turns (files.write_swapped), so that a full disk does not stop it.
        self.state = join(directory, "state.json")
        self.state_reserve = join(directory, "state.reserve")
        #: How it ended. Written once; its block is reserved at the claim as `exit_reserve`.
        self.exit = join(directory, "exit.json")
        self.exit_reserve = join(directory, "exit.reserve")
        #: Order to stop: {"reason", "grace_s", "by"}.
        self.stop = join(directory, "stop.json")
        #: Order to make room: {"reason", "by", "signal", "grace_s"}; the job is SUSPENDED, to go on as a later attempt.
        self.preempt = join(directory, "preempt.json")
        #: When somebody who waits for the job last asked for it (orphan.py); only where `on_orphan: stop` holds.
        self.asked = join(directory, "asked")
        #: Lines of "seconds token": what was added to its life_span (life.py).
        self.life = join(directory, "life")
        #: {"job_id", "attempt", "worker"} of the attempt that has taken this one's place.
        self.moved = join(directory, "moved.json")
        #: {"job"}: a `down` is at work; an `up` that ends meanwhile, its exit unknown, was taken down.
        self.takedown = join(directory, "takedown.json")
        #: {"owner": "task" | "none"}; missing: what the plan says.
        self.owner = join(directory, "owner.json")
        #: stdout and stderr of the command, byte for byte.
        self.log = join(directory, "log")
        #: {"dropped_until": offset, "dropped_bytes": n}: what the cap removed from the head of the log.
        self.log_cap = join(directory, "log_cap.json")
        #: The supervisor's own complaints.
        self.supervisor_log = join(directory, "supervisor.log")
        #: {"gpus": [uuid]}: GPUs that it was seen to use without holding them.
        self.strayed = join(directory, "strayed.json")
        #: {"name"} of its virtual environment, or {"error", "disk"}: why that could not be made.
        self.environment = join(directory, "environment.json")
        #: {"work": name, "dataset": name}: what of the store it was given, before its start.
        self.trees = join(directory, "trees.json")
        self.work = join(directory, "work")
        self.output = join(directory, "output")
        self.manifest = join(directory, "manifest.json")
        self.result = join(directory, "result.json")
        self.exit_file = join(directory, "exit_file")
        self.messages = join(directory, "messages.jsonl")
        #: What all messages come to (messages.Digest.summary), once ended; and metrics.csv before it has its place.
        self.told = join(directory, "told.json")
        self.metrics = join(directory, "metrics.new")
        #: $JOBDEPLOY_VOLUMES_DIR: links to folders of the pool's storage.
        self.volumes = join(directory, "volumes")
        #: The dataset's folder where it has none of its own: with a link to its one file, or empty.
        self.dataset = join(directory, "dataset")
        #: Scripts of a job spec (`command`), 0600.
        self.scripts = join(directory, "scripts")


class ResourcePaths:
    """The files of one resource: what `up` made and `down` will need."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        join = os.path.join
        self.lock = join(directory, "lock")
        #: {"layout", "id", "template", "digest", "params", "created", "stopped", "workdir", "subdir", "jobs"}.
        self.record = join(directory, "record.json")
        #: All builds as rendered at `up`, 0600.
        self.builds = join(directory, "builds.json")
        #: The shipped project, when there was one: the resource's working directory.
        self.work = join(directory, "work")


class EnvPaths:
    """The files of one virtual environment (envs.py)."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        join = os.path.join
        #: Exclusive: being made or removed; shared: in use.
        self.lock = join(directory, "lock")
        #: {"job", "host", "pid"} of who makes it.
        self.building = join(directory, "building.json")
        self.requirements = join(directory, "requirements.txt")
        self.constraints = join(directory, "constraints.txt")
        self.venv = join(directory, "venv")
        #: Written last; its time is the last use.
        #: {"packages", "made_with", "python", "made_by", "files", "bytes", "checked"}
        self.ready = join(directory, "ready.json")
