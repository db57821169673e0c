"""Jinja in templates: what it gives, what it refuses, and that it always ends."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_jobdeploy.core.names import Scope, check_text
from airflow_jobdeploy.core.sandbox import Environment, RenderError

CONTEXT: dict[str, Any] = {
    "params": {"items": 3, "name": "it's; rm -rf /", "d": {"x": 1, "keys": 2}, "list": [1, "b c"], "none": None},
    "values": {"folder": "runs"},
}


def rendered(text: str) -> str:
    return Environment().rendered(text, CONTEXT)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{ params.items }}{{ params['items'] }}{{ params.d.keys }}", "332"),
        ("{% for k, v in params.d.items() %}{{ k }}={{ v }};{% endfor %}", "x=1;keys=2;"),
        ("{{ params.get('zz', 'none') }}", "none"),
        ("{{ params.name | quote }}", "'it'\"'\"'s; rm -rf /'"),
        ("{{ params.list | quote }}", "1 'b c'"),
        ("{{ params.d | json }} {{ params.list | tojson }}", '{"x": 1, "keys": 2} [1, "b c"]'),
        ("{{ params.d | yaml }} {{ params.none | yaml }} {{ 'a: b' | yaml }}", "{x: 1, keys: 2} null 'a: b'"),
        ("{{ params.d | yaml(block=true) }}", "x: 1\nkeys: 2"),
        ("{{ params.list }} {{ params.none }} {{ true }} {{ params.d }}", "[1, 'b c'] None True {'x': 1, 'keys': 2}"),
        ("a\n\n", "a\n"),
        ("{{ 'a' }}\n", "a"),
        ("no jinja\n", "no jinja"),
        ("a\r\nb\r\n", "a\nb"),
        ("{{ 1 }}\r\nb\r\n", "1\nb"),
        ("<&> {{ '<&>' }}", "<&> <&>"),
        ("{{ 'a' ~ 1 ~ none }} {{ [1, 2] | join(',') }} {{ 'x' * 3 }} {{ 2 ** 10 }}", "a1None 1,2 xxx 1024"),
        ("{{ 'run-%03d' | format(7) }} {{ 'run-%03d' % 7 }} {{ '{:03d}'.format(7) }}", "run-007 run-007 007"),
        ("{% raw %}${#names[@]} {{ x }}{% endraw %}", "${#names[@]} {{ x }}"),
        ("{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(1) }}{{ f('b') }}", "<1><b>"),
        ("{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "10"),
        ("{% for i in [1, 2] %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/2 2/2 "),
        (
            "{{ ['b', 'a'] | sort | map('upper') | list }} {{ 'abc'[1:] }} {{ 'a b'.split() }}",
            "['A', 'B'] bc ['a', 'b']",
        ),
        ("{{ params.zz | default('d') }}{% if params.zz is defined %}x{% endif %}", "d"),
        ("{{ params['zz'] | default('d') }}{% if params['zz'] is defined %}x{% endif %}", "d"),
        (
            "{{ 'b' in params.name }} {{ 1 in params.list }} {{ 5 is odd }} {{ 1 is in [1] }} {{ 1 < 2 <= 2 }}",
            "False True True True True",
        ),
        ("{% set x = 'X' * 3 %}{{ x[::2] }} {{ (1, 2)[0] }} {{ {'a': 1}.a }}", "XX 1 1"),
        ("{{ values.folder | replace('r', 'R') | indent(2) }}", "Runs"),
    ],
)
def test_what_texts_give(text: str, result: str) -> None:
    assert rendered(text) == result


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 10 ** 10 ** 10 ** 10 ** 10 }}",
        "{{ (2 ** 4000) * (2 ** 4000) }}",
        "{{ range(10 ** 9) | list }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(40000) %}" + "x" * 1000 + "{% endfor %}",
        "{% set y %}{% for i in range(40000) %}" + "x" * 1000 + "{% endfor %}{% endset %}",
        "{% set n = namespace(a='aaaaaaaa') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "{% set n = namespace(a='aaaaaaaa') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
        "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
        "{% set n = namespace(a={}) %}{% for i in range(99) %}{% set n.a = {'x': n.a, 'y': n.a} %}{% endfor %}",
        "{% set n = namespace(a='a' * 1000) %}{% for i in range(9) %}"
        "{% set n.a = n.a.replace('a', 'a' * 1000) %}{% endfor %}",
        "{% set n = namespace(a='a' * 1000) %}{% for i in range(9) %}"
        "{% set n.a = n.a | replace('a', 'a' * 1000) %}{% endfor %}",
        "{% set a = 'a' * 500000 %}{% for i in range(40000) %}{% if 'b' in a %}{% endif %}{% endfor %}",
        "{% set a = 'a' * 500000 %}{% for i in range(40000) %}{% if 'b' is in a %}{% endif %}{% endfor %}",
        "{% set a = 'a' * 500000 %}{% for i in range(40000) %}{% set b = a[1:] %}{% endfor %}",
        "{% set a = 'a' * 500000 %}{% for i in range(40000) %}{% set b = a.upper() %}{% endfor %}",
        "{{ [" + "1," * 120_000 + "] }}",
        "{{ ('a' * 1000).join(['b'] * 100000) }}",
        "{{ (['b'] * 100000) | join('a' * 1000) }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in params.list recursive %}{{ loop(params.list) }}{% endfor %}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.1000000000f' | format(1.0) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 1000000000) }}",
        "{{ 1.5 | round(1000000000, 'ceil') }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ ('\\n' * 100000) | indent(900) }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "1+" * 5000 + "1 }}",
        "{{ " + "-" * 5000 + "1 }}",
        "{{ " + "[" * 3000 + "]" * 3000 + " }}",
        "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
        "{{ 1 }}" * 6000,
        "{{ '" + "x" * 300_000 + "' }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ params.__class__ }}",
        "{{ params['__class__'] }}",
        "{{ params.d.update({}) }}",
        "{{ params.list.append(1) }}",
        "{{ (1).to_bytes(10 ** 9, 'big') }}",
        "{{ 'a'.center(10) }}",
        "{{ 'a'.encode() }}",
        "{{ range.__globals__ }}",
        "{{ self }}",
        "{{ self.__init__ }}",
        "{{ params.get }}",
        "{{ range }}",
        "{{ namespace(a=1) }}",
        "{{ lipsum() }}",
        "{{ cycler }}",
        "{{ 'x' | attr('upper') }}",
        "{{ [1, 2] | random }}",
        "{{ ['a'] | map('attr', '__class__') | list }}",
        "{{ ['a'] | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0.__class__}'.format_map({}) }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% block a %}{% endblock %}",
        "{{ params.zz }}",
        "{{ params.zz | quote }}",
        "{{ params.zz | json }}",
        "{{ [params.zz] | join }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ {} | json(indent='x') }}",
        "{{ range | json }}",
        "{{ params.d[[]] }}",
        "{{ {[]: 1} }}",
        "{{",
        "{% for %}",
        "{% endif %}",
        "${#names[@]}",
    ],
)
def test_what_texts_may_not_do_ends_quickly_in_one_kind_of_error(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(RenderError):
        rendered(text)
    assert time.thread_time() - started < 10  # CPU seconds; the slowest takes one


def test_the_line_of_what_failed() -> None:
    with pytest.raises(RenderError) as caught:
        rendered("one\n{% if true %}\n{{ 1 / 0 }}\n{% endif %}\n")
    assert caught.value.problem.line == 3


def test_the_budget_is_of_all_texts_together() -> None:
    environment = Environment()
    text = "{% for i in range(30000) %}{% endfor %}"
    assert environment.rendered(text, CONTEXT) == ""
    with pytest.raises(RenderError, match="loops more than"):
        environment.rendered(text, CONTEXT)


SCOPE = Scope(params=frozenset({"name", "items"}), values=frozenset({"a"}), later=frozenset({"b"}))


@pytest.mark.parametrize(
    "text",
    [
        "{{ params.name }} {{ params['items'] }} {{ values.a }}",
        "{% if params.gpu is defined %}{{ params.gpu }}{% endif %}",
        "{% if 'gpu' in params %}{{ params.gpu }}{% endif %}",
        "{{ params.gpu | default(0) }} {{ gpu | d(0) }}",
        "{% for k in params.items() %}{{ k }}{% endfor %}{{ params.get('x') }}",
        "{% set x = 1 %}{{ x }} {% macro m(y) %}{{ y }}{% endmacro %}{{ m(1) }}",
        "{{ params[params.name] }} {{ range(3) }} {{ dict(a=1) }}",
        "{# a comment about params.nothing #}",
    ],
)
def test_texts_that_are_in_order(text: str) -> None:
    assert check_text(Environment(), text, SCOPE) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ params.nam }}", "the param 'nam' is not declared.  Did you mean 'name'?"),
        ("\n{{ params['nam'] }}", "the param 'nam' is not declared.  Did you mean 'name'?"),
        ("{{ params.keys }}", "the param 'keys' is not declared."),
        ("{{ values.b }}", "the value 'b' is not there yet."),
        ("{{ values.c }}", "the value 'c' is not defined."),
        ("{{ name }}", "'name' is undefined. Write params.name."),
        ("{{ a }}", "'a' is undefined. Write values.a."),
        ("{{ x is oddly }}", "there is no test 'oddly'.  Did you mean 'odd'?"),
        ("{{ x | qoute }}", "there is no filter 'qoute'.  Did you mean 'quote'?"),
        ("{{ x | _settled }}", "there is no filter '_settled'."),
        ("{% set params = {} %}", "'params' cannot be set."),
    ],
)
def test_names_are_checked_without_rendering(text: str, said: str) -> None:
    found = [f"{problem.message} {problem.hint}" for problem in check_text(Environment(), text, SCOPE)]
    assert any(problem.startswith(said) for problem in found), found
