"""Which small changes could be made to the core, and what the source is with one of them."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
CORE = ROOT / "sdk" / "tierline" / "_core"
EQUIVALENT = Path(__file__).resolve().parent / "equivalent.toml"
NOT_DECISIONS = {"__init__.py", "explain.py", "findings.py"}  # words about configurations
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
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
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}


class Place(NamedTuple):
    """One node of one module that can be changed."""

    module: str
    number: int  # of the node, in the order ast.walk finds it
    line: int
    first: int  # line of the statement it is in, its body left out
    last: int
    what: str
    code: str  # the line, as it stands

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line} {self.what} @{self.number}"


def all_places() -> Iterator[Place]:
    """Every change that could be made to the core."""
    for path in sorted(CORE.glob("*.py")):
        if path.name not in NOT_DECISIONS:
            yield from places_in(path.name, path.read_text("utf-8"))


def places_in(module: str, source: str) -> Iterator[Place]:
    """Every change that could be made to one module."""
    tree, lines = ast.parse(source), source.splitlines()
    spans = _spans(tree)
    for number, node in enumerate(ast.walk(tree)):
        what = changed(node)
        if what:
            line = getattr(node, "lineno", 1)
            first, last = spans[id(node)]
            yield Place(module, number, line, first, last, what, lines[line - 1].strip())


def mutated(source: str, number: int) -> str:
    """The module with the change made at this place."""
    tree = ast.parse(source)
    changed(list(ast.walk(tree))[number], change=True)
    return ast.unparse(ast.fix_missing_locations(tree))


def without_equivalent(places: list[Place]) -> list[Place]:
    """Those that may mean something. Raises LookupError for an entry that speaks of no place, so
    that the list cannot outlive the code it is about."""
    known = {
        (entry["module"], entry["code"], what, nth)
        for entry in tomllib.loads(EQUIVALENT.read_text("utf-8"))["mutant"]
        for what in entry["what"]
        for nth in entry.get("nth", [0])  # of several such changes in one line; 0: all of them
    }
    alike: dict[tuple[str, str, str], list[Place]] = {}
    for place in sorted(places):
        alike.setdefault((place.module, place.code, place.what), []).append(place)
    equivalent: set[Place] = set()
    dead = []
    for module, code, what, nth in known:
        meant = alike.get((module, code, what), [])
        meant = meant if nth == 0 else meant[nth - 1 : nth]
        equivalent |= {*meant}
        dead += [] if meant else [(module, code, what)]
    if dead and len({place.module for place in places}) > 1:
        raise LookupError(f"equivalent.toml speaks of what is not there: {sorted(dead)}")
    return [place for place in places if place not in equivalent]


def changed(node: ast.AST, *, change: bool = False) -> str:
    """What would change in this node, or "" when nothing can; ``change`` does it."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other = COMPARISONS[type(op)]
            if change:
                node.ops = [other()]
            return f"{type(op).__name__} → {other.__name__}"
        case ast.BoolOp():
            other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
            what = f"{type(node.op).__name__} → {other_op.__name__}"
            if change:
                node.op = other_op()
            return what
        case ast.BinOp() if type(node.op) in OPERATORS:
            operator = OPERATORS[type(node.op)]
            what = f"{type(node.op).__name__} → {operator.__name__}"
            if change:
                node.op = operator()
            return what
        case ast.Constant(value=bool(value)):
            if change:
                node.value = not value
            return f"{value} → {not value}"
        case ast.Constant(value=int(number)):
            if change:
                node.value = number + 1
            return f"{number} → {number + 1}"
        case ast.If() | ast.IfExp():
            if change:
                node.test = ast.UnaryOp(ast.Not(), node.test)
            return "if → if not"
        case _:
            return ""


def _spans(tree: ast.Module) -> dict[int, tuple[int, int]]:
    """Of each node, by id, the lines of the statement it is in: of a compound one its head."""
    spans: dict[int, tuple[int, int]] = {}

    def visit(node: ast.AST, span: tuple[int, int]) -> None:
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            span = _head(node, span)
        spans[id(node)] = span
        for child in ast.iter_child_nodes(node):
            visit(child, span)

    visit(tree, (1, 1))
    return spans


def _head(node: ast.AST, span: tuple[int, int]) -> tuple[int, int]:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno, max(node.pattern.lineno, node.body[0].lineno - 1)
    first = getattr(node, "lineno", span[0])
    decorators = getattr(node, "decorator_list", [])
    first = min([first, *(decorator.lineno for decorator in decorators)])
    inner = getattr(node, "body", None) or getattr(node, "cases", None)
    if not inner:
        return first, getattr(node, "end_lineno", None) or first
    begins = inner[0].pattern.lineno if isinstance(inner[0], ast.match_case) else inner[0].lineno
    return first, max(getattr(node, "lineno", first), begins - 1)
