"""What `hack/torture helm` reads from a console, and which actions it has."""

from __future__ import annotations

import pytest

from harness import CHECKOUT
from torturelib import helm
from torturelib.pings import answered, counted, lost


def console(*numbers: int) -> str:
    return "".join(f"64 bytes from 10.77.2.2: seq={number} ttl=62 time=1.5 ms\n" for number in numbers)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (console(0, 1, 2), [0, 1, 2]),
        (console(0, 2, 1), [0, 2, 1]),  # late, and not another
        (console(*range(500)) + "mark 1\n" + console(0, 1), [0, 1]),  # its guest was started anew
        (console(65534, 65535, 0, 1), [65534, 65535, 0, 1]),  # there are no larger numbers
        ("safe 3\n64 bytes from 10.77.2.2: seq=7 ttl", [7]),
        ("64 bytes from 10.77.2.2: seq=7", []),  # cut off: it may have been 71
    ],
)
def test_answers_are_read_from_a_console(said: str, found: list[int]) -> None:
    assert answered(said) == found


def test_numbers_go_on_when_they_begin_again_at_nought() -> None:
    assert counted([65535, 0, 1], None) == [65535, 65536, 65537]
    assert counted([65535, 0, 1], 3 * 65536 + 65500) == [4 * 65536 - 1, 4 * 65536, 4 * 65536 + 1]
    assert counted([5], 65536) == [65541]


def test_a_ping_is_lost_when_enough_later_ones_were_answered() -> None:
    there = [number for number in range(100) if number not in (50, 90)]
    assert lost(there, 10) == ([50], 79)
    assert lost(there, 60) == ([], 79)
    assert lost([], 60) == ([], 60)
    assert lost([61], 60) == ([], 60)


def test_every_drill_of_the_page_is_an_action() -> None:
    """By their order there."""
    page = (CHECKOUT / "docs/backup.md").read_text().partition("hack/torture helm")[2]
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][2:]
    drills = {
        "the whole release (`helm uninstall`)": ("reinstall",),
        "a CRD": ("lose-zmounts", "lose-zmachines", "lose-networks", "lose-nodeworkloads", "lose-gridnodes"),
        "policies or roles": ("lose-policies", "lose-roles"),
        "a node's namespace, or its account": ("lose-node-namespace", "lose-node-account"),
        "a GridNode by force": ("lose-gridnode",),
    }
    assert rows == list(drills)
    known = {action.name for action in helm.SCENARIO.actions}
    assert not {name for names in drills.values() for name in names} - known
