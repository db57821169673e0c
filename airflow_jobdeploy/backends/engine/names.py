"""Names of what we make on an engine, and the places inside a container. One authority for both.

container <job id>                 one attempt; its name is the claim, its labels the record
volume <job id>                    what the attempt is to do, and what it reports (places below JOB); stays for
                                   `keep_for` with the container, and without it where nothing was started
volume jobdeploy-uid-<uid>         the checkpoint directory: survives attempts
volume jobdeploy-res-<resource>    what an `up` made: its record and the working directory of its builds
volume jobdeploy-<tree>            a tree by content, read-only for jobs
volume jobdeploy-slots-<pool>      one lock file a slot
volume jobdeploy-leases            who was asked for lately
volume jobdeploy-<note>-<job id>   empty; its labels say something about a job that has changed since the claim
volume jobdeploy-machine           its label is the engine's identity
volume jobdeploy-stock-<number>    empty; its label says which GPUs were seen; the highest number counts (marks.py)
volume jobdeploy-cordon-<number>   empty; its label says by whom and why the engine takes no new jobs
container jobdeploy-look           looks which GPUs there are, for a second or two
volume jobdeploy-ask-<random>      a ticket: what somebody waits for, until when this counts
volume jobdeploy-lease-<id>        a lease: which GPUs, how many cores, how much memory; for which job
volume jobdeploy-fate-<id>         whose that lease is, for good: a job's, or nobody's
volume jobdeploy-stay-<id>-<random>  code and data for the job of a lease are on their way
container jobdeploy-gpu-<uuid>     never started: the GPU is held, by the lease that its label names
container jobdeploy-fit-<job id>   never started: becomes the job's own, with the GPUs that it was granted
container jobdeploy-line           never started: held while leases are given out
container jobdeploy-x-<random>     never started: through it the volumes are read and written
a volume without a name            of a job with secrets: memory, gone with its container, emptied when it has read them
container jobdeploy-build-<key>    makes the image jobdeploy/built:<key>, or holds its name meanwhile
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.hostside import layout

#: Label of everything that is ours; its value says what it is.
KIND = "jobdeploy.kind"
JOB_KIND, TREE_KIND, UID_KIND, RESOURCE_KIND = "job", "tree", "checkpoint", "resource"
HELPER_KIND, NOTE_KIND, OTHER_KIND, SECRETS_KIND, IMAGE_KIND = "helper", "note", "other", "secrets", "image"
LEASE_KIND, FATE_KIND, STAY_KIND, TICKET_KIND = "lease", "fate", "stay", "ticket"
LINE_KINDS = (LEASE_KIND, FATE_KIND, STAY_KIND, TICKET_KIND)
#: Of a note: what it is, about which job, and its text.
NOTE, NOTED, TEXT = "jobdeploy.note", "jobdeploy.noted", "jobdeploy.text"
#: Notes about jobs: who owns it; which attempt has taken its place; that it was to
#: start, and waits for a slot; that it has got one, though it runs already; that its image is being made; that it has
#: ended without ever having run.
OWNER, MOVED, QUEUED, ADMITTED, SETUP, UNRUN = "owner", "moved", "queued", "admitted", "setup", "unrun"
JOB_NOTES = (OWNER, MOVED, QUEUED, ADMITTED, SETUP, UNRUN)
#: About a resource: the image of its `up`, where that was made for it.
PINNED = "pinned"
#: About the files of a tree: nobody can see them any more, they are to be removed.
TRASH = "trash"
#: About an engine: when it was looked for garbage.
SWEPT = "swept"
#: About an engine, by number (marks.py): which GPUs it was seen to have; by whom and why it takes no new jobs.
STOCK, CORDON = "stock", "cordon"
UID, ATTEMPT, KEY, POOL = "jobdeploy.uid", "jobdeploy.attempt", "jobdeploy.key", "jobdeploy.pool"
DEPLOYMENT, LAYOUT, PLAN, STAGE = "jobdeploy.deployment", "jobdeploy.layout", "jobdeploy.plan", "jobdeploy.stage"
RESOURCE, BUILD, MACHINE = "jobdeploy.resource", "jobdeploy.build", "jobdeploy.machine"
GPUS = "jobdeploy.gpus"
#: Of a lease: its id; what it holds, as JSON; the hash of its job's uid; the job that has taken it, or VOID. Of a
#: ticket: what it asks for, as JSON. Of a job's container: the lease that it was made for, as JSON.
LEASE, HELD, WHO, FATE = "jobdeploy.lease", "jobdeploy.held", "jobdeploy.who", "jobdeploy.fate"
ASK, LEASED = "jobdeploy.ask", "jobdeploy.leased"
#: No job's; ids of jobs are longer.
VOID = "void"
IMAGE, TREES, RECORD = "jobdeploy.image", "jobdeploy.trees", "jobdeploy.record"
TREE_NAME, BYTES = "jobdeploy.tree", "jobdeploy.bytes"
#: Of a derived image: what it is, for people; what the image that it was made of runs, as JSON.
ABOUT, COMMAND = "jobdeploy.about", "jobdeploy.command"
#: Values of STAGE: a container that only holds the claim, one that can be started, one without a process of ours.
CLAIM, READY, BARE = "claim", "ready", "bare"
#: Of a container: how it gets the files of its job, where they are not in its volume (inline.py).
FILES, INLINE = "jobdeploy.files", "inline"
#: With this exit code a container ends that has no room for its files.
NO_ROOM_CODE = 125

MACHINE_VOLUME = "jobdeploy-machine"
LEASES_VOLUME = "jobdeploy-leases"
STORE_VOLUME = "jobdeploy-store"
#: An image without a file, for containers that are never started. Imported by us: no registry is asked. Anybody may
#: write into its folders, and so into those of new volumes that are mounted there first.
NOTHING_IMAGE = "jobdeploy/nothing:2"
#: Derived images: tagged by their content (recipe.py).
BUILT_IMAGE = "jobdeploy/built"

#: What the name of a container may hold (Docker's RestrictedNameChars).
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

TOP = "/jobdeploy"
JOB = f"{TOP}/job"
CHECKPOINT = f"{TOP}/checkpoint"
RESOURCE_DIR = f"{TOP}/resource"
LEASES = f"{TOP}/leases"
SECRETS = f"{TOP}/secrets"
BUNDLE = f"{TOP}/bundle"
DATASET = f"{TOP}/dataset"
#: Below JOB: what the attempt reports, with the orders that it has got; it is read in one piece.
REPORT = f"{JOB}/report"
OUTPUT = f"{JOB}/output"
WORK = f"{JOB}/work"
MESSAGES = f"{JOB}/messages.jsonl"
#: Below a tree's volume.
TREE = "tree"


def uid_volume(uid: str) -> str:
    return f"jobdeploy-uid-{layout.checked_name(uid)}"


def resource_volume(resource: str) -> str:
    return f"jobdeploy-res-{layout.checked_name(resource)}"


def tree_volume(name: str) -> str:
    return f"jobdeploy-{layout.checked_name(name)}"


def note_volume(kind: str, about: str) -> str:
    """A note about a job, a resource, a tree's files or the engine; with a number for `about`, a mark (marks.py)."""
    return f"jobdeploy-{kind}-{about}"


def random_name() -> str:
    """A container that is needed for a moment."""
    return f"jobdeploy-x-{os.urandom(8).hex()}"


#: The container that looks at an engine's machine: its name is held meanwhile.
LOOK_NAME = "jobdeploy-look"
#: Held while a job without a lease gets the engine's GPUs.
GPUS_NAME = "jobdeploy-gpus"
FIT_PREFIX = "jobdeploy-fit-"
#: Held while leases are given out.
LINE_NAME = "jobdeploy-line"
#: What names of containers begin with that go when there may be room for somebody.
ROOM_PREFIXES = ("jobdeploy-gpu-", "jobdeploy-slots-", LINE_NAME)
#: What names of volumes begin with that tell of the line.
LINE_PREFIXES = ("jobdeploy-ask-", "jobdeploy-lease-", "jobdeploy-fate-")


def gpu_name(uuid: str) -> str:
    """The container whose name is held while a lease has the GPU. What a pool declares may be any text."""
    return f"jobdeploy-gpu-{uuid if _PLAIN.fullmatch(uuid) else 'x' + layout.letters(uuid.encode(), 20)}"


def lease_volume(lease: str) -> str:
    return f"jobdeploy-lease-{lease}"


def fate_volume(lease: str) -> str:
    return f"jobdeploy-fate-{lease}"


def stay_volume(lease: str, tag: str) -> str:
    return f"jobdeploy-stay-{lease}-{tag}"


def fit_name(job_id: str) -> str:
    """The container that is about to take the place of a job's, with other GPUs."""
    return f"{FIT_PREFIX}{job_id}"


def ask_volume(tag: str) -> str:
    return f"jobdeploy-ask-{tag}"


def build_holder(image: str) -> str:
    """The container whose name is held while a derived image is made."""
    return f"jobdeploy-build-{image.rpartition(':')[2]}"


def fill_holder(key: str) -> str:
    """The container through which a tree is brought: its name is held meanwhile."""
    return f"jobdeploy-fill-{key}"


def slots_name(pool: str) -> str:
    """Held while a job of a pool gets its slot. Names of pools are Airflow's and may hold any character."""
    return f"jobdeploy-slots-{pool if layout.is_name(pool) else 'x' + layout.short(pool)}"


def labels(plan: Plan) -> dict[str, str]:
    """The record of an attempt, without secrets and without the text of its builds."""
    return {
        KIND: JOB_KIND,
        LAYOUT: str(layout.LAYOUT),
        UID: plan.uid,
        ATTEMPT: str(plan.attempt),
        KEY: str(plan.key),
        POOL: plan.worker_pool,
        DEPLOYMENT: plan.key.deployment,
        RESOURCE: plan.resource_id,
        BUILD: plan.build,
        **({GPUS: str(plan.container["gpus"])} if plan.container.get("gpus") else {}),
        PLAN: json.dumps(shown(plan.to_wire())),
    }


def shown(wire: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without the text of its builds: it may be long, and hold what a template's secrets became."""
    plan = dict(wire)
    plan["steps"] = [{**step, "content": ""} for step in plan.get("steps", ())]
    if plan.get("resource"):
        plan["resource"] = {**plan["resource"], "builds": {}}
    return plan


def plan_of(labels: Mapping[str, str]) -> dict[str, Any]:
    """The plan that labels hold; {} where they do not."""
    try:
        return dict(json.loads(labels.get(PLAN) or "{}"))
    except ValueError:
        return {}
