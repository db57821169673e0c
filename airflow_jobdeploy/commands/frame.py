"""Around each command: exit codes, errors as one clear text, quiet logs.

Exit codes: 0 well; 1 a problem, said on stderr; 2 a wrong command line; of commands that wait for a job its own
(`exit_code`); 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator

from airflow_jobdeploy.commands.screen import complain
from airflow_jobdeploy.commands.values import UsageError
from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.hooks import runtime

PROBLEM, USAGE, INTERRUPTED = 1, 2, 130
#: Of a job that failed without an exit code of its own: as Apolo's command line has it.
FAILED = 125
#: What shells say of a command that wrote into a closed pipe.
_BROKEN_PIPE = 128 + 13

Command = Callable[[Namespace], int]


def exit_code(state: JobState) -> int:
    """What the end of a job is to the shell: its own code, 125 when it has none, 130 when it was stopped."""
    if state.status is JobStatus.SUCCEEDED:
        return 0
    if state.status is JobStatus.CANCELLED:
        return INTERRUPTED
    if state.status in (JobStatus.FAILED, JobStatus.SUSPENDED):
        return state.exit_code if state.exit_code and 0 < state.exit_code < 256 else FAILED
    return PROBLEM


def command(function: Command) -> Callable[[Namespace], None]:
    """Make a command of `function`, which returns an exit code. SystemExit when that is not 0."""

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        runtime.ask_the_database()
        with _quiet(verbose=args.verbose):
            code = _coded(function, args)
        if code:
            raise SystemExit(code)

    return run


def _coded(function: Command, args: Namespace) -> int:
    try:
        code = function(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read has enough (`| head`). Python would complain again when it flushes stdout at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except UsageError as error:
        complain(str(error))
        return USAGE
    except JobDeployError as error:
        if args.verbose:
            logging.getLogger(__name__).exception("This came of:")
        complain(str(error))
        return PROBLEM


@contextlib.contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    """Nothing of what libraries and Airflow log (what matters is raised); all of it where that was asked for."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a job may print what this terminal cannot show
    if verbose:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
