"""What an image offers, found without following a link out of it."""

from __future__ import annotations

import pytest

from zos.drivers.imagetree import climbs_out
from zos.plan.facts import ImageFact

IMAGE = ImageFact(
    digest="sha256:0",
    executables=frozenset({"/usr/bin/busybox", "/opt/app/run"}),
    links={
        "/bin": "usr/bin",
        "/sbin": "/bin",
        "/usr/bin/sh": "busybox",
        "/usr/bin/ash": "/bin/sh",
        "/lib": "../../../usr/bin",
        "/loop": "/loop/x",
        "/a": "b",
        "/b": "a",
    },
    working_dir="/opt",
)


@pytest.mark.parametrize(
    ("program", "path", "found"),
    [
        ("sh", "/usr/local/bin:/sbin", True),
        ("sh", "/usr/local/bin", False),
        ("/bin/sh", "", True),
        ("/sbin/ash", "", True),
        ("/lib/busybox", "", True),  # above the root is the root
        ("app/run", "/bin", True),  # in the working directory
        ("./app/run", "", True),
        ("../usr/bin/busybox", "", True),
        ("run", "app", False),
        ("/opt/app", "", False),
        ("/loop/sh", "", False),
        ("/a", "", False),
        ("", "/bin", False),
    ],
)
def test_provides(program: str, path: str, found: bool) -> None:
    assert IMAGE.provides(program, path) is found


def test_not_known() -> None:
    assert ImageFact(digest="sha256:0").provides("sh", "/bin") is None


@pytest.mark.parametrize(
    ("directory", "target", "out"),
    [
        ("", "etc", False),
        ("", "..", True),
        ("/usr/bin", "../../etc", False),
        ("/usr/bin", "../../../etc", True),
        ("/usr/bin", "../lib/../../etc", False),
        ("/usr/bin", "x/../../../..", True),
        ("/usr/bin", "/../../etc", False),
        ("/usr/bin", "./.././../.", False),
        ("/usr", "..//..", True),
    ],
)
def test_climbs_out(directory: str, target: str, out: bool) -> None:
    assert climbs_out(directory, target) is out
