"""main.py looked at before it is sent: DDL's contract for code."""

from __future__ import annotations

import sys

import pytest

from airflow_jobdeploy.core.main_file import MAX_BYTES, check_main

#: As printed in DDL's documentation: line 2 has no colon.
SAMPLE = """\
from example_lib import train
def main(dataset_dir, model_output_dir)
    your_train_fn(dataset_dir, model_output_dir)
"""


def said(text: str | bytes) -> list[str]:
    return [str(problem) for problem in check_main(text.encode() if isinstance(text, str) else text).problems]


def test_the_sample_as_printed_has_a_mistake() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    assert said(SAMPLE) == [f"main.py:2: expected ':'. So says Python {version}, with which Airflow runs here."]
    assert said(SAMPLE.replace("_dir)\n", "_dir):\n", 1)) == []


@pytest.mark.parametrize(
    "text",
    [
        "def main(dataset_dir, model_output_dir): pass",
        "def main(a, b, c=1, *, d=2, **e): pass",
        "def main(*dirs): pass",
        "def main(a, /, *rest): pass",
        "from train import main",
        "import train as main",
        "from train import *",
        "import functools, train\nmain = functools.partial(train.run, epochs=3)",
        "main, other = make()",
        "if True:\n    def main(a, b): pass",
        "try:\n    from fast import main\nexcept ImportError:\n    def main(a, b): pass",
        "async def main(a, b): pass\ndef main(a, b): pass",
        "@hydra.main()\ndef main(config): pass",
        "@synchronous\nasync def main(a, b): await x()",
        "def main(a, b):\n    def inner():\n        yield 1\n    return list(inner())",
        b"# -*- coding: latin-1 -*-\nname = '\xe9'\ndef main(a, b): pass",
        b"\xef\xbb\xbfdef main(a, b):\r\n    pass\r\n",
        r"x = '\d'" + "\ndef main(a, b): pass",
    ],
)
def test_what_can_be_called(text: str | bytes) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "main.py: has no function main."),
        ("def man(a, b): pass", "main.py: has no function main."),
        ("class A:\n    def main(self, a, b): pass", "main.py: has no function main."),
        ("def main(): pass", "main.py:1: main() takes 0 of the two."),
        ("\ndef main(dataset_dir): pass", "main.py:2: main(dataset_dir) takes 1 of the two."),
        ("def main(a, b, c): pass", "main.py:1: main(a, b, c) needs 3."),
        ("def main(a, b, *, c): pass", "main.py:1: main(a, b, *, c) needs c by name."),
        ("def main(*, dataset_dir, model_output_dir): pass", "takes 0 of the two."),
        ("def main(model_output_dir, dataset_dir): pass", "has the two in the wrong order."),
        ("class main: pass", "main.py:1: main is a class, expected a function."),
        ("async def main(a, b): pass", "main.py:1: main is async"),
        ("def main(a, b):\n    yield 1", "main.py:1: main has a yield"),
        ("def main(a, b): pass\nreturn 3", "main.py:2: 'return' outside function."),
        ("def main(a, b):\n\tpass\n        x", "main.py:3: "),
        ("def main(a, b): pass\0", "main.py: "),
        (b"\xff\xfe", "codec can't decode byte 0xff"),
        ("# coding: nonsense\n", "unknown encoding: nonsense"),
        (b"(" * 100_000, "main.py"),
        (b"#" * (MAX_BYTES + 1), "main.py: is larger than 4 MiB."),
    ],
)
def test_what_cannot(text: str | bytes, expected: str) -> None:
    found = said(text)
    assert len(found) == 1
    assert expected in found[0]


def test_all_that_is_wrong_at_once() -> None:
    found = said("async def main(dataset_dir): pass")
    assert [text.partition(".")[0] + text.partition(".py")[2].partition(".")[0] for text in found] == [
        "main:1: main is async: called, it would only give a coroutine",
        "main:1: main(dataset_dir) takes 1 of the two",
    ]


def test_a_missing_one() -> None:
    [problem] = check_main(None, "my project/main.py").problems
    assert str(problem) == (
        "my project/main.py: there is no main.py at the project's root. "
        "Write 'def main(dataset_dir, model_output_dir):' in it."
    )


def test_one_that_calls_itself_is_warned_of() -> None:
    text = "def main(a, b): pass\nmain('data', 'out')\n"
    [warning] = check_main(text.encode()).warnings
    assert warning.startswith("main.py:2: calls main() itself: it would run twice.")
    guarded = "def main(a, b): pass\nif __name__ == '__main__':\n    main('data', 'out')\n"
    assert check_main(guarded.encode()).warnings == ()
