"""Quantities, and copies of models."""

from __future__ import annotations

import pytest

from zos.api.gridnode import GridNodeStatus
from zos.api.meta import MOST, format_quantity, parse_quantity, short_quantity, whole_quantity
from zos.api.resources import NodeHold


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0), ("1Gi", 2**30), ("500Mi", 500 * 2**20), ("1.5Gi", 3 * 2**29), ("2k", 2000), ("1e3", 1000), ("100m", 1),
        (7, 7), ("1Ki", 1024), ("1G", 10**9), (" 1Gi ", 2**30), ("3Ti", 3 * 2**40), ("9999999999999999999Ei", 2**63 - 1),
    ],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_reads_them(text: str | int, amount: int) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize(
    ("suffix", "factor"),
    [
        *zip("kMGTPE", (1000**n for n in range(1, 7)), strict=True),
        *((f"{c}i", 1024 ** (n + 1)) for n, c in enumerate("KMGTPE")),
    ],
)
def test_every_suffix(suffix: str, factor: int) -> None:
    assert parse_quantity(f"3{suffix}") == 3 * factor
    assert parse_quantity(f"0.5{suffix}") == factor // 2


@pytest.mark.parametrize("text", ["", "Gi", "1Gb", "x", "1 Gi Gi"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)


def test_there_and_back() -> None:
    for amount in (0, 1, 1000, 1024, 2**30, 3 * 2**29, 2**30 + 1, MOST):
        assert parse_quantity(format_quantity(amount)) == amount
    assert parse_quantity(format_quantity(MOST + 1)) == MOST


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (1000, "1000"), (2**30, "1Gi"), (3 * 2**29, "1.5Gi"), (15975 * 2**20, "15.6Gi"), (2**63 - 1, "8Ei")],
)
def test_people_are_told_about_how_much(amount: int, text: str) -> None:
    assert short_quantity(amount) == text


@pytest.mark.parametrize(
    ("amount", "more", "less"),
    [
        (0, "0Mi", "0Mi"),
        (1, "1Mi", "0Mi"),
        (2**30, "1Gi", "1Gi"),
        (3 * 2**29, "1536Mi", "1536Mi"),
        (2**30 + 1, "1025Mi", "1024Mi"),
    ],
)
def test_a_size_that_is_told_is_one_that_will_do(amount: int, more: str, less: str) -> None:
    assert whole_quantity(amount) == more
    assert whole_quantity(amount, up=False) == less
    assert parse_quantity(less) <= amount <= parse_quantity(more)


def test_a_copy_remembers_nothing_that_is_no_longer_true() -> None:
    status = GridNodeStatus(holds=(NodeHold(uid="a", owner="x"),))
    assert set(status.by_holder) == {"a"}
    assert status.model_copy(update={"holds": ()}).by_holder == {}
