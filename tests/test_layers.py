"""The tree is the architecture: imports run downward only, the core knows no Airflow, hosts get the stdlib alone.

The layers, lowest first. A module may import its own layer and those before it:
errors, hostside, core, packing, backends, service, testing | Airflow | the faces.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "airflow_jobdeploy"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

#: Lowest first. Above `testing` is the line: what stands in FACES may import Airflow, what stands here may not.
BELOW_THE_LINE = ("errors", "hostside", "core", "packing", "backends", "service", "testing")
FACES = (
    "cli",
    "commands",
    "decorators",
    "example_dags",
    "get_provider_info",
    "hooks",
    "links",
    "operators",
    "params",
    "retries",
    "plugin",
    "sensors",
    "triggers",
)
#: Modules that the examples ship as data: they run on a worker and are no part of the package's imports.
DATA = ROOT / "example_dags" / "examples"


def _sources() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        if DATA in path.parents:
            continue
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = _sources()


def _layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    """The module that `from ... import` names; the folder that hosts get has another name there: it may be relative."""
    folders = path.relative_to(ROOT.parent).parts[:-1]
    base = ".".join(folders[: len(folders) - node.level + 1]) if node.level else ""
    return ".".join(part for part in (base, node.module or "") if part)


def _imports(path: Path) -> list[tuple[int, str]]:
    """Every module that a file names in an import, with its line; also those inside functions and for types only."""
    found: list[tuple[int, str]] = []
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), filename=str(path))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(path, node)
            # `from package import module` names a module, `from module import name` does not: keep both readings.
            found.append((node.lineno, source))
            found += [(node.lineno, f"{source}.{alias.name}") for alias in node.names]
        todo.extend(ast.iter_child_nodes(node))
    return found


def _own(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def test_every_module_has_its_layer() -> None:
    """A folder that no layer knows would escape all the rules below."""
    strangers = {_layer(module) for module in SOURCES} - {"", *BELOW_THE_LINE, *FACES}
    assert not strangers, f"{sorted(strangers)} stand in no layer: add them to this file, in their place"


def test_imports_run_downward_only() -> None:
    order = {name: level for level, name in enumerate(BELOW_THE_LINE)}
    order.update(dict.fromkeys(FACES, len(BELOW_THE_LINE)))
    wrong = [
        f"{path}:{line}: {_layer(module)} imports {_layer(target)}"
        for module, path in SOURCES.items()
        for line, target in _imports(path)
        if _own(target) and _layer(target) in order and _layer(module) and order[_layer(target)] > order[_layer(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_line_imports_airflow() -> None:
    wrong = [
        f"{path}:{line}: {target}"
        for module, path in SOURCES.items()
        if _layer(module) in {"", *BELOW_THE_LINE}
        for line, target in _imports(path)
        if target.split(".")[0] == "airflow"
    ]
    assert not wrong, "\n".join(wrong)


#: The one import that leads back: the first text on a host becomes the runner that it has brought, and supervisors
#: hold that as it does.
ALLOWED_BACK = (f"{PACKAGE}.hostside.bootstrap", f"{PACKAGE}.hostside.runner")


def test_no_import_cycles() -> None:
    """Nor by way of imports within functions, or for types only."""
    graph = {
        module: {target for _, target in _imports(path) if target in SOURCES and target != module}
        for module, path in SOURCES.items()
    }
    graph[ALLOWED_BACK[0]].remove(ALLOWED_BACK[1])
    # A package's own __init__ may gather its modules, and they may name the package's other modules.
    for module, targets in graph.items():
        targets.difference_update({parent for parent in targets if module.startswith(parent + ".")})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


HOSTSIDE = {module: path for module, path in SOURCES.items() if _layer(module) == "hostside"}


def _is_on_every_host(name: str) -> bool:
    if _own(name):
        return _layer(name) in {"", "hostside"}
    siblings = {path.stem for path in HOSTSIDE.values()}
    return name.split(".")[0] in sys.stdlib_module_names | siblings


@pytest.mark.parametrize("module", sorted(HOSTSIDE))
def test_hostside_is_python_38_and_the_stdlib(module: str) -> None:
    """These files are sent to hosts, whose python3 may be 3.8 and has no package of ours."""
    path = HOSTSIDE[module]
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))
    wrong = [f"{path}:{line}: {target}" for line, target in _imports(path) if not _is_on_every_host(target)]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_is_light() -> None:
    """Airflow imports provider metadata on every command: the package's own __init__ imports nothing."""
    assert [name for _, name in _imports(ROOT / "__init__.py") if not name.startswith("__future__")] == []
