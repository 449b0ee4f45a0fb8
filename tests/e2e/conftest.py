"""One minigrid for the end-to-end tests, made by the same program that users run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gridkinds import MODULES
from gridreport import pytest_configure, pytest_runtest_makereport
from harness import Grid, until

__all__ = ["pytest_configure", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def grid() -> Iterator[Grid]:
    """Three nodes (n3 hidden), two controllers, a laptop. ZOS_E2E_GRID names one that stays up between runs."""
    keep = os.environ.get("ZOS_E2E_GRID")
    made = Grid(keep or f"t{os.getpid() % 100000}")
    try:
        made.minigrid(
            "up", "--nodes", "3", "--controllers", "2", "--kinds", ",".join(MODULES), *(["--owner", "0"] if keep else [])
        )
        made.push_image()
        yield made
    finally:
        if not keep:
            made.minigrid("down")


@pytest.fixture
def namespace(grid: Grid, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, emptied and gone afterwards."""
    name = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    # An earlier one of that name may be just going, in a grid that is kept.
    until(lambda: grid.kubectl("create", "namespace", name), 60)
    yield name
    grid.clean(name)
