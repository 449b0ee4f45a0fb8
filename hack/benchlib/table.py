"""Rows of the table: what was measured, what it may be, and how it is told."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

_RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


@dataclass(frozen=True)
class Row:
    """``relation`` and ``bound`` say what ``value`` may be; without them it is only told. ``detail`` has the samples and what
    else explains the value; ``spread`` is from the least of the samples to the greatest."""

    what: str
    value: float
    relation: str = ""
    bound: float = 0.0
    unit: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    spread: tuple[float, float] | None = None

    @property
    def kept(self) -> bool:
        return not self.relation or bool(_RELATIONS[self.relation](self.value, self.bound))

    def data(self) -> dict[str, Any]:
        return {**asdict(self), "kept": self.kept}

    def cells(self) -> tuple[str, str, str, str]:
        bound = f"{self.relation} {_number(self.bound, self.unit)}" if self.relation else ""
        verdict = ("ok" if self.kept else "MISSED") if self.relation else ""
        spread = f" ({self.spread[0]:.2f} to {self.spread[1]:.2f})" if self.spread else ""
        return self.what, _number(self.value, self.unit) + spread, bound, verdict

    def line(self) -> str:
        """As it is told at once, outside the table."""
        what, *rest = self.cells()
        return f"{what}: {' '.join(filter(None, rest))}"


def ratio(what: str, ours: Sequence[float], theirs: Sequence[float], relation: str, bound: float, **detail: Any) -> Row:
    """Of two series that were measured by turns: the median of the pairs. What else the machine does, it does to both of a
    pair, and not to all pairs alike."""
    pairs = [one / other for one, other in zip(ours, theirs, strict=True)]
    detail = {"pairs": pairs, "ours": list(ours), "theirs": list(theirs), **detail}
    return Row(what, median(pairs), relation, bound, "×", detail, (min(pairs), max(pairs)))


def told(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines = [("what", "measured", "bound", "")]
    lines += [row.cells() for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _number(value: float, unit: str) -> str:
    number = f"{value:.0f}" if value == int(value) and unit not in ("×", "s") else f"{value:.2f}"
    return f"{number} {unit}".strip()
