"""Small changes of a module, each of which some test should notice. Pure: source in, changed sources out.

Texts are left alone (what a message says is no behaviour that a test should repeat), and so are annotations and assertions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALLED = {"all": "any", "any": "all", "min": "max", "max": "min"}
_DROPPED = (ast.Raise, ast.Continue, ast.Break, ast.Delete, ast.AugAssign)
#: Calls that only say something to a person.
_SPOKEN = ("log", "_log", "logger", "print")
#: Arguments that say how a value is made, shown or described, not what it is.
_ASIDE = ("default_factory", "description", "message", "repr")
_SHOWN = 60


@dataclass(frozen=True)
class Mutant:
    """``source`` is the whole module with one change, ``change`` that change in words. ``lines`` (first, last) are those of
    the statement that it is in, for a compound one of its head; ``imported``: it runs when the module is imported."""

    line: int
    change: str
    lines: tuple[int, int]
    imported: bool
    source: str


@dataclass(frozen=True)
class _Place:
    """A node that can be changed, and the lines by which it is known whether a test runs it. ``decides``: it is all that an
    ``if`` or ``while`` asks."""

    node: ast.stmt | ast.expr
    lines: tuple[int, int]
    imported: bool
    decides: bool


def mutants(source: str) -> list[Mutant]:
    """Every change, in the order of the places."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []
    for place in _places(ast.parse(source)):
        node = place.node
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        for new in _changes(node, place.decides):
            changed = (text[:begin] + new.encode() + text[end:]).decode()
            found.append(
                Mutant(node.lineno, f"{_short(ast.unparse(node))} → {_short(new)}", place.lines, place.imported, changed)
            )
    return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _places(tree: ast.Module) -> Iterator[_Place]:
    def walk(node: ast.AST, lines: tuple[int, int], imported: bool, decides: bool) -> Iterator[_Place]:
        if isinstance(node, (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None) or getattr(node, "cases", None)
            head = _first(body[0]) - 1 if body else node.end_lineno or node.lineno
            lines = (node.lineno, max(node.lineno, head))
        if isinstance(node, (ast.stmt, ast.expr)):
            yield _Place(node, lines, imported, decides)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            inside = name == "body" and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            asked = name == "test" and isinstance(node, (ast.If, ast.While))
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, lines, imported and not inside, asked)

    yield from walk(tree, (1, 1), True, False)


def _first(node: ast.AST) -> int:
    return node.pattern.lineno if isinstance(node, ast.match_case) else getattr(node, "lineno", 1)


def _changes(node: ast.stmt | ast.expr, decides: bool) -> Iterator[str]:
    """What may stand in the place of a node, as source."""
    if decides and isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr)):
        yield _expression(ast.UnaryOp(ast.Not(), node))
    match node:
        case ast.Compare():
            for number, operator in enumerate(node.ops):
                if (other := _COMPARED.get(type(operator))) is not None:
                    ops = [*node.ops[:number], other(), *node.ops[number + 1 :]]
                    yield _expression(ast.Compare(node.left, ops, node.comparators))
        case ast.BoolOp():
            yield _expression(ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values))
        case ast.UnaryOp(op=ast.Not()):
            yield _expression(node.operand)
        case ast.IfExp():
            yield _expression(ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=int() | float()):
            yield from (_expression(ast.Constant(node.value + step)) for step in (1, -1))
        case ast.Call():
            if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
                name = ast.Name(_CALLED[node.func.id], ast.Load())
                yield _expression(ast.Call(name, node.args, node.keywords))
            for number, keyword in enumerate(node.keywords):
                if keyword.arg not in (None, *_ASIDE):
                    keywords = [*node.keywords[:number], *node.keywords[number + 1 :]]
                    yield _expression(ast.Call(node.func, node.args, keywords))
        case ast.Return(value=ast.expr() as value):
            if not (isinstance(value, ast.Constant) and value.value is None):
                yield "return None"
        case ast.Expr(value=ast.Call() | ast.Await()):
            if not _only_says(node):
                yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case _ if isinstance(node, _DROPPED):
            yield "pass"


def _expression(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


def _only_says(node: ast.Expr) -> bool:
    called = node.value.func if isinstance(node.value, ast.Call) else None
    return isinstance(called, (ast.Attribute, ast.Name)) and ast.unparse(called).split(".")[0] in _SPOKEN
