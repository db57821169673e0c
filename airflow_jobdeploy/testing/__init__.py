"""For tests of code that runs jobs: a worker in memory, a clock that stands still.

    host = MemoryHost(programs={"python train.py": train})     # what a step's text, path or name does
    backend = host.backend()                                    # as many connections as you like

`MemoryBackend` is a peer of the real backends: it passes the same contract suite. A program is a function
of a `Run`; it may write to the log, leave output files, wait, be stopped. pytest fixtures:
`pytest_plugins = ["airflow_jobdeploy.testing.fixtures"]`.
"""

from __future__ import annotations

from airflow_jobdeploy.testing.clock import ManualClock, RealClock
from airflow_jobdeploy.testing.host import MemoryHost
from airflow_jobdeploy.testing.memory import MemoryBackend
from airflow_jobdeploy.testing.run import Killed, Program, Run, Stopped

__all__ = ["Killed", "ManualClock", "MemoryBackend", "MemoryHost", "Program", "RealClock", "Run", "Stopped"]
