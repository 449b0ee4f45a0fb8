"""The kernel's own WireGuard, which the kernel that tests run on may lack: the driver's node tests on Debian's, in a guest,
those of them that are about the kernel most. `hack/kernel-tests` runs them all."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from kernellib.main import run

LEFT_OUT = "drift or card or looks or 0.0.0.0 or 127.0.0.1"
CHOSEN = ("tests/node/test_wireguard.py", "-k", f"kernel and not ({LEFT_OUT}) or name_that_is_taken")
#: Of these it is known that they meet the kernel, whatever else does.
CERTAIN = {
    "test_two_routers_reach_each_other_and_are_left_alone[kernel]",
    "test_changed_peers_change_in_place_without_a_break[kernel]",
    "test_a_kernel_that_got_wireguard_or_lost_it[kernel]",
    "test_removal_leaves_nothing[kernel]",
}


@pytest.mark.timeout(1000)
def test_wireguard_of_debians_kernel(tmp_path: Path) -> None:
    code = run(CHOSEN, tmp_path, seconds=900)
    said = (tmp_path / "output").read_text(errors="replace")
    assert code == 0, said
    cases = ElementTree.parse(tmp_path / "junit.xml").findall(".//testcase")
    assert {case.get("name") for case in cases} >= CERTAIN, said
    assert not [case.get("name") for case in cases if case.find("skipped") is not None]
