"""Templates on their worker: `up` makes a resource, other builds run from what it stored, `down` and `purge` end it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.plan import Plan, ResourcePlan, Step, new_resource_id
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Refused, Serve, plan
from tests.hostside.test_stop import alive, running


def script(name: str, text: str, **options: Any) -> Step:
    return Step(name=name, kind="script", path=f".jd/t-1/tasks/{name}", content="#!/bin/bash\n" + text, **options)


BUILDS = {
    "up": (script("start", "echo up; (setsid sleep 600 >/dev/null 2>&1 &)\n"),),
    "watch": (script("watch", "echo watching in $PWD $TMUX_TMPDIR"),),
    "down": (script("stop", "echo going down"),),
    "purge": (script("clean", "echo purging"),),
}


class Template:
    """One `up` and the builds after it."""

    def __init__(self, builds: Mapping[str, tuple[Step, ...]] = BUILDS, **options: Any) -> None:
        self.id = new_resource_id()
        resource = ResourcePlan(
            id=self.id, template="t.yaml", digest="d", subdir="t-1", project="p", params={"name": "é"}, builds=builds
        )
        self.up = plan(build="up", resource_id=self.id, resource=resource, leftovers="wait", **options)

    def build(self, name: str) -> Plan:
        return plan(build=name, resource_id=self.id)


def leaves(serve: Serve, template: Template) -> dict[str, Any]:
    """Start `up` and wait until its builds have ended, something of it still alive."""
    serve.launch(template.up)
    return serve.until(template.up.job_id, lambda state: state["reason"] == "Leftovers" or state["phase"] == "ended")


def test_up_and_down(serve: Serve, host: HostPaths) -> None:
    template = Template()
    assert leaves(serve, template)["status"] == "RUNNING"
    record = serve.ask("resource", resource=template.id)["record"]
    assert (record["params"], record["digest"], record["stopped"]) == ({"name": "é"}, "d", None)
    assert record["jobs"] == [template.up.job_id]
    assert record["created_ago_s"] < 30
    assert oct(os.stat(host.resource(template.id).builds).st_mode & 0o777) == "0o600"

    down = serve.run(template.build("down"))
    assert down["status"] == "SUCCEEDED"
    assert serve.log(down["job_id"]) == b"going down\n"
    up = serve.state(template.up.job_id)
    assert (up["status"], up["facts"]["stop_reason"]) == ("CANCELLED", "taken down")
    assert alive(template.up.job_id) == []
    assert serve.ask("resource", resource=template.id)["record"]["stopped"]


def test_builds_share_directory_and_tmux_and_tmpdir(serve: Serve, host: HostPaths) -> None:
    template = Template()
    leaves(serve, template)
    first, second = (serve.log(serve.run(template.build("watch"))["job_id"]).decode() for _ in range(2))
    assert first == second
    temporary = first.split()[-1]
    assert first == f"watching in {host.resource(template.id).work} {temporary}\n"
    assert os.path.isdir(temporary)
    serve.run(template.build("down"))
    assert not os.path.exists(temporary)


def test_down_twice_and_of_what_never_was(serve: Serve) -> None:
    template = Template()
    state = serve.run(template.build("down"))
    assert state["status"] == "SUCCEEDED"
    assert "knows no resource" in state["facts"]["hint"]
    leaves(serve, template)
    serve.run(template.build("down"))
    state = serve.run(template.build("down"))
    assert (state["status"], serve.log(state["job_id"])) == ("SUCCEEDED", b"")
    assert "taken down before" in state["facts"]["hint"]


def test_purge_deletes_record_and_builds(serve: Serve, host: HostPaths) -> None:
    template = Template()
    leaves(serve, template)
    serve.run(template.build("down"))
    state = serve.run(template.build("purge"))
    assert (state["status"], serve.log(state["job_id"])) == ("SUCCEEDED", b"purging\n")
    assert serve.ask("resource", resource=template.id)["record"] is None
    assert not os.path.exists(host.resource(template.id).dir)
    assert serve.run(template.build("purge"))["status"] == "SUCCEEDED"
    with pytest.raises(Refused, match="no-such-resource"):
        serve.claim(template.build("watch"))


def test_purge_ends_what_lives(serve: Serve) -> None:
    template = Template()
    leaves(serve, template)
    serve.run(template.build("purge"))
    assert serve.state(template.up.job_id)["status"] == "CANCELLED"
    assert alive(template.up.job_id) == []


def test_an_unknown_build_names_the_known_ones(serve: Serve) -> None:
    template = Template()
    serve.claim(template.up)
    with pytest.raises(Refused, match=r"no-such-build: .* 'wach'.* down, purge, up, watch"):
        serve.claim(template.build("wach"))


def test_a_failed_down_leaves_the_resource_active(serve: Serve) -> None:
    template = Template({**BUILDS, "down": (script("stop", "exit 3"),)})
    leaves(serve, template)
    assert serve.run(template.build("down"))["exit_code"] == 3
    assert serve.state(template.up.job_id)["status"] == "RUNNING"
    assert serve.ask("resource", resource=template.id)["record"]["stopped"] is None
    serve.stop(template.up.job_id)
    assert serve.end(template.up.job_id)["status"] == "CANCELLED"


def test_a_whitelisted_down_succeeds(serve: Serve) -> None:
    template = Template({**BUILDS, "down": (script("stop", "exit 1", ok_codes=(1,)),)})
    leaves(serve, template)
    assert serve.run(template.build("down"))["status"] == "SUCCEEDED"
    assert serve.state(template.up.job_id)["status"] == "CANCELLED"


def test_what_the_down_script_ends_itself_was_taken_down(serve: Serve) -> None:
    ends = script("stop", "for p in $(pgrep -f 'sleep 6[0]7'); do grep -qz $UP /proc/$p/environ && kill $p; done; true")
    builds = {**BUILDS, "up": (script("start", "(setsid sleep 607 >/dev/null 2>&1 &)"),), "down": (ends,)}
    template = Template(builds)
    leaves(serve, template)
    state = serve.run(replace(template.build("down"), env={"UP": template.up.job_id}))
    assert state["status"] == "SUCCEEDED"
    assert serve.state(template.up.job_id)["status"] == "CANCELLED"


def test_a_known_exit_is_kept_even_if_the_down_script_caused_it(serve: Serve, tmp_path: Path) -> None:
    gate = shlex.quote(str(tmp_path / "gate"))
    os.mkfifo(tmp_path / "gate")
    session = f"setsid sh -c 'read x < {gate}; echo 4 > \"$JOBDEPLOY_EXIT_FILE\"' >/dev/null 2>&1 &"
    ends = script("stop", f"echo go > {gate}; while pgrep -f 'read x < {gate}' > /dev/null; do sleep 0.05; done")
    template = Template({**BUILDS, "up": (script("start", session),), "down": (ends,)})
    leaves(serve, template)
    serve.run(template.build("down"))
    up = serve.end(template.up.job_id)
    assert (up["status"], up["exit_code"]) == ("FAILED", 4)


def test_down_while_the_builds_of_up_still_run(serve: Serve) -> None:
    template = Template({**BUILDS, "up": (script("start", "echo installing; sleep 600"),)})
    serve.launch(template.up)
    serve.until(template.up.job_id, running)
    assert serve.run(template.build("down"))["status"] == "SUCCEEDED"
    assert serve.state(template.up.job_id)["status"] == "CANCELLED"


def test_down_of_a_claimed_but_never_started_up(serve: Serve) -> None:
    template = Template()
    serve.claim(template.up)
    assert serve.run(template.build("down"))["status"] == "SUCCEEDED"
    assert serve.state(template.up.job_id)["status"] == "CANCELLED"


def test_down_needs_no_slot_of_its_own(serve: Serve) -> None:
    template = Template(slots=1)
    leaves(serve, template)
    assert serve.run(replace(template.build("down"), slots=1))["status"] == "SUCCEEDED"


def test_a_new_attempt_of_up_brings_its_builds(serve: Serve) -> None:
    template = Template({**BUILDS, "up": (script("start", "exit 1"),)})
    assert serve.run(template.up)["status"] == "FAILED"
    assert template.up.resource
    fresh = replace(template.up.resource, digest="e", builds={**BUILDS, "watch": (script("watch", "echo new"),)})
    second = replace(template.up.next_attempt(2), resource=fresh)
    serve.launch(second)
    serve.until(second.job_id, lambda state: state["reason"] == "Leftovers")
    record = serve.ask("resource", resource=template.id)["record"]
    assert (record["digest"], record["jobs"]) == ("e", [template.up.job_id, second.job_id])
    assert serve.log(serve.run(template.build("watch"))["job_id"]) == b"new\n"
    serve.run(template.build("down"))


def test_a_workdir_of_the_users(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    template = Template(workdir=str(tmp_path / "app"))
    leaves(serve, template)
    state = serve.run(template.build("watch"))
    assert serve.log(state["job_id"]).decode().startswith(f"watching in {tmp_path / 'app'} ")
    assert (tmp_path / "app" / ".jd" / "t-1" / "tasks" / "watch").is_file()
    serve.run(template.build("down"))


@pytest.mark.tmux
def test_the_seeds_tmux_template(serve: Serve) -> None:
    """`start`, `watch` and `down` of the seed's local.yaml, as its params render them."""
    session = 'tmux new-session -d -s {project}-{id} ".jd/t-1/tasks/deploy_script"'
    name = "p-x1"
    builds = {
        "up": (
            Step(name="deploy_script", kind="file", path=".jd/t-1/tasks/deploy_script", content=DEPLOY),
            script("start", "chmod +x .jd/t-1/tasks/deploy_script\n" + session.format(project="p", id="x1")),
        ),
        "watch": (script("watch", f"tmux a -t {name}"),),
        "list": (script("list", "tmux ls -F '#S'"),),
        "down": (script("down", f"tmux kill-session -t {name}", ok_codes=(1,)),),
        "purge": (script("purge", "rm -rf checkpoints/digits"),),
    }
    template = Template(builds)
    assert leaves(serve, template)["reason"] == "Leftovers"
    assert serve.log(serve.run(template.build("list"))["job_id"]) == b"p-x1\n"
    watch = serve.run(template.build("watch"))
    assert watch["status"] == "FAILED"
    assert "TMUX_TMPDIR=/tmp/jd-" in watch["facts"]["hint"]
    assert serve.run(template.build("down"))["status"] == "SUCCEEDED"
    assert serve.state(template.up.job_id)["status"] == "CANCELLED"
    assert alive(template.up.job_id) == []
    assert serve.run(template.build("purge"))["status"] == "SUCCEEDED"


DEPLOY = """#!/bin/bash
mkdir -p checkpoints/digits
sleep 600 | tee checkpoints/digits/log
"""


@pytest.mark.tmux
def test_a_tmux_session_that_ends_by_itself(serve: Serve, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    waits = shlex.quote(f"read x < {shlex.quote(str(tmp_path / 'gate'))}")
    template = Template({**BUILDS, "up": (script("start", f"tmux new-session -d -s s {waits}"),)})
    assert leaves(serve, template)["reason"] == "Leftovers"
    (tmp_path / "gate").write_text("go\n")
    state = serve.end(template.up.job_id)
    assert (state["status"], state["facts"]["exit_unknown"]) == ("SUCCEEDED", True)
