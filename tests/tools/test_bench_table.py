"""The table of hack/bench: a bound that is missed is never told as kept, and what was measured stays."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from benchlib.progress import Progress
from benchlib.results import Results
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


def _whole(progress: Progress) -> Generator[Row, None, None]:
    yield Row("a", 1.0)


def _half(progress: Progress) -> Generator[Row, None, None]:
    yield Row("b", 2.0)
    raise RuntimeError("the grid does not come up")


def test_a_part_that_fails_takes_no_row_along_and_no_part(tmp_path: Path) -> None:
    results = Results(tmp_path / "build" / "bench.json", {})
    results.measure({"half": _half, "whole": _whole})
    written = json.loads(results.path.read_text())
    assert [row["what"] for row in written["rows"]] == ["b", "a"]
    assert written["failed"] == {"half": "RuntimeError: the grid does not come up"}
    assert results.table().endswith("FAILED half: RuntimeError: the grid does not come up")
    assert not results.good


def test_a_run_that_is_ended_has_written_what_it_knew(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"rows": [{"what": "of an earlier run"}]}')
    seen = []

    def ended(progress: Progress) -> Generator[Row, None, None]:
        seen.append(json.loads(path.read_text())["rows"])
        yield Row("a", 1.0)
        seen.append(json.loads(path.read_text())["rows"])
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        Results(path, {}).measure({"ended": ended})
    assert [[row["what"] for row in rows] for rows in seen] == [[], ["a"]]
