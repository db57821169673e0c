"""Write docs/reference/ from docstrings, field declarations and settings. With --check only say what is stale.

Docstrings and signatures are read from the sources, which are not run; field tables and settings are imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "airflow_jobdeploy"
TARGET = ROOT / "docs" / "reference"
MADE = "<!-- Made by `make docs` from the sources: edit those. -->"

#: page -> (title, modules): what DAG authors and authors of backends use.
PYTHON_PAGES = {
    "operators": (
        "Operators and sensor",
        ("operators.template", "operators.job", "operators.artifact", "sensors.job", "params"),
    ),
    "hook": ("Hook", ("hooks.jobdeploy",)),
    "apolo": ("Apolo's jobs", ("hooks.apolo.jobs", "hooks.apolo.parsing", "hooks.apolo.values")),
    "testing": ("For your tests", ("testing",)),
}
LEADS = {
    "Operators and sensor": (
        "All take the arguments of Airflow's `BaseOperator` too. `DEFAULT_DEFERRABLE` is Airflow's setting "
        "`[operators] default_deferrable`."
    ),
    "For your tests": (
        "A worker in memory that passes the same contract suite as the real ones, and a clock that stands still. "
        "pytest fixtures `clock`, `memory_host` and `memory_backend`: "
        '`pytest_plugins = ["airflow_jobdeploy.testing.fixtures"]`.'
    ),
}
SPEC_HEAD = (
    "See [how to run one](../how-to/run-a-job-spec.md). Durations are seconds, or text such as `90s`, `2h30m`; "
    "an integer size is in GB (2^30 bytes), text carries its unit: `512MB`."
)
#: Constructor arguments that Airflow itself explains.
PASSED_ON = {"self", "kwargs"}
#: `template_params: values for ...` at the start of a line of a docstring.
ARGUMENT = re.compile(r"^([a-z_]+(?:, [a-z_]+)*): ")


# -- Python: classes and functions from their sources -----------------------------------------------------------------


def public(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """What a module defines for others, in its order."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node


def python_page(title: str, modules: tuple[str, ...]) -> str:
    parts = [f"# {title}", LEADS.get(title, "")]
    for module in modules:
        tree = module_tree(module)
        for node in (*public(tree), *reexported(module, tree)):
            parts += class_section(module, node) if isinstance(node, ast.ClassDef) else function_section(module, node)
    return page(parts)


def module_tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def reexported(package: str, tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """What a package gives its users from modules of its own."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"airflow_jobdeploy.{package}."):
            names = {alias.name for alias in node.names}
            inner = module_tree(str(node.module).removeprefix("airflow_jobdeploy."))
            yield from (found for found in public(inner) if found.name in names)


def class_section(module: str, node: ast.ClassDef) -> list[str]:
    methods = {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
    parts = [f"## {node.name}", f"```python\nfrom airflow_jobdeploy.{module} import {node.name}\n```"]
    # Each argument once: a subclass repeats what it passes on.
    given = dict.fromkeys(one for constructor in constructors(node) for one in arguments(constructor))
    if given:
        parts.append(f"```python\n{call(node.name, list(given))}\n```")
    parts.append(docstring(node))
    is_operator = any("Operator" in ast.unparse(base) for base in node.bases)
    # What operators inherit and override is called by Airflow, not by people.
    shown = [] if is_operator else [m for name, m in methods.items() if not name.startswith("_") and docstring(m)]
    for method in shown:
        use = f"{method.name}: {ast.unparse(method.returns)}" if is_property(method) else signature(method)
        parts += [f"### {node.name}.{method.name}", f"```python\n{use}\n```", docstring(method)]
    return parts


def is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) in ("property", "cached_property") for decorator in node.decorator_list)


def constructors(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Its own constructor and those of its bases here, which take what `**kwargs` passes on."""
    yield from (child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__")
    for base in node.bases:
        known = operator_classes().get(ast.unparse(base))
        if known:
            yield from constructors(known)


@functools.cache
def operator_classes() -> dict[str, ast.ClassDef]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((PACKAGE / "operators").glob("*.py"))]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def function_section(module: str, node: ast.FunctionDef) -> list[str]:
    lines = f"from airflow_jobdeploy.{module} import {node.name}\n\n{signature(node)}"
    return [f"## {node.name}", f"```python\n{lines}\n```", docstring(node)]


def docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    return markdown(ast.get_docstring(node) or "")


def markdown(text: str) -> str:
    """Our docstrings are Markdown, but that arguments stand as `name: what it is`, with indented lines below."""
    parts = text.replace("``", "`").split("\n\n")
    return "\n\n".join(as_list(part) if ARGUMENT.match(part) else part for part in parts)


def as_list(paragraph: str) -> str:
    """One point for each argument that the paragraph explains."""
    flowing = re.sub(r"\n +", " ", paragraph)
    lines = [ARGUMENT.sub(lambda found: f"- `{found[1]}`: ", line) for line in flowing.splitlines()]
    return re.sub(r"\n(?!- )", "\n  ", "\n".join(lines))


def signature(node: ast.FunctionDef) -> str:
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return call(node.name, arguments(node)) + result


def arguments(node: ast.FunctionDef) -> list[str]:
    """As a person would write them: `self` and `**kwargs` left out."""
    spec = node.args
    plain = [*spec.posonlyargs, *spec.args]
    padded = [None] * (len(plain) - len(spec.defaults)) + list(spec.defaults)
    pairs = [*zip(plain, padded, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    listed = [argument(arg, default) for arg, default in pairs if arg.arg not in PASSED_ON]
    if spec.kwonlyargs and spec.args[1:]:
        listed.insert(len(listed) - len(spec.kwonlyargs), "*")
    return listed


def call(name: str, given: list[str]) -> str:
    """On one line where it fits, else one argument a line."""
    line = f"{name}({', '.join(given)})"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {one},\n" for one in given) + ")"


def argument(node: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(node.annotation)}" if node.annotation else ""
    return node.arg + kind + (f" = {ast.unparse(default)}" if default is not None else "")


# -- Words: enums and errors, with the comments beside their members ---------------------------------------------------


def members(path: Path, name: str) -> list[tuple[str, str]]:
    """(value, what its `#:` comment says) of an enum of texts."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    found = []
    for child in node.body:
        if isinstance(child, ast.Assign) and isinstance(child.value, ast.Constant) and child.value.value:
            found.append((str(child.value.value), lines[child.lineno - 1].partition("#: ")[2]))
    return found


def status_page() -> str:
    path = PACKAGE / "core" / "statuses.py"
    parts = [
        "# Statuses and reasons",
        "What the sensor waits for (`target_status`), what a handle holds (`status`, `reason`).",
    ]
    for title, name in (("Status", "JobStatus"), ("Reason", "Reason")):
        parts += [f"## {title}", table((title, "Means"), members(path, name))]
    return page(parts)


def errors_page() -> str:
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    rows = [
        (f"`{node.name}`", docstring(node).split("\n\n")[0].replace("\n", " "))
        for node in public(tree)
        if isinstance(node, ast.ClassDef) and node.bases
    ]
    drawing = ast.get_docstring(tree) or ""
    return page(
        ["# Errors", f"In `airflow_jobdeploy.errors`.\n\n```text\n{drawing}\n```", table(("Error", "Means"), rows)]
    )


# -- Fields and settings ----------------------------------------------------------------------------------------------


def job_spec_page() -> str:
    from airflow_jobdeploy.core.fields import fields_of
    from airflow_jobdeploy.core.spec import JobSpec

    fields = fields_of(JobSpec)
    rows = [
        (f"`{name}`", type_of(f.kind.schema()), value_of(f.default), sentence(f.doc))
        for name, f in fields.items()
        if not f.needs
    ]
    some = [
        (f"`{name}`", type_of(f.kind.schema()), sentence(f.doc), ", ".join(f.honoured_by))
        for name, f in fields.items()
        if f.needs and f.honoured_by
    ]
    later = [
        (f"`{name}`", type_of(f.kind.schema()), sentence(f.doc), f.needs)
        for name, f in fields.items()
        if f.needs and not f.honoured_by
    ]
    return page(
        [
            "# Fields of a job spec",
            SPEC_HEAD,
            table(("Field", "Type", "Default", "Means"), rows),
            "## Of pools of some kinds",
            "On a pool of another kind, a value that asks for something is an error.",
            table(("Field", "Type", "Means", "Kinds of pools"), some),
            "## Not honoured yet",
            "These are read and checked, but a value that asks for something is an error naming what would honour it.",
            table(("Field", "Type", "Means", "Needs"), later),
        ]
    )


def options_page() -> str:
    from airflow_jobdeploy.core.fields import fields_of
    from airflow_jobdeploy.core.spec import JobSpec

    rows = [
        (f"`{name}`", type_of(f.kind.schema()), sentence(f.doc)) for name, f in fields_of(JobSpec).items() if f.option
    ]
    text = (
        "What may stand under `options:` of a [template](../how-to/write-a-template.md). "
        "A child's options go over its parent's, key by key."
    )
    return page(["# Options of a template", text, table(("Option", "Type", "Means"), rows)])


def settings_page() -> str:
    from airflow_jobdeploy.get_provider_info import CONFIG

    rows = [
        (f"`{name}`", option["type"], value_of(option["default"]), option["description"])
        for name, option in CONFIG.items()
    ]
    text = (
        "In `airflow.cfg` under `[jobdeploy]`, or as environment variables such as `AIRFLOW__JOBDEPLOY__DEFER_AFTER`. "
        "The Airflow Variable `jobdeploy_deployment` names this deployment in the records of its jobs."
    )
    return page(["# Settings", text, table(("Option", "Type", "Default", "Means"), rows)])


def type_of(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(type_of(option) for option in options))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def value_of(value: Any) -> str:
    empty = value is None or value == "" or (isinstance(value, (tuple, list, dict)) and not value)
    return "" if empty else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def sentence(text: str) -> str:
    return inspect.cleandoc(text).replace("\n", " ")


# -- Pages ------------------------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell(content) for content in line) + " |" for line in lines)


def cell(content: object) -> str:
    """One line of Markdown: bars would end the cell, and `<id>` outside of code would be taken for HTML."""
    code_and_text = re.split(r"(`[^`]*`)", str(content or "").replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in code_and_text)


def page(parts: list[str]) -> str:
    return "\n\n".join([MADE, *(part for part in parts if part)]) + "\n"


def index_page(pages: dict[str, str]) -> str:
    titles = {name: re.search(r"^# (.+)$", text, re.MULTILINE) for name, text in pages.items()}
    links = "\n".join(f"- [{title[1]}]({name}.md)" for name, title in titles.items() if title)
    schemas = "`airflow_jobdeploy/core/schemas/`"
    return page(["# Reference", links, f"JSON Schemas of templates and job specs, for editors, lie in {schemas}."])


def pages() -> dict[str, str]:
    """File stem -> text of every page of the reference."""
    made = {name: python_page(title, modules) for name, (title, modules) in PYTHON_PAGES.items()}
    made["job-spec"] = job_spec_page()
    made["template-options"] = options_page()
    made["status"] = status_page()
    made["errors"] = errors_page()
    made["settings"] = settings_page()
    return {"README": index_page(made), **made}


def stale(made: dict[str, str]) -> list[Path]:
    """Pages that are not what they should be, and pages that should not be."""
    wanted = {TARGET / f"{name}.md": text for name, text in made.items()}
    wrong = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return wrong + [path for path in TARGET.glob("*.md") if path not in wanted]


def main() -> None:
    made = pages()
    wrong = stale(made)
    if "--check" in sys.argv[1:]:
        raise SystemExit("\n".join(f"{path.relative_to(ROOT)} is stale: run make docs" for path in wrong) or None)
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in wrong:
        if path.stem in made:
            path.write_text(made[path.stem], encoding="utf-8")
        else:
            path.unlink()
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
