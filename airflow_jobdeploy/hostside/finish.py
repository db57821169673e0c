"""The end of an attempt: manifest, result, exit record. Done by its supervisor, or by whoever finds that one dead.

Everything here may be done again from the start: until exit.json has its name nothing counts.
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from airflow_jobdeploy.hostside import files, resources
from airflow_jobdeploy.hostside.jobdir import OUTCOME, Job, NewerLayout, enter, stamp

#: The most a result file may hold, in bytes: it travels through XCom.
RESULT_LIMIT = 48 * 1024
#: The first and the longest pause between two tries to write down how it ended, in seconds.
_RETRY_S = (0.5, 5.0)
_CHUNK = 1024 * 1024
_TOO_LARGE = "the result file holds more than %d bytes: write large results to JOBDEPLOY_OUTPUT_DIR" % RESULT_LIMIT


def finish(job: Job, state: dict, outcome: dict) -> dict:
    """Write the exit record of `outcome` (keys jobdir.OUTCOME) and clear up; the record."""
    facts = dict(outcome.get("facts") or {})
    told, no_metrics = _close_messages(job)
    artifacts, trouble = _write_manifest(job)
    result, complaint = read_result(job)
    for key, value in (("manifest_error", trouble), ("result_error", complaint), ("metrics_error", no_metrics)):
        if value:
            facts[key] = value
    enter(state, "ended", outcome["status"], outcome["reason"])
    record = {
        **{key: outcome.get(key) for key in OUTCOME},
        "facts": facts,
        "artifacts": artifacts,
        "has_result": result is not None,
        "has_messages": told,
        "history": state["history"],
        "claimed": state.get("claimed"),
        "ended": stamp(),
        "machine": job.host.machine,
    }
    # First what must be gone once the job is seen to have ended; killed here, whoever comes next does it again.
    files.forget_file(job.paths.secrets)
    _clear_temporary(job)
    job.write_exit(_bounded(record))
    return record


def persist(job: Job, state: dict, outcome: dict, wait: Callable[[float], None]) -> None:
    """Write the exit record, for as long as that takes: nobody else knows how it ended."""
    pause_s = _RETRY_S[0]
    while True:
        try:
            finish(job, state, outcome)
        except OSError:
            if not job.exists:
                raise
            wait(pause_s)  # the disk has become read-only, say: nothing tells when it is mended
            pause_s = min(_RETRY_S[1], pause_s * 2)
        else:
            return


def _bounded(record: dict) -> dict:
    """The record within its reserved blocks: the longest facts are cut first, the verdict never."""
    while len(files.to_json(record)) > files.EXIT_RESERVE - 64:
        facts = record["facts"]
        longest = max(facts, key=lambda key: len(files.to_json(facts[key])), default=None)
        if longest is None or len(files.to_json(facts[longest])) < 200:
            record = {**record, "message": str(record.get("message"))[:1000], "history": record["history"][-20:]}
            break
        cut = str(facts[longest])[-(len(str(facts[longest])) // 2) :] if longest == "last_lines" else None
        record = {**record, "facts": {key: cut if key == longest else value for key, value in facts.items()}}
    return record


def _close_messages(job: Job) -> Tuple[bool, str]:
    """(Is it written down what the messages come to? Why there is no metrics.csv, though there were metrics.)"""
    if not os.path.lexists(job.paths.messages):
        return False, ""
    from airflow_jobdeploy.hostside import messages  # most jobs write none: not in every supervisor's memory

    told, trouble = messages.close(job.paths.messages, job.paths.output, job.paths.metrics)
    try:
        if told:
            files.write_json(job.paths.told, told)
    except OSError as error:
        return False, trouble or "the job's messages could not be kept: %s" % error.strerror
    return bool(told), trouble


def _clear_temporary(job: Job) -> None:
    resource = job.plan().get("resource_id")
    if resource:
        try:
            known = resources.record(job.host, resource)
        except (files.Damaged, NewerLayout):
            return
        if known is not None and not known.get("stopped"):
            return
    files.remove_tree(job.temporary())


# -- the result -----------------------------------------------------------------------------------------------------


def read_result(job: Job) -> Tuple[Optional[list], str]:
    """([value], "") of the result file, (None, "") without one, (None, why) when it cannot be used."""
    if not os.path.lexists(job.paths.result):
        return None, ""
    data = files.read_small(job.paths.result, RESULT_LIMIT)
    if data is None:
        return None, "the result file is not a regular file"
    if len(data) > RESULT_LIMIT:
        return (
            None,
            _TOO_LARGE,
        )
    try:
        return [json.loads(data.decode(), parse_constant=_refuse_constant)], ""
    except (ValueError, RecursionError) as error:
        return None, "the result file is not JSON: %s" % error


def _refuse_constant(name: str) -> Any:
    raise ValueError("%s is not a JSON value" % name)


def exit_file_code(job: Job) -> Optional[int]:
    """The code that a detached session wrote to JOBDEPLOY_EXIT_FILE, None when it wrote none."""
    data = files.read_small(job.paths.exit_file, 64)
    text = (data or b"").decode("ascii", "replace").strip()
    return int(text) & 0xFF if text.isdigit() and len(text) < 6 else None


# -- the manifest ---------------------------------------------------------------------------------------------------


def _write_manifest(job: Job) -> Tuple[Dict[str, int], str]:
    listed, skipped = manifest(job.paths.output)
    total = {"files": len(listed), "bytes": sum(entry["size"] for entry in listed)}
    if skipped:
        total["skipped"] = len(skipped)
    try:
        files.write_json(job.paths.manifest, {"layout": 1, "files": listed, "skipped": skipped})
    except OSError as error:
        return total, "the manifest could not be written: %s" % error.strerror
    return total, ""


def manifest(output: str, match: Optional[str] = None) -> Tuple[List[dict], List[dict]]:
    """(files with size, sha256, mode; what was left out with the reason), sorted by path.

    `match`: a regular expression; only the paths that it matches whole are read.
    """
    if os.path.islink(output):
        return [], [{"path": ".", "why": "the output directory has been replaced by a link"}]
    top = os.path.realpath(output)
    listed: List[dict] = []
    skipped: List[dict] = []
    wanted = re.compile(match, re.DOTALL).fullmatch if match else None
    for path in sorted(_walk(output)):
        if wanted is not None and not wanted(path):
            continue
        full = os.path.join(output, path)
        try:
            listed.append({"path": path, **_described(top, full)})
        except OSError as error:
            skipped.append({"path": path, "why": error.strerror or str(error)})
    return listed, skipped


def _walk(output: str) -> Iterator[str]:
    for folder, folders, names in os.walk(output):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            yield os.path.relpath(os.path.join(folder, name), output)


def _described(top: str, full: str) -> dict:
    import hashlib  # of OpenSSL, the fastest there is: not at the top, where every supervisor would hold it for life

    with open_inside(top, full) as file:
        info = os.fstat(file.fileno())
        digest, size = hashlib.sha256(), 0
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest(), "mode": stat.S_IMODE(info.st_mode)}


def open_inside(top: str, full: str) -> Any:
    """Open a regular file that, all links resolved, lies below `top`; OSError for all else. Never blocks on a FIFO."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd, real = -1, ""
    try:
        fd = os.open(full, flags)
        real = os.readlink("/proc/self/fd/%d" % fd)  # one call, where realpath makes one for each folder of the path
    except OSError:  # a link itself, or no /proc
        real = os.path.realpath(full)
    if not real.startswith(top.rstrip("/") + "/"):
        if fd >= 0:
            os.close(fd)
        raise OSError(0, "a link that leaves the output directory")
    fd = os.open(real, flags) if fd < 0 else fd
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "not a regular file")
    return os.fdopen(fd, "rb")
