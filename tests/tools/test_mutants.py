"""`hack/mutate`: what it changes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mutatelib.mutants import mutants

ROOT = Path(__file__).parent.parent.parent


def changes(source: str) -> set[str]:
    return {mutant.source for mutant in mutants(source)}


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a < b", "(a <= b)"),
        ("a == b", "(a != b)"),
        ("a is None", "(a is not None)"),
        ("a in b", "(a not in b)"),
        ("a and b", "(a or b)"),
        ("not a", "(a)"),
        ("x = 3", "x = (4)"),
        ("x = 3", "x = (2)"),
        ("x = True", "x = False"),
        ("all(a)", "(any(a))"),
        ("f(a, b=c)", "(f(a))"),
        ("x if a else y", "(x if not a else y)"),
        ("if a:\n    b", "if (not a):\n    b"),
        ("x.y = 'ä'; f(1)", "pass; f(1)"),
        ("x = 'ä'; f(a)", "x = 'ä'; pass"),
        ("def f():\n    return 'ä' + x", "def f():\n    return None"),
    ],
)
def test_a_change_of_each_kind(source: str, changed: str) -> None:
    assert changed in changes(source)


@pytest.mark.parametrize(
    "source",
    ["'text'", "x: int = y", "assert a < b", "f'{a < b}'", "log.info(a)", "def f():\n    return None", "class A(B):\n    pass"],
)
def test_what_is_left_alone(source: str) -> None:
    assert changes(source) == set()


def test_every_mutant_is_another_module_that_can_be_read() -> None:
    source = (ROOT / "operator/zos/plan/order.py").read_text()
    found = mutants(source)
    assert len(found) > 50
    for mutant in found:
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source)), mutant.change


def test_it_is_known_when_and_where_a_change_runs() -> None:
    source = "A = 1\ndef f(a=2):\n    if (\n        a\n        < 3\n    ):\n        return lambda: 4\n"
    found = {mutant.change: (mutant.lines, mutant.imported) for mutant in mutants(source)}
    assert found["1 → (2)"] == ((1, 1), True)
    assert found["2 → (3)"] == ((2, 2), True)
    assert found["a < 3 → (a <= 3)"] == ((3, 6), False)
    assert found["4 → (5)"] == ((7, 7), False)
