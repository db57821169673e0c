"""What every test gets: the policy for programs that this machine may lack.

A test marked `sshd`, `tmux` or `netns` is skipped, with the reason, where the machine lacks what it needs. With CI=true
a skip is a failure, so that a green run there means that everything ran.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# One for all modules: a fixture that each of them imports is another one for each.
from tests.servers.dockerd import dockerd as dockerd
from tests.servers.memory import memory_kills as memory_kills
from tests.servers.memory import no_memory_kills as no_memory_kills
from tests.servers.s3 import s3 as s3

#: How long an example takes says more about what else the machine does than about us. The examples are the same in each
#: run: what a new one finds is no fault of the change that is being tested. JOBDEPLOY_EXPLORE=1 looks for such ones.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("tests"), derandomize=False, max_examples=1000)
settings.load_profile("explore" if os.environ.get("JOBDEPLOY_EXPLORE") else "tests")

#: What an account keeps in its cache folder, and tests may use: nothing is built or fetched twice.
_SHARED_CACHES = {"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip"}


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of files and clones of repositories that tests make are not left in the cache of whoever runs them."""
    before = dict(os.environ)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for name, folder in _SHARED_CACHES.items():
        os.environ.setdefault(name, os.path.join(cache, folder))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    for name in (*_SHARED_CACHES, "XDG_CACHE_HOME"):
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"


def _has(*programs: str) -> bool:
    # sshd lives in a directory that an ordinary user's PATH leaves out.
    path = os.environ.get("PATH", os.defpath) + os.pathsep + _SBIN
    return all(shutil.which(program, path=path) for program in programs)


def _runs(*command: str) -> bool:
    return _has(command[0]) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _may_unshare() -> bool:
    # Being root is not enough in a container: the kernel is asked.
    trial = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"]
    return os.geteuid() == 0 and subprocess.run(trial, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a marker asks of the machine, and the line that brings it."""

    is_met: Callable[[], bool]
    reason: str


NEEDS = {
    "sshd": Need(
        is_met=lambda: _has("sshd", "ssh-keygen"),
        reason="no OpenSSH server on this machine (looked for sshd and ssh-keygen); apt-get install openssh-server",
    ),
    "tmux": Need(is_met=lambda: _has("tmux"), reason="no tmux on this machine; apt-get install tmux"),
    "netns": Need(
        is_met=lambda: _has("sshd", "ip", "iptables", "unshare", "nsenter") and _may_unshare(),
        reason=(
            "no network namespaces here (needs root, CAP_SYS_ADMIN and CAP_NET_ADMIN, sshd, ip, iptables);"
            " apt-get install openssh-server iproute2 iptables"
        ),
    ),
    "docker": Need(
        is_met=lambda: _has("dockerd", "containerd", "busybox", "unshare") and _may_unshare(),
        reason="no dockerd here (needs root, and busybox for its image); apt-get install docker.io busybox-static",
    ),
    "xfs": Need(
        is_met=lambda: _has("mkfs.xfs", "losetup") and _may_unshare() and os.path.exists("/dev/loop-control"),
        reason="no XFS can be made and mounted here (needs root and loop devices); apt-get install xfsprogs",
    ),
    "scaled": Need(
        is_met=lambda: _has("redis-server") and (_has("initdb") or bool(glob.glob("/usr/lib/postgresql/*/bin/initdb"))),
        reason="no PostgreSQL and Redis on this machine; apt-get install postgresql redis-server",
    ),
    "compose": Need(
        is_met=lambda: _has("docker-compose") or _runs("docker", "compose", "version"),
        reason="neither docker compose nor docker-compose on this machine; apt-get install docker-compose",
    ),
    "faketime": Need(
        is_met=lambda: bool(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")),
        reason="no libfaketime on this machine; apt-get install libfaketime",
    ),
}


def in_ci() -> bool:
    """Whether a skipped test is a failure."""
    return os.environ.get("CI", "").strip().lower() in {"true", "1", "yes"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, the tests whose marker asks for a program that is missing."""
    unmet = {name: need.reason for name, need in NEEDS.items() if not need.is_met()}
    for item in items:
        for name, reason in unmet.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (in_ci() and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"CI=true, so a skip is a failure. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one where CI=true."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that is skipped while it is imported."""
    report = yield
    _fail_if_skipped(report)
    return report


#: These share one whole Airflow, which is the most expensive thing that tests start.
ONE_AIRFLOW = {f"tests/airflow/test_{name}.py" for name in ("standalone", "matrix", "triggerers")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests go to whichever process is free, but those of ONE_AIRFLOW to the same one, and first: they take longest.

    `--dist loadgroup` is made for that, and has no effect with xdist 3.8 under pytest 9.2: the attribute is gone in
    which xdist notes the group.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "one Airflow" if nodeid.partition("::")[0] in ONE_AIRFLOW else nodeid

    return Together(config, log)
