"""Entry of the far side.

main(["serve", "--root", ROOT])                                    one session on stdin and stdout (serve.py)
main(["supervise", "--root", ROOT, "--machine", M, "--job", ID])   one attempt (supervise.py)
main(["environment", "--root", ROOT, "--machine", M, "--job", ID]) its virtual environment (envs.py)
main(["upload", "--root", ROOT, "--machine", M, "--job", ID])      its output files to an object store (upload.py)
"""

from __future__ import annotations

import os
import sys
from typing import List

from airflow_jobdeploy.hostside import bootstrap, layout
from airflow_jobdeploy.hostside.jobdir import Job


def main(arguments: List[str]) -> int:
    """Run one role; the exit status of the process."""
    os.umask(0o077)
    role, options = arguments[0], dict(zip(arguments[1::2], arguments[2::2]))
    if role == "serve":
        from airflow_jobdeploy.hostside import serve

        return serve.serve(os.path.expanduser(options["--root"]), 0, 1)
    if role == "supervise":
        return _supervise(Job(layout.HostPaths(options["--root"], options["--machine"]), options["--job"]))
    if role == "environment":
        from airflow_jobdeploy.hostside import envs

        return envs.main(Job(layout.HostPaths(options["--root"], options["--machine"]), options["--job"]))
    if role == "upload":
        from airflow_jobdeploy.hostside import upload

        return upload.main(
            Job(layout.HostPaths(options["--root"], options["--machine"]), options["--job"]).paths.output
        )
    raise SystemExit("no role %r: serve, supervise, environment or upload" % role)


def _supervise(job: Job) -> int:
    # Our parent leads the session and ends now: we can never be given a terminal, and belong to init or a subreaper.
    if os.fork():
        os._exit(0)
    os.chdir("/")
    bootstrap.hold(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    # Each role imports its own: a supervisor starts sooner without what serve needs, and a host may have many.
    from airflow_jobdeploy.hostside import takeover

    takeover.run(job, _tell)
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
