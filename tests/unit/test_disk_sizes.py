"""How much of its node a disk takes: any number of bytes is asked for, and what is reserved is a size that a disk can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos.api.zmount import BLOCK, GROWN, to_reserve

MiB = 1 << 20
SIZES = st.integers(min_value=1, max_value=1 << 60)


@pytest.mark.parametrize(
    ("size", "has", "reserved"),
    [
        (16 * MiB, 0, 16 * MiB),
        (100_000_001, 0, 100_003_840),
        (100_000_001, 100_000_001, 100_003_840),  # as an older agent told of one that has whole blocks
        (64 * MiB, 96 * MiB, 96 * MiB),  # it never shrinks
        (16 * MiB + 1, 16 * MiB, GROWN),  # what its file system grows to
        (GROWN + 1, 16 * MiB, GROWN + BLOCK),
        (GROWN, GROWN, GROWN),
    ],
)
def test_a_size_is_rounded_up_to_what_a_disk_can_have(size: int, has: int, reserved: int) -> None:
    assert to_reserve(size, has) == reserved


@given(SIZES, st.just(0) | SIZES)
def test_what_was_reserved_is_asked_for_again(size: int, has: int) -> None:
    """Else a disk would never be Ready, or grow for ever."""
    reserved = to_reserve(size, has)
    assert reserved >= max(size, has)
    assert reserved % BLOCK == 0
    assert to_reserve(size, reserved) == reserved
    assert reserved < max(size, has, GROWN) + BLOCK
