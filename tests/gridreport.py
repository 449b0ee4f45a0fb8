"""What tests on a minigrid have in common for pytest, taken up by their conftest."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from harness import Grid


def pytest_configure() -> None:
    """Grids of a run that was killed are taken away by the next one."""
    os.environ["ZOS_MINIGRID_OWNER"] = str(os.getpid())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows how the grid stood and what its programs complained of."""
    report = yield
    if report.failed:
        grids = {given.name: given for given in getattr(item, "funcargs", {}).values() if isinstance(given, Grid)}
        report.sections.extend((f"the grid {name}", grid.describe()) for name, grid in grids.items())
    return report
