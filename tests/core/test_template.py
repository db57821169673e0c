"""Templates: parents, params, builds; what is rendered, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.builds import Whitelist
from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.core.template import (
    ParamSpec,
    RenderedTemplate,
    Template,
    load_template,
    project_name,
)
from airflow_jobdeploy.errors import TemplateError

FILLED = {"id": "k3x9", "project": "/home/ada/my.proj", "created": "2026-01-01", "user": "ada", "commit": "c0ffee"}
BASE: dict[str, Any] = {
    "builds": {"up": {"type": "script", "content": "u"}, "down": {"type": "script", "content": "d"}}
}
Write = Callable[..., None]


def template(**sections: Any) -> Template:
    """A template of `sections`, with an `up` and a `down`."""
    return load_template({**BASE, **sections, "builds": {**BASE["builds"], **sections.get("builds", {})}})


def rendered(text: str, params: Any = (), given: Mapping[str, Any] | None = None, **sections: Any) -> str:
    """What the script `x` with `text` becomes."""
    loaded = template(params=list(params), builds={"x": {"type": "script", "content": text}}, **sections)
    return str(loaded.render(given or {}, filled=FILLED).builds["x"].content)


def messages(error: TemplateError) -> str:
    return "\n".join(str(problem) for problem in error.problems)


# -- The seed's own files


def test_the_seeds_local_template_runs_verbatim(data: Path) -> None:
    loaded = load_template(data / "local.yaml")
    result = loaded.render({"name": "digits", "run": "python main.py", "python": "python3"}, filled=FILLED)
    assert [step.name for step in result.steps("up")] == ["install", "deploy_script", "start"]
    assert result.builds["start"].content == (
        "#!/bin/bash\n"
        "chmod +x .jd/local-k3x9/tasks/deploy_script\n"
        'tmux new-session -d -s my_proj-k3x9 ".jd/local-k3x9/tasks/deploy_script"'
    )
    assert result.builds["down"].whitelist == Whitelist(exit_codes=(1,))
    assert result.params == {
        "project": "my_proj",
        "name": "digits",
        "id": "k3x9",
        "subdir": "local-k3x9",
        "run": "python main.py",
        "python": "python3",
    }


def test_the_seeds_child_template_overrides_a_build_written_at_the_top_level(data: Path) -> None:
    loaded = load_template(data / "my_model.yaml")
    assert loaded.name == "my_model"
    assert list(loaded.asked) == ["project", "name", "run"]
    assert [path.name for path in loaded.sources] == ["my_model.yaml", "local.yaml"]
    result = loaded.render({"name": "digits", "run": "x"}, filled=FILLED)
    assert 'echo "watching the job..."' in str(result.builds["watch"].content)
    assert "/usr/bin/python3 -m pip" in str(result.builds["install"].content)
    assert result.filled["subdir"] == "my_model-k3x9"


def test_what_binds_fix_cannot_be_given(data: Path) -> None:
    with pytest.raises(TemplateError, match=r"'python' is fixed by `binds` at .*my_model.yaml:4"):
        load_template(data / "my_model.yaml").render({"name": "x", "run": "x", "python": "y"}, filled=FILLED)


# -- Parents


def test_parents_at_any_depth(write: Write) -> None:
    write(
        a="params: [x, {y: {default: 1}}]\nvalues: {v: a, w: a}\noptions: {timeout: 5, grace: 3}\n"
        "builds: {up: {type: script, content: 'a {{ params.x }}'}, down: {type: script, content: a}}\n",
        b="parent: a.yaml\nparams: [x, z]\nbinds: {x: b}\nvalues: {w: b}\noptions: {timeout: 6}\n",
        c="parent: b\nbinds: {z: c}\nbuilds: {down: {type: script, content: '{{ values.v }}{{ values.w }}'}}\n",
    )
    loaded = load_template("c.yaml")
    result = loaded.render({}, filled=FILLED)
    assert list(loaded.params) == ["x", "y", "z"]
    assert loaded.params["y"].default == 1
    assert loaded.binds == {"x": "b", "z": "c"}
    assert (result.builds["up"].content, result.builds["down"].content) == ("a b", "ab")
    assert (result.options.timeout_s, result.options.grace_s) == (6, 3)


def test_a_parent_is_looked_for_beside_its_child_then_on_the_search_path(tmp_path: Path) -> None:
    text = "params: []\nbuilds: {up: {type: script, content: NAME}, down: {type: script, content: d}}\n"
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    for folder in ("far", "near"):
        (tmp_path / folder / "base.yaml").write_text(text.replace("NAME", folder))
        (tmp_path / "near" / "child.yaml").write_text("parent: base.yaml\n")
        loaded = load_template(tmp_path / "near" / "child.yaml", search_path=[tmp_path / "far"])
        assert loaded.builds["up"].content == folder


@pytest.mark.parametrize("length", [1, 2, 5])
def test_cycles_of_parents_end(length: int, write: Write) -> None:
    write(**{f"t{n}": f"parent: ./t{(n + 1) % length}.yaml\n" for n in range(length)})
    with pytest.raises(TemplateError, match="is its own parent"):
        load_template("t0.yaml")


def test_a_parent_through_a_link_to_itself_is_a_cycle(write: Write) -> None:
    write(t="parent: link.yaml\n")
    Path("link.yaml").symlink_to("t.yaml")
    with pytest.raises(TemplateError, match="is its own parent"):
        load_template("t.yaml")


def test_problems_of_all_files_come_at_once(write: Write) -> None:
    write(base="params: 3\n", child="parent: base.yaml\nbuilds: {up: {type: scrip}}\nbinds: []\n")
    with pytest.raises(TemplateError) as caught:
        load_template("child.yaml")
    assert {problem.where for problem in caught.value.problems} >= {"base.yaml:1", "child.yaml:2", "child.yaml:3"}


def test_the_digest_is_of_the_meaning(write: Write) -> None:
    text = "params: [a]\nbuilds: {up: {type: script, content: u}, down: {type: script, content: d}}\n"
    write(
        one=text,
        two="# comment\n" + text.replace("[a]", "\n  - a"),
        child="parent: one.yaml\n",
        other=text + "values: {x: 1}",
    )
    digests = {name: load_template(f"{name}.yaml").digest for name in ("one", "two", "child", "other")}
    assert digests["one"] == digests["two"] == digests["child"] != digests["other"]
    assert len(digests["one"]) == 64


# -- Params


@pytest.mark.parametrize(
    ("spec", "given", "value"),
    [
        (None, 3, 3),
        (None, None, None),
        ({"type": "string"}, "x", "x"),
        ({"type": "int"}, "12", 12),
        ({"type": "integer"}, 5.0, 5),
        ({"type": "number"}, "1e-3", 0.001),
        ({"type": "bool"}, "true", True),
        ({"type": "array"}, ["a"], ["a"]),
        ({"type": "mapping"}, {"a": 1}, {"a": 1}),
        ({"enum": [1, "a"]}, "a", "a"),
        ({"default": None, "type": "string"}, None, None),
        ({"minimum": 1, "maximum": 2}, 2, 2),
        ({"pattern": "^v"}, "v1", "v1"),
        ({"secret": True}, "var:token", "var:token"),
        ({"secret": True}, "conn:my.db.extra.key.part", "conn:my.db.extra.key.part"),
    ],
)
def test_values_that_fit(spec: Any, given: Any, value: Any) -> None:
    found = template(params={"p": spec}).render({"p": given}, filled=FILLED).params["p"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("spec", "given", "said"),
    [
        ({"type": "string"}, 3, "expected text, found a whole number 3"),
        ({"type": "string"}, None, "expected text, found nothing"),
        ({"type": "integer"}, "1.5", "expected a whole number"),
        ({"type": "integer"}, True, "expected a whole number"),
        ({"type": "boolean"}, 1, "expected true or false"),
        ({"type": "array"}, "a", "expected a list"),
        ({"type": "object"}, [], "expected a mapping"),
        ({"enum": [1, 2]}, True, "is none of 1, 2"),
        ({"minimum": 1}, 0, "0 is less than 1"),
        ({"pattern": "^v"}, "x", "does not match"),
        ({"secret": True}, "hunter2", "must not be written here"),
        ({"secret": True}, "conn:db", "must not be written here"),
        ({"secret": True}, "conn:db.user", "must not be written here"),
        (None, "a\0b", "NUL"),
        (None, object(), "a value of type object"),
    ],
)
def test_values_that_do_not_fit(spec: Any, given: Any, said: str) -> None:
    with pytest.raises(TemplateError) as caught:
        template(params={"p": spec}).render({"p": given}, filled=FILLED)
    assert said in messages(caught.value)
    assert "hunter2" not in messages(caught.value)


def test_params_may_be_a_list_of_names_and_mappings() -> None:
    loaded = template(params=["a", {"b": {"default": 1}, "c": None}])
    assert {name: spec.required for name, spec in loaded.params.items()} == {"a": True, "b": False, "c": True}


def test_names_in_lists_are_the_text_as_written(write: Write) -> None:
    write(t="params: [on, no, 1]\nbuilds: {up: {type: script, content: u}, down: {type: script, content: d}}")
    assert list(load_template("t.yaml").params) == ["on", "no", "1"]


@pytest.mark.parametrize("name", ["id", "subdir", "created", "commit", "user"])
def test_what_is_filled_by_us_cannot_be_given(name: str) -> None:
    with pytest.raises(TemplateError, match="is filled for every job"):
        template(params=[name]).render({name: "x"}, filled=FILLED)
    with pytest.raises(TemplateError, match="is filled for every job"):
        template(params=[name], binds={name: "x"})


def test_what_is_filled_but_not_declared_is_not_there() -> None:
    with pytest.raises(TemplateError, match="the param 'id' is not declared"):
        rendered("{{ params.id }}")


@pytest.mark.parametrize(
    ("given", "spec", "project"),
    [
        ({}, None, "my_proj"),
        ({"project": "a.b:c d"}, None, "a_b_c d"),
        ({}, {"default": "mine"}, "mine"),
    ],
)
def test_project(given: dict[str, str], spec: Any, project: str) -> None:
    result = template(params={"project": spec}).render(given, filled=FILLED)
    assert (result.params["project"], result.filled["project"]) == (project, project)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ada/my.proj", "my_proj"),
        ("/srv/app/", "app"),
        ("a:b", "a_b"),
        ("; rm -rf ~", "__rm_-rf__"),
        ("$(id)\n", "__id__"),
        ("/", "project"),
        ("", "project"),
        (".", "project"),
        ("x/..", "x"),
        ("größe", "größe"),
    ],
)
def test_the_default_project_is_safe_in_any_script(path: str, name: str) -> None:
    assert project_name(path) == name


def test_a_templates_odd_file_name_is_safe_in_paths(tmp_path: Path) -> None:
    path = tmp_path / "my; rm -rf $HOME.yaml"
    path.write_text("params: []\nbuilds: {up: {type: script, content: u}, down: {type: script, content: d}}")
    assert load_template(path).render({}, filled=FILLED).filled["subdir"] == "my__rm_-rf__HOME-k3x9"


def test_forms_are_made_from_json_schema() -> None:
    spec = template(
        params={
            "epochs": {"type": "int", "default": 3, "minimum": 1, "maximum": 9, "description": "Rounds."},
            "mode": {"enum": ["a", "b"]},
            "note": {"type": "string", "default": None},
            "token": {"secret": True},
        }
    ).params
    assert spec["epochs"].json_schema() == {
        "title": "epochs",
        "description": "Rounds.",
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "default": 3,
    }
    assert spec["mode"].json_schema() == {"title": "mode", "enum": ["a", "b"]}
    assert spec["note"].json_schema() == {"title": "note", "type": ["string", "null"], "default": None}
    assert spec["token"].json_schema()["type"] == "string"
    assert ParamSpec(name="x").json_schema() == {"title": "x"}


# -- Values, options, builds


def test_values_are_rendered_in_order_and_other_scalars_pass() -> None:
    values = {"a": "{{ params.x }}", "b": ["{{ values.a }}!", 1, None, True, 0.5], "c": {"d": "{{ values.b[0] }}"}}
    result = template(params=["x"], values=values).render({"x": 1}, filled=FILLED)
    assert result.values == {"a": "1", "b": ["1!", 1, None, True, 0.5], "c": {"d": "1!"}}


def test_options_are_rendered_and_read_as_fields_of_specs() -> None:
    options = {"timeout": "{{ params.t }}", "env": {"A": "{{ params.t }}", "B": 1}, "secret_env": {"C": "var:c"}}
    result = template(params=["t"], options=options).render({"t": "1h"}, filled=FILLED)
    assert (result.options.timeout_s, result.options.env) == (3600, {"A": "1h", "B": "1"})
    assert result.options.leftovers == "wait"
    with pytest.raises(TemplateError, match="expected seconds"):
        template(params=["t"], options=options).render({"t": "soon"}, filled=FILLED)


def test_a_job_build_is_a_job_spec() -> None:
    content = {"command": "train {{ params.n }}", "timeout": "{{ params.n }}", "primeway_api_token": "xyz"}
    loaded = template(params=["n"], builds={"train": {"type": "job", "content": content, "whitelist": 3}})
    result = loaded.render({"n": 60}, filled=FILLED)
    spec = result.builds["train"].content
    assert isinstance(spec, JobSpec)
    assert (spec.command, spec.timeout_s) == ("train 60", 60)
    assert result.builds["train"].whitelist == Whitelist(exit_codes=(3,))
    assert len(result.warnings) == 1
    assert "xyz" not in repr(result)


@pytest.mark.parametrize(
    ("entry", "whitelist"),
    [
        ([256], Whitelist(exit_codes=(1,))),
        ([0, 1, 255, 65280, 33280], Whitelist(exit_codes=(0, 1, 130, 255))),
        (["SIGKILL", "term", "3"], Whitelist(exit_codes=(3,), signals=(9, 15))),
        (7, Whitelist(exit_codes=(7,))),
        ("SIGINT", Whitelist(signals=(2,))),
        ([], Whitelist()),
        (None, Whitelist()),
    ],
)
def test_whitelists(entry: Any, whitelist: Whitelist) -> None:
    build = {"type": "script", "content": "x", "whitelist": entry}
    assert template(builds={"x": build}).builds["x"].whitelist == whitelist


def test_what_a_whitelist_allows() -> None:
    whitelist = Whitelist(exit_codes=(1,), signals=(9,))
    assert [whitelist.allows(exit_code=code) for code in (0, 1, 2)] == [True, True, False]
    assert [whitelist.allows(signal=number) for number in (9, 15)] == [True, False]
    assert not Whitelist().allows()


def test_nested_sequences_are_followed() -> None:
    def sequence(*names: str) -> dict[str, Any]:
        return {"type": "sequence", "content": list(names)}

    script = {"type": "script", "content": "x"}
    loaded = template(
        builds={"up": sequence("a", "s", "a"), "s": sequence("b", "e"), "e": sequence(), "a": script, "b": script}
    )
    assert [step.name for step in loaded.render({}, filled=FILLED).steps("up")] == ["a", "b", "a"]


def test_sequences_that_double_are_counted_not_written_out() -> None:
    builds: dict[str, Any] = {f"s{n}": {"type": "sequence", "content": [f"s{n + 1}"] * 2} for n in range(60)}
    builds["s60"] = {"type": "sequence", "content": []}
    with pytest.raises(TemplateError, match="runs more than 5000 builds"):
        template(builds=builds)


def test_long_chains_of_sequences_are_followed() -> None:
    builds: dict[str, Any] = {f"s{n}": {"type": "sequence", "content": [f"s{n + 1}"]} for n in range(2000)}
    builds["s2000"] = {"type": "script", "content": "x"}
    assert len(template(builds=builds).render({}, filled=FILLED).steps("s0")) == 1


@pytest.mark.parametrize(
    "name", ["../x", "a/../b", "/x", "a//b", "a/", "./a", "..", ".", "", " ", "a\nb", "x" * 300, "é" * 200]
)
def test_names_of_files_stay_below_their_folder(name: str) -> None:
    with pytest.raises(TemplateError, match="the name"):
        template(builds={name: {"type": "file", "content": "x"}})


@pytest.mark.parametrize("name", ["conf/app.json", "a b", "$(id)", "-x", "...", "größe", "a\\b"])
def test_odd_names_of_files_are_names(name: str) -> None:
    assert name in template(builds={name: {"type": "file", "content": "x"}}).builds


# -- Secrets

SECRET: dict[str, Any] = {
    "params": {"token": {"secret": True}, "x": None},
    "values": {"header": "Bearer {{ params.token }}"},
    "builds": {**BASE["builds"], "use": {"type": "file", "content": "{{ values.header }} {{ params.x }}"}},
}


def render_secret(resolve: Callable[[str], str] | None) -> RenderedTemplate:
    return load_template(SECRET).render({"token": "conn:hub.password", "x": 1}, filled=FILLED, resolve_secret=resolve)


def test_without_a_resolver_references_stand_in_the_texts() -> None:
    result = render_secret(None)
    assert result.builds["use"].content == "Bearer conn:hub.password 1"
    assert result.secrets == ("conn:hub.password",)


def test_secrets_are_in_the_texts_of_builds_only() -> None:
    result = render_secret({"conn:hub.password": "s3cr3t"}.__getitem__)
    assert result.builds["use"].content == "Bearer s3cr3t 1"
    assert "s3cr3t" not in repr(result) + str(result.params) + str(result.values) + str(result.options.to_dict())


def test_secrets_reach_job_builds_as_references_only() -> None:
    def loaded(**content: Any) -> Template:
        return template(params={"token": {"secret": True}}, builds={"j": {"type": "job", "content": content}})

    given = {"token": "var:hub"}
    result = loaded(command="x", secret_env={"T": "{{ params.token }}"}).render(
        given, filled=FILLED, resolve_secret=lambda reference: "s3cr3t"
    )
    spec = result.builds["j"].content
    assert isinstance(spec, JobSpec)
    assert spec.secret_env == {"T": "var:hub"}
    with pytest.raises(TemplateError, match="Put it in secret_env"):
        loaded(command="x --token {{ params.token }}").render(given, filled=FILLED)


def test_a_secret_in_options_env_is_refused() -> None:
    loaded = template(params={"token": {"secret": True}}, options={"env": {"T": "{{ params.token }}"}})
    with pytest.raises(TemplateError, match="Put it in secret_env"):
        loaded.render({"token": "var:hub"}, filled=FILLED)


# -- Loading


def test_a_template_is_a_path_or_a_mapping(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    assert load_template("data/local").name == load_template(str(data / "local.yaml")).name == "local"
    assert load_template(BASE).name == "template"


def test_rendering_does_not_change_the_template() -> None:
    loaded = template(params=["x"], values={"v": ["{{ params.x }}"]})
    first = loaded.render({"x": 1}, filled=FILLED)
    loaded.render({"x": 2}, filled=FILLED)
    assert first.values == {"v": ["1"]}
    assert loaded.values == {"v": ["{{ params.x }}"]}
