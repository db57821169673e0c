"""Whatever is written: one of our errors, soon, and no path outside. No traceback of another kind, no hang.

Examples are derandomized: a run says the same thing everywhere.
"""

from __future__ import annotations

import json
import posixpath
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_jobdeploy.core.builds import TYPES
from airflow_jobdeploy.core.fields import fields_of
from airflow_jobdeploy.core.pool import load_pool
from airflow_jobdeploy.core.sandbox import Environment, RenderError
from airflow_jobdeploy.core.source import Item
from airflow_jobdeploy.core.spec import JobSpec, load_spec
from airflow_jobdeploy.core.support import unsupported
from airflow_jobdeploy.core.template import load_template, project_name
from airflow_jobdeploy.core.yaml_text import parse_yaml
from airflow_jobdeploy.errors import InputError, PoolError, Problem, SpecError, TemplateError

#: CPU seconds (a busy machine does not count): far above what any input takes, far below a hang.
LIMIT_S = 20

settings.register_profile(
    "language",
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
language = settings.get_profile("language")

PIECES = st.sampled_from(
    [
        "{{ params.name }}", "{{ params['items'] }}", "{{ values.v }}", "{{ x }}", "{{", "}}", "{%", "%}", "{#", "#}",
        "{% for i in range(9) %}", "{% endfor %}", "{% if params.name %}", "{% else %}", "{% endif %}",
        "{% set a = [a, a] %}", "{{ 'a' * 99999999 }}", "{{ params | json }}", "{{ params.__class__ }}", "| quote",
        "{{ 1 / 0 }}", "{{ params.name | quote }}", "{% macro m() %}", "{% endmacro %}", "{{ m() }}", "{% raw %}",
        "../", "/etc/passwd", "; rm -rf /", "$(id)", "'", '"', "\\", "\n", "\t", "\r\n", "\0", "é", "\U0001f600", " ",
        "- ", ": ", "&a ", "*a", "<<: ", "!!int ", "!x ", "? ", "|\n", ">\n", "---\n", "[", "]", "{", "}", ",", "#",
        "params", "builds", "up", "down", "type: script", "content: x", "conn:a.password", "var:x", "1e9", "0x1", "~",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join))
NAMES = st.sampled_from(
    [
        "up",
        "down",
        "start",
        "conf",
        "conf/app.json",
        "../x",
        "/x",
        "name",
        "items",
        "project",
        "id",
        "a b",
        "",
        "ü",
        ".",
    ]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([256, "SIGKILL", 65536, -1, "up"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def near(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that have some of these parts right, some wrong, and perhaps some nonsense."""
    sections = st.fixed_dictionaries({}, optional={name: st.one_of(part, VALUES) for name, part in parts.items()})
    odd = st.one_of(st.just({}), st.just({}), st.dictionaries(TEXTS, VALUES, max_size=2))
    return st.tuples(sections, odd).map(lambda pair: {**pair[1], **pair[0]})


PARAMS = st.one_of(
    st.lists(NAMES, max_size=4),
    st.dictionaries(
        NAMES,
        st.one_of(
            st.none(),
            near(
                type=st.sampled_from(["string", "int", "number", "bool", "array", "object"]),
                default=VALUES,
                enum=st.lists(SCALARS, max_size=3),
                minimum=st.floats(),
                pattern=st.sampled_from(["^a", "(", "[", "(a+)+", "x*"]),
                secret=st.booleans(),
            ),
        ),
        max_size=3,
    ),
)
SPECS = near(
    **{
        **dict.fromkeys(fields_of(JobSpec), VALUES),
        "command": TEXTS,
        "args": TEXTS,
        "context": TEXTS,
        "gpu_count": SCALARS,
    }
)
BUILDS = near(
    type=st.sampled_from(TYPES),
    content=st.one_of(TEXTS, st.lists(NAMES, max_size=3), SPECS),
    whitelist=st.lists(st.one_of(st.integers(-1, 70000), st.sampled_from(["SIGKILL", "x"])), max_size=3),
)
SCRIPT = st.fixed_dictionaries({"type": st.just("script"), "content": TEXTS})
TEMPLATES = near(
    params=PARAMS,
    values=st.dictionaries(NAMES, VALUES, max_size=3),
    builds=st.tuples(
        st.fixed_dictionaries({"up": SCRIPT, "down": SCRIPT}),
        st.dictionaries(st.one_of(NAMES, TEXTS), st.one_of(SCRIPT, BUILDS), max_size=3),
    ).map(lambda pair: {**pair[0], **pair[1]}),
    options=SPECS,
)
FILLED = {"id": "k3x9", "project": "digits", "created": "2026-01-01", "user": "ada", "commit": "c0ffee"}


def outcome(function: Any, *args: Any, error: type[InputError], **kwargs: Any) -> Any:
    """What `function` returns, or None when it raises `error` with problems that can be read."""
    started = time.thread_time()
    made: Any = None
    found: tuple[Problem, ...] = ()
    try:
        made = function(*args, **kwargs)
    except error as caught:
        found = caught.problems
    assert made is not None or found
    assert all(problem.where and problem.message for problem in found)
    assert time.thread_time() - started < LIMIT_S
    return made


def assert_inside(name: str) -> None:
    folder = ".jd/t-k3x9/tasks"
    assert posixpath.normpath(f"{folder}/{name}").startswith(f"{folder}/")
    assert "\0" not in name


@language
@given(st.one_of(st.binary(max_size=200), TEXTS))
def test_any_bytes_are_yaml_or_problems(text: bytes | str) -> None:
    problems: list[Problem] = []
    document = parse_yaml(text, "f.yaml", problems)
    assert document is not None or problems
    if document is not None:
        json.dumps(document.value, allow_nan=False).encode()
        read_all(Item(document.value, document))


def read_all(item: Item) -> None:
    """Every value knows its place."""
    assert item.where
    for part in (*(child for _, child in item.fields()), *item.elements()):
        assert part.path
        read_all(part)


@language
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.text(max_size=20)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
        max_leaves=12,
    )
)
def test_json_is_read_as_json(value: Any) -> None:
    problems: list[Problem] = []
    document = parse_yaml(json.dumps(value), "f.json", problems)
    assert document is not None, problems
    assert document.value == value


@language
@given(st.one_of(TEMPLATES, st.dictionaries(TEXTS, VALUES, max_size=4)), st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_template(source: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    template = outcome(load_template, source, error=TemplateError)
    if template is None:
        return
    for build in template.builds.values():
        if build.type in ("script", "file"):
            assert_inside(build.name)
    known = {name: value for name, value in params.items() if name in template.asked}
    rendered = outcome(template.render, known, filled=FILLED, error=TemplateError)
    if rendered is not None:
        assert rendered.steps("up") is not None
        json.dumps([rendered.params, rendered.values, rendered.options.to_dict()], allow_nan=False)
        for build in rendered.builds.values():
            assert isinstance(build.content, (str, tuple, JobSpec))


@language
@given(TEMPLATES)
def test_any_template_file(tmp_path: Path, source: Mapping[str, Any]) -> None:
    path = tmp_path / "t.yaml"
    try:
        path.write_text(yaml.safe_dump(source, allow_unicode=True))
    except (UnicodeEncodeError, yaml.YAMLError):
        path.write_text(json.dumps(source))
    outcome(load_template, path, error=TemplateError)


@language
@given(SPECS, st.one_of(st.none(), SPECS))
def test_any_spec(source: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> None:
    spec = outcome(load_spec, source, overrides=overrides, error=SpecError)
    if spec is not None:
        assert JobSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        assert all(problem.message for problem in unsupported(spec, kind="ssh"))
        assert not (spec.entry_script or "").startswith(("/", "../"))


@language
@given(
    near(
        kind=st.sampled_from(["ssh", "local"]),
        workers=st.lists(near(conn_id=TEXTS, host=TEXTS, hosts=TEXTS)),
        root=TEXTS,
    )
)
def test_any_pool(source: Mapping[str, Any]) -> None:
    pool = outcome(load_pool, source, name="lab", error=PoolError)
    if pool is not None:
        assert not any(worker.host.startswith("-") for worker in pool.workers)
        assert ".." not in pool.root.split("/")


@language
@given(st.from_regex(r"[a-c]{0,2}(\[[0-9,\-]{0,5}\]){0,3}[a-c]?", fullmatch=True))
def test_any_host_range(text: str) -> None:
    outcome(load_pool, {"kind": "ssh", "workers": [{"conn_id": "a", "hosts": text}]}, error=PoolError)


@language
@given(TEXTS)
def test_any_jinja(text: str) -> None:
    started = time.thread_time()
    line = 1
    try:
        Environment().rendered(text, {"params": {"name": "n", "items": 1}, "values": {"v": [1]}})
    except RenderError as error:
        line = error.problem.line
    assert 1 <= line <= text.count("\n") + 1
    assert time.thread_time() - started < LIMIT_S


@language
@given(st.text())
def test_a_quoted_param_is_one_word_whatever_it_holds(value: str) -> None:
    text = Environment().rendered("echo {{ params.x | quote }}", {"params": {"x": value}})
    assert shlex.split(text) == ["echo", value]


@language
@given(st.text())
def test_the_default_project_is_one_word_of_sh(path: str) -> None:
    name = project_name(path)
    assert shlex.split(name) == [name]
    assert not set(name) & set("./:;&|<>()$`\\\"'*?[]#~ \t\n\0!{}")


@pytest.mark.parametrize("given_params", [{"name": "x\n; rm -rf /"}, {"name": "../../etc"}, {"name": "{{ 1 / 0 }}"}])
def test_given_values_are_data_not_templates(given_params: dict[str, str]) -> None:
    template = load_template(
        {
            "params": ["name"],
            "values": {"v": "{{ params.name }}"},
            "builds": {
                "up": {"type": "script", "content": "{{ values.v }}{{ params.name }}"},
                "down": {"type": "sequence", "content": []},
            },
        }
    )
    rendered = template.render(given_params, filled=FILLED)
    assert rendered.builds["up"].content == given_params["name"] * 2
