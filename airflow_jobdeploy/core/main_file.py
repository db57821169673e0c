"""DDL's contract for code, looked at before anything is sent: main.py has main(dataset_dir, model_output_dir).

The text is compiled with the Python that runs here, never run. What cannot be known without running it (a `main` that
is imported, assigned or decorated) passes.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_jobdeploy.errors import Problem

NAME = "main.py"
#: The parameters by their names in DDL's documentation.
PARAMETERS = ("dataset_dir", "model_output_dir")
_WANTED = f"def main({', '.join(PARAMETERS)}):"
_HINT = f"Write {_WANTED!r} in it."
#: A longer text is data, not a program, in bytes.
MAX_BYTES = 4 << 20

_Block = ast.If | ast.Try | ast.With | ast.For | ast.While


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in a main.py."""

    problems: tuple[Problem, ...] = ()
    #: Odd, but no error; each names file and line.
    warnings: tuple[str, ...] = ()


def check_main(source: bytes | None, where: str = NAME) -> Checked:
    """Look at a main.py; None when there is none. `where`: what problems call it."""
    if source is None:
        return Checked(problems=(Problem(where, "", f"there is no {NAME} at the project's root.", _HINT),))
    if len(source) > MAX_BYTES:
        return Checked(problems=(Problem(where, "", f"is larger than {MAX_BYTES >> 20} MiB."),))
    tree = _parsed(source, where)
    if isinstance(tree, Problem):
        return Checked(problems=(tree,))
    bound = [node for name, node in _bindings(tree.body) if name == "main"]
    if bound:
        problems = [Problem(f"{where}:{node.lineno}", "", message, hint) for node, message, hint in _faults(bound[-1])]
    else:
        problems = [] if _has_star(tree) else [Problem(where, "", "has no function main.", _HINT)]
    return Checked(problems=tuple(problems), warnings=tuple(_called_again(tree, where)))


def _parsed(source: bytes, where: str) -> ast.Module | Problem:
    hint = f"So says Python {'.'.join(map(str, sys.version_info[:3]))}, with which Airflow runs here."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again where it runs
            tree = ast.parse(source, NAME)
            compile(tree, NAME, "exec", dont_inherit=True)  # `return` outside a function, and the like
    except SyntaxError as error:
        place = f"{where}:{error.lineno}" if error.lineno else where
        return Problem(place, "", f"{error.msg}.", hint)
    except (ValueError, RecursionError, MemoryError) as error:
        return Problem(where, "", f"cannot be compiled: {str(error) or type(error).__name__}.", hint)
    return tree


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """(name, statement) of what a module's statements bind, in order; functions and classes are not looked into."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, _Block):
            for inner in _blocks(node):
                yield from _bindings(inner)
        else:
            stored = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            yield from ((part.id, node) for part in stored)


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(node, name, [])
    for handler in getattr(node, "handlers", []):
        yield handler.body


def _has_star(tree: ast.Module) -> bool:
    """`from x import *` may bring a main."""
    return any(name == "*" for name, _ in _bindings(tree.body))


def _faults(node: ast.stmt) -> Iterator[tuple[ast.stmt, str, str]]:
    """Everything that keeps what is called main from being called with two directories."""
    if isinstance(node, ast.ClassDef):
        yield node, "main is a class, expected a function.", f"Write {_WANTED!r}."
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.decorator_list:
        return  # a decorator may change all of it
    if isinstance(node, ast.AsyncFunctionDef):
        hint = "Write 'def main', and asyncio.run(...) in it."
        yield node, "main is async: called, it would only give a coroutine.", hint
    elif any(isinstance(part, (ast.Yield, ast.YieldFrom)) for part in _own(node)):
        yield node, "main has a yield: called, it would only give a generator.", "Let it return when it is done."
    fault = _parameter_fault(node.args)
    if fault:
        yield node, f"main({ast.unparse(node.args)}) {fault}.", f"It is called with two directories: {_WANTED}"


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _own(node)


def _parameter_fault(args: ast.arguments) -> str:
    """Why a call with two positional arguments fails, or means something else; "" when it is fine."""
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    needed = len(names) - len(args.defaults)
    keywords = [arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is None]
    if len(names) < 2 and args.vararg is None:
        return f"takes {len(names)} of the two"
    if needed > 2:
        return f"needs {needed}"
    if keywords:
        return f"needs {', '.join(keywords)} by name"
    if tuple(names[:2]) == PARAMETERS[::-1]:
        return "has the two in the wrong order"
    return ""


def _called_again(tree: ast.Module, where: str) -> Iterator[str]:
    for node in tree.body:
        value = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "main":
            text = "calls main() itself: it would run twice. Remove the call, or put it below"
            yield f'{where}:{node.lineno}: {text} `if __name__ == "__main__":`.'
