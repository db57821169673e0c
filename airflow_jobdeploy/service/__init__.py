"""The use cases: prepare, submit, follow, stop, ask. Every face (operators, hook, CLI, tests) calls only this.

prepare_*  text that has been read -> Work: checked and rendered, nothing has started
submit     Work -> a running job and its handle; finds the running attempt after any crash
follow     a handle -> news and log, until it is over
fetch      a handle -> its output files, where they are wanted
stop, preempt, extend, status, find, current, jobs; raise_for turns an end into the error that fits it
"""

from __future__ import annotations

from airflow_jobdeploy.service.asking import current, extend, find, jobs, preempt, raise_for, status, stop
from airflow_jobdeploy.service.fetching import Wanted, fetch
from airflow_jobdeploy.service.follower import Follower, Update
from airflow_jobdeploy.service.following import Followed, follow, handle_state, narrated
from airflow_jobdeploy.service.preparing import prepare_run
from airflow_jobdeploy.service.submitting import IntentStore, Interrupted, Submitted, submit
from airflow_jobdeploy.service.templates import prepare_build, prepare_up
from airflow_jobdeploy.service.watcher import Subscription, Watcher
from airflow_jobdeploy.service.watching import Watch
from airflow_jobdeploy.service.work import Payer, Work
from airflow_jobdeploy.service.workers import Workers

__all__ = [
    "Followed",
    "Follower",
    "IntentStore",
    "Interrupted",
    "Payer",
    "Submitted",
    "Subscription",
    "Update",
    "Wanted",
    "Watch",
    "Watcher",
    "Work",
    "Workers",
    "current",
    "extend",
    "fetch",
    "find",
    "follow",
    "handle_state",
    "jobs",
    "narrated",
    "preempt",
    "prepare_build",
    "prepare_run",
    "prepare_up",
    "raise_for",
    "status",
    "stop",
    "submit",
]
