"""Runs `answer(question)` of a module in a fresh interpreter: python -m benchmarks.apart MODULE QUESTION ANSWER."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """The question is read from a file and the answer written to one: stdout is free for what is measured."""
    module, question, answer = sys.argv[1:]
    found = importlib.import_module(module).answer(json.loads(Path(question).read_text()))
    Path(answer).write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # whatever threads and tasks are left are of no interest any more


if __name__ == "__main__":
    main()
