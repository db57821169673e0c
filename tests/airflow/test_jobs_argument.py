"""`job=`: handles, ids, lists, and what Jinja makes of them."""

from __future__ import annotations

import json
from collections import UserList
from typing import Any

import pytest

from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.hooks.jobs import read_jobs

HANDLE = JobHandle(uid="ab" * 16, job_id="j" + "a" * 20, attempt=2, key="k", worker_pool="lab", worker="gpu-a")
DICT = HANDLE.to_dict()


@pytest.mark.parametrize("value", [HANDLE, DICT, json.dumps(DICT), str(DICT)], ids=["handle", "dict", "json", "repr"])
def test_one(value: Any) -> None:
    jobs = read_jobs(value)
    assert jobs.handles == (HANDLE,)
    assert not jobs.many


@pytest.mark.parametrize("value", [[DICT, DICT], (DICT, HANDLE), UserList([DICT, DICT]), str([DICT, DICT])])
def test_many(value: Any) -> None:
    jobs = read_jobs(value)
    assert jobs.handles == (HANDLE, HANDLE)
    assert jobs.many


def test_an_empty_list_is_no_job() -> None:
    assert read_jobs([]).handles == ()


def test_a_bare_id() -> None:
    (handle,) = read_jobs(" jabc ", worker_pool="lab").handles
    assert (handle.job_id, handle.worker_pool, handle.worker) == ("jabc", "lab", "")
    with pytest.raises(JobDeployError, match="job='jabc' is a bare job id: say in which pool"):
        read_jobs("jabc")


@pytest.mark.parametrize("value", [None, "", 3, {"uid": "x"}, b"x", [None]])
def test_neither(value: Any) -> None:
    with pytest.raises(JobDeployError, match="expected a handle"):
        read_jobs(value, worker_pool="lab")


def test_a_handle_of_a_newer_release() -> None:
    with pytest.raises(JobDeployError, match="version 7"):
        read_jobs({**DICT, "version": 7})
