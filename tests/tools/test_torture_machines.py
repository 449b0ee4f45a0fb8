"""What `hack/torture machines` reads from a console."""

from __future__ import annotations

import pytest

from torturelib.machines import lost


@pytest.mark.parametrize(
    ("console", "said"),
    [
        ("found 0\r\nsafe 1\r\nsafe 2\r\nfound 2\r\nsafe 3\r\n", []),
        ("found 0\nsafe 1\nfound 2\n", []),  # it was there before anybody was told
        ("found 0\nsafe 7\nfound 6\n", ["found 6 after 7 was safe"]),
        ("found 0\nsafe 12\nfound 1", []),  # cut off: it may have been 12
        ("[ 3.1] vda: found 0\nsafe 2\n[ 4.0] found 1\n", ["found 1 after 2 was safe"]),
    ],
)
def test_what_was_safe_is_to_be_found(console: str, said: list[str]) -> None:
    assert lost(console) == said
