"""Jinja for templates: sandboxed, strict about names, and bounded.

How it is bounded: the text is parsed, the tree is changed so that each loop round, macro call, list and slice pays
into a `Budget`, and operators, calls and filters pay for what they make before they make it. Only the listed methods
of text, lists and mappings can be called. `params.items` is the param of that name where there is one.

`check` finds names that cannot be there without rendering anything; `render` makes the text. Both speak in lines of
the text (from 1); the caller knows where the text stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes, pass_context
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from airflow_jobdeploy.core.budget import (
    MAX_TEXT,
    Budget,
    RefusedError,
    TooMuchError,
    check_power,
    check_product,
    format_size,
    joined_size,
    measured,
    percent_size,
    replaced_size,
)
from airflow_jobdeploy.core.filters import filters
from airflow_jobdeploy.core.source import shortened

#: Longest text with Jinja in it, most tags, and most parts of all expressions: more takes too long to compile.
MAX_SOURCE = 256 << 10
MAX_TAGS = 5_000
MAX_PARTS = 50_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_METHODS: dict[type, frozenset[str]] = {
    str: _words(
        "capitalize count endswith find format isalnum isalpha isdecimal isdigit islower isupper join lower lstrip "
        "partition removeprefix removesuffix replace rpartition rsplit rstrip split splitlines startswith strip title "
        "upper"
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
    tuple: _words("count index"),
}
#: Tests that take a name that is not there.
ASKING = ("defined", "undefined")
_UNSUPPORTED = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends, nodes.Block)
_PRINTABLE = (str, int, float, bool, type(None), list, tuple, dict)


@dataclass(frozen=True)
class TextProblem:
    """What is wrong in line `line` (from 1) of a text."""

    line: int
    message: str
    hint: str = ""


class RenderError(Exception):
    """A text cannot be parsed or rendered."""

    def __init__(self, line: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.problem = TextProblem(line, message, hint)


def has_jinja(text: str) -> bool:
    """Whether Jinja would change the text (a line break at its end apart)."""
    return any(mark in text for mark in ("{{", "{%", "{#"))


class Environment(ImmutableSandboxedEnvironment):
    """Jinja as templates see it. One for each pass over a template, so that its budget bounds the whole pass."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, optimized=False, finalize=_finalize)
        self.budget = Budget()
        self.tags_left = MAX_TAGS
        self.nodes_left = MAX_PARTS
        self.filters = filters(lambda: self.budget)
        self.filters["_settled"] = lambda value: self.budget.settle(value)
        self.globals = {"range": self._range, "dict": dict, "namespace": Namespace, "_round": self._round}

    def _range(self, *args: int) -> range:
        made = range(*args)
        self.budget.pay(len(made))
        return made

    def _round(self, cost: int) -> str:
        self.budget.pay(cost)  # the round itself is paid by `call`
        return ""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self.budget.settle(super().getitem(obj, argument))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (LoopContext, Namespace)):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in names for kind, names in _METHODS.items())

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            self.budget.pay(format_size(value.__self__))
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            self.budget.pay(check_product(left, right))
        elif operator == "**":
            check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            self.budget.pay(percent_size(left) + measured(right))
        elif operator == "+":
            self.budget.pay(measured(left) + measured(right))
        return self.budget.settle(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # The names match jinja2's: a template may pass keywords called `self` or `context`.
        __self.budget.round()
        method, owner = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            __self._check_method(method, owner, args)
        made = super().call(__context, __obj, *args, **kwargs)
        return made if isinstance(made, (Namespace, LoopContext)) else __self.budget.settle(made)

    def _check_method(self, method: str, owner: str, args: tuple[Any, ...]) -> None:
        if method == "replace" and len(args) > 1:
            self.budget.pay(replaced_size(owner, str(args[0]), str(args[1])))
        elif method == "join" and args and isinstance(args[0], (str, list, tuple, dict)):
            self.budget.pay(joined_size(args[0], owner))
        else:
            self.budget.pay(len(owner))

    def parsed(self, text: str) -> nodes.Template:
        """The tree of `text`. Raises RenderError."""
        self.tags_left -= sum(text.count(mark) for mark in ("{{", "{%", "{#"))
        if len(text) > MAX_SOURCE:
            raise RenderError(1, f"holds Jinja and is longer than {MAX_SOURCE >> 10} KiB.")
        if self.tags_left < 0:
            raise RenderError(1, f"the template holds more than {MAX_TAGS} Jinja tags.")
        return guarded(lambda: self._parsed(text))

    def _parsed(self, text: str) -> nodes.Template:
        tree = self.parse(text)
        self.nodes_left -= sum(1 for _ in tree.find_all(nodes.Node))
        if self.nodes_left < 0:
            raise RenderError(1, f"the template's Jinja holds more than {MAX_PARTS} names, constants and operators.")
        for node in tree.find_all(_UNSUPPORTED):
            name = type(node).__name__.lower()
            raise RenderError(node.lineno, f"Jinja's {name} is not available in templates.", "Use parent and binds.")
        return tree

    def rendered(self, text: str, context: Mapping[str, Any]) -> str:
        """`text` rendered with the names in `context`. Raises RenderError."""
        if not has_jinja(text):
            return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")  # as Jinja does
        tree = self.parsed(text)

        def run() -> str:
            changed: nodes.Template = _Metered().visit(tree)
            changed.set_environment(self)
            template = Template.from_code(self, self.compile(changed), self.globals)
            return self._joined(template.root_render_func(template.new_context(dict(context))))

        return guarded(run)

    def _joined(self, pieces: Iterable[str]) -> str:
        made, size = [], 0
        for piece in pieces:
            size += len(piece)
            if size > MAX_TEXT:
                raise TooMuchError(f"makes more than {MAX_TEXT >> 20} MiB of text")
            made.append(piece)
        return "".join(made)


@pass_context  # which also keeps Jinja from computing constants before there is a budget
def _finalize(context: Context, value: Any) -> Any:
    environment = context.environment
    assert isinstance(environment, Environment)
    if isinstance(value, StrictUndefined):
        return value  # its str() says what is missing
    if isinstance(value, range):
        value = list(value)
    if not isinstance(value, _PRINTABLE):
        raise RefusedError("a method or other object cannot be printed")
    environment.budget.pay(measured(value))
    return value


class _Metered(NodeTransformer):
    """Adds the payments that cannot be had by overriding: loops, macros, lists, slices, `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        return self._paying(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._paying(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._paying(node)

    def _paying(self, node: Any) -> nodes.Node:
        cost = sum(len(data.data) for part in node.body for data in _data(part))
        self.generic_visit(node)
        line = node.lineno
        call = nodes.Call(
            nodes.Name("_round", "load", lineno=line), [nodes.Const(cost, lineno=line)], [], None, None, lineno=line
        )
        node.body.insert(0, nodes.ExprStmt(call, lineno=line))
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return _settled(self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return _settled(self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        made = self.generic_visit(node)
        return _settled(made) if node.ctx == "load" else made

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        made = self.generic_visit(node)
        return _settled(made) if isinstance(node.arg, nodes.Slice) else made

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _settled(node.expr)
        for operand in node.ops:
            operand.expr = _settled(operand.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.args = [_settled(part) for part in node.args]
        if node.name not in ASKING:
            node.node = _settled(node.node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        parts = [self.visit(part) for part in node.nodes]
        return nodes.Filter(nodes.List(parts, lineno=node.lineno), "join", [], [], None, None, lineno=node.lineno)


def _data(node: nodes.Node) -> list[nodes.TemplateData]:
    own = [node] if isinstance(node, nodes.TemplateData) else []
    return [*own, *node.find_all(nodes.TemplateData)]


def _settled(node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, "_settled", [], [], None, None, lineno=node.lineno)


def guarded(function: Callable[[], Any]) -> Any:
    """Call `function`, which runs Jinja; whatever a template's author can make it raise becomes a RenderError."""
    try:
        return function()
    except RenderError:
        raise
    except TemplateSyntaxError as error:
        raise RenderError(error.lineno, f"Jinja: {_sentence(error)}", _syntax_hint(str(error.message))) from None
    except UndefinedError as error:
        raise RenderError(_line(error), _sentence(error), "Is the name misspelt, or not declared?") from None
    except SecurityError as error:
        raise RenderError(_line(error), _sentence(error), "Templates reach values only, no internals.") from None
    except RefusedError as error:
        raise RenderError(_line(error), _sentence(error)) from None
    except (RecursionError, MemoryError) as error:
        raise RenderError(_line(error), "is nested too deeply, or too large.") from None
    except Exception as error:  # noqa: BLE001
        # An expression is the author's code: any type of error may come out of it (`1 / 0`, `'a' + 1`).
        raise RenderError(_line(error), f"{type(error).__name__}: {_sentence(error)}") from None


def _sentence(error: BaseException) -> str:
    return shortened(str(error), 300).removesuffix(".") + "."


def _line(error: BaseException) -> int:
    """The line of the template text in which `error` was raised."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template):
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def _syntax_hint(message: str) -> str:
    if "comment" in message:
        return "`{#` starts a Jinja comment; for a shell's ${#name} write {% raw %}${#name}{% endraw %}."
    if "unexpected char" in message or "end of print statement" in message:
        return "For braces that are not Jinja's write {% raw %}...{% endraw %}."
    return ""
