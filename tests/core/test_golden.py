"""The texts that people get for what is wrong, word for word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.pool import load_pool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.support import unsupported
from airflow_jobdeploy.core.template import load_template
from airflow_jobdeploy.errors import InputError, SpecError

FILLED = {"id": "k3x9", "project": "digits", "created": "2026-01-01T00:00:00+00:00", "user": "ada"}

BASE = """\
params: [name, subdir]
builds:
  up: {type: script, content: "train {{ params.name }}"}
  down: {type: script, content: "true"}
"""

TEMPLATES: dict[str, str | dict[str, str]] = {
    "template_empty": "",
    "template_tab": "params:\n\t- name\n",
    "template_two_documents": BASE + "---\nparams: []\n",
    "template_unquoted_braces": "params: [name]\nvalues: {x: {{ params.name }}}\nbuilds: {}\n",
    "template_duplicate_keys": BASE + "params: [other]\n",
    "template_unknown_sections": BASE + "buidls: {}\nwatch:\n  type: script\n  content: x\n",
    "template_builds": """\
params: []
builds:
  up: {type: scrip, content: x}
  dwon: {type: script, content: x}
  a: {type: script}
  b: just text
  c: {type: file, content: 3}
  d: {type: sequence, content: [a, yes, 3]}
  e: {type: script, content: x, whitelist: [257, -1, SIGKIL, 0.5, 256, SIGKILL]}
  f: {type: file, content: x, whitelist: 1}
  ../g: {type: file, content: x}
  /etc/passwd: {type: script, content: x}
  h: {type: script, contents: x, content: y}
""",
    "template_sequences": """\
params: []
builds:
  up: {type: sequence, content: [a, instal, b]}
  a: {type: sequence, content: [up]}
  b: {type: sequence, content: [b]}
  install: {type: script, content: x}
  conf: {type: file, content: x}
  conf/app.json: {type: file, content: x}
""",
    "template_names": """\
params: [name, epochs]
values:
  folder: runs/{{ params.nmae }}
  early: "{{ values.late }}"
  late: x
builds:
  up:
    type: script
    content: |
      #!/bin/sh
      train {{ params['epoch'] }} {{ name }}

      cp {{ values.foldr }} {{ target }} {{ params.name | shellquote }}
  down:
    type: script
    content: |
      #!/bin/sh
      echo ${#names[@]}
  purge: {type: script, content: "rm {{ params.epohcs }} {{ name }}"}
""",
    "template_params": """\
params:
  a: {type: strin, default: 3}
  b: {type: integer, default: x}
  c: {minimum: 3, maximum: 1}
  d: {pattern: "("}
  e: {enum: [], descripton: x}
  f: {type: string, default: 3.10}
  g: {secret: true, default: hunter2}
  h: 5
  id: {default: x}
builds:
  up: {type: script, content: x}
  down: {type: script, content: x}
""",
    "template_parent_missing": {"base": BASE, "template": "parent: bsae.yaml\n"},
    "template_parent_cycle": {"a": "parent: template\n", "template": "parent: a.yaml\n"},
    "template_binds": {
        "base": BASE,
        "template": "parent: base.yaml\nbinds: {nam: x, subdir: y}\nup: {type: script, content: '{{ params.nam }}'}\n",
    },
    "template_both_files": {
        "base": BASE + "down2: {type: script}\n",
        "template": "parent: base.yaml\nbuilds: {watch: 3}\nwacth: {}\n",
    },
    "template_options": BASE + "options: {timeout: soon, timout: 3, memory: 4, grace: '{{ params.nam }}', env: [A]}\n",
    "template_output_value": BASE + "values: {commit: {type: output/str, content: git rev-parse HEAD}}\n",
}

RENDERINGS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "params_given": (
        """\
params:
  name:
  epochs: {type: integer, minimum: 1, maximum: 100, description: Rounds of training.}
  rate: {type: number, default: 0.1}
  mode: {type: string, enum: [fast, slow], default: fast}
  tag: {type: string, pattern: '^v[0-9]+$', default: v1}
  token: {secret: true}
  id:
builds:
  up: {type: script, content: x}
  down: {type: script, content: x}
""",
        {"nam": "x", "epochs": 1000, "rate": "quick", "mode": "fas", "tag": "x1", "token": "hunter2", "id": "me"},
    ),
    "params_missing": (BASE, {}),
    "params_not_known": (BASE.replace("[name,", "[name, commit,"), {"name": "x"}),
    "render_failures": (
        """\
params: [n, d]
builds:
  up:
    type: script
    content: |
      {% if params.n %}
      {{ params.d.zz }}
      {% endif %}
  down: {type: script, content: "{{ 1 / params.n }} {{ 'a' * 10 ** 9 }}"}
  huge: {type: script, content: "{{ 'a' * 10 ** 9 }}"}
  inner: {type: script, content: "{{ params.d.__class__ }}"}
  method: {type: script, content: "{{ params.d.get }}"}
""",
        {"n": 0.0, "d": {}},
    ),
    "render_job": (
        """\
params: [t, {key: {secret: true}}]
builds:
  up:
    type: job
    content:
      command: run
      timeout: "{{ params.t }}"
      comand: x
      env: {KEY: "{{ params.key }}"}
      secret_env: {TOKEN: "{{ params.key }}"}
  down: {type: script, content: "use {{ params.key }}"}
""",
        {"t": "soon", "key": "conn:db.password"},
    ),
}

SPECS: dict[str, tuple[str, Mapping[str, Any] | None]] = {
    "spec_fields": (
        """\
comand: train
job_type: rn
memory: lots
timeout: 0
port: 70000
env: {1A: x, JOBDEPLOY_X: y, B: }
secret_env: {TOKEN: hunter2}
gpu_types: [{type: A100, count: -1}, {typ: x}, 3]
entry_script: ../x.py
args: "a 'b"
python: 3.10
tags: x
schedule: {workdays: []}
artifacts_path: /x
signal: SIGKIL
""",
        None,
    ),
    "spec_rules": ("project_dir: .\nworkdir: /srv\njob_type: deploy\n", None),
    "spec_nothing": ("job_name: x\n", None),
    "spec_twice": ("command: x\ntimeout: 1\ntimeout: 2\njob_timeout: 3\n", None),
    "spec_same_field": ("command: x\ntimeout: 1\njob_timeout: 3\n", None),
    "spec_overrides": ("command: x\n", {"timout": 3, "tags": "x"}),
    "spec_template": (BASE, None),
    "spec_variables": ("command: x\nenv: {A: 1}\nsecret_env: [A=var:x, B=literal, C]\n", None),
}

POOLS = {
    "pool_fields": """\
kind: sh
workers: [{hosts: 'a[3-1]'}, {conn: 1}, 3]
root: ../x
presets: []
storge: {}
storage: {}
""",
    "pool_docker": "kind: docker\nworkers: [{url: '/var/run/docker.sock'}, {conn_id: x}]\nimage: Python\nroot: /x\n",
    "pool_workers": "kind: ssh\nworkers: [{conn_id: a}, {conn_id: a}, {host: x}, {conn_id: b, hosts: 'x[1-9999]'}]\n",
    "pool_local": "kind: local\nworkers: [{conn_id: x}]\n",
    "pool_empty": "kind: ssh\n",
}

Write = Callable[..., None]
Golden = Callable[[str, str], None]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str, write: Write, golden: Golden) -> None:
    files = TEMPLATES[name]
    write(**({"template": files} if isinstance(files, str) else files))
    with pytest.raises(InputError) as caught:
        load_template("template.yaml")
    golden(name, str(caught.value))


@pytest.mark.parametrize("name", RENDERINGS)
def test_renderings(name: str, write: Write, golden: Golden) -> None:
    text, given = RENDERINGS[name]
    write(template=text)
    with pytest.raises(InputError) as caught:
        load_template("template.yaml").render(given, filled=FILLED)
    golden(name, str(caught.value))


@pytest.mark.parametrize("name", SPECS)
def test_specs(name: str, write: Write, golden: Golden) -> None:
    text, overrides = SPECS[name]
    write(spec=text)
    with pytest.raises(InputError) as caught:
        load_spec("spec.yaml", overrides=overrides)
    golden(name, str(caught.value))


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str, write: Write, golden: Golden) -> None:
    write(pool=POOLS[name])
    with pytest.raises(InputError) as caught:
        load_pool("pool.yaml")
    golden(name, str(caught.value))


def test_the_seeds_sample_as_printed(data: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    with pytest.raises(InputError) as caught:
        load_template("my_model_as_printed.yaml")
    golden("template_as_printed", str(caught.value))


def test_what_no_pool_honours_yet(write: Write, golden: Golden) -> None:
    write(
        spec="""\
command: train
job_type: deploy
port: 80
health_endpoint: /ok
memory: 16
gpu_types: [{name: A100, count: 2}]
docker_image: python:3.12
requirements: [torch]
restart_policy: on-failure
on_orphan: stop
preemptible: true
worker_required: 2
dirty: true
priority: high
schedule_start: "0 2 * * *"
"""
    )
    golden("spec_unsupported", str(SpecError(unsupported(load_spec("spec.yaml"), kind="ssh"))))


def test_warnings(write: Write, golden: Golden) -> None:
    write(
        spec="""\
primeway_api_token: pw-secret-token
docker_image: python:3.12
requirements: [torch]
job_timeout: 60
autoscaler_timeout: 5
gpu_type: A100
gpu_count: 1
entry_script: main.py
args: --epochs 3
command: sh run.sh
"""
    )
    spec = load_spec("spec.yaml")
    assert "pw-secret-token" not in repr(spec) + str(spec.to_dict())
    golden("spec_warnings", "\n".join(spec.warnings))
