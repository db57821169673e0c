"""Entry of the far side.

runner.main(["serve", "--root", ROOT])            one session on stdin and stdout (serve.py)
runner.main(["supervise", "--root", ROOT, "--machine", M, "--job", ID])    one attempt (supervise.py)
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import List

from airflow_jobdeploy.hostside import layout, serve, supervise
from airflow_jobdeploy.hostside.jobdir import Job


def main(arguments: List[str]) -> int:
    """Run one role; the exit status of the process."""
    parser = argparse.ArgumentParser(prog="runner.py", description=__doc__)
    parser.add_argument("role", choices=("serve", "supervise"))
    parser.add_argument("--root", required=True)
    parser.add_argument("--machine", default="")
    parser.add_argument("--job", default="")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    if given.role == "serve":
        return serve.serve(os.path.expanduser(given.root), 0, 1)
    return _supervise(Job(layout.HostPaths(given.root, given.machine), given.job))


def _supervise(job: Job) -> int:
    # Our parent leads the session and ends now: we can never be given a terminal, and belong to init or a subreaper.
    if os.fork():
        os._exit(0)
    os.chdir("/")
    supervise.run(job, _tell)
    return 0


def _tell(word: str) -> None:
    """Answer whoever started us, once; it may be gone."""
    try:
        os.write(1, word.encode() + b"\n")
    except OSError:
        pass
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
