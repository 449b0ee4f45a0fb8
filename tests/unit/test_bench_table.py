"""The table of hack/bench: a bound that is missed is never told as kept."""

from __future__ import annotations

import pytest

from benchlib.table import Row, ratio, told


@pytest.mark.parametrize(
    ("value", "relation", "bound", "kept"),
    [
        (6.0, "<=", 6.0, True),
        (6.01, "<=", 6.0, False),
        (0.95, ">=", 0.95, True),
        (0.949, ">=", 0.95, False),
        (1.0, "<", 1.0, False),
        (123.0, "", 0.0, True),
    ],
)
def test_bounds(value: float, relation: str, bound: float, kept: bool) -> None:
    assert Row("x", value, relation, bound).kept is kept


def test_a_ratio_is_that_of_pairs_and_keeps_its_samples() -> None:
    row = ratio("x", [9.0, 4.0, 20.0], [3.0, 1.0, 5.0], "<=", 1.7, connections=16)
    assert row.value == 4.0
    assert not row.kept
    assert row.data() == {
        "what": "x", "value": 4.0, "relation": "<=", "bound": 1.7, "unit": "×", "kept": False, "spread": (3.0, 4.0),
        "detail": {"pairs": [3.0, 4.0, 4.0], "ours": [9.0, 4.0, 20.0], "theirs": [3.0, 1.0, 5.0], "connections": 16},
    }  # fmt: skip


def test_table() -> None:
    rows = [
        Row("a ratio", 1.5, "<=", 1.7, "×", spread=(1.25, 2)),
        Row("idle", 1.2, "<", 1, "% of a core"),
        Row("told only", 0.25, unit="s"),
    ]
    assert told(rows).splitlines() == [
        "| what      | measured              | bound           |        |",
        "| --------- | --------------------- | --------------- | ------ |",
        "| a ratio   | 1.50 × (1.25 to 2.00) | <= 1.70 ×       | ok     |",
        "| idle      | 1.20 % of a core      | < 1 % of a core | MISSED |",
        "| told only | 0.25 s                |                 |        |",
    ]
