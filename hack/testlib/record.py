"""A pytest plugin that writes down how each test went, as it goes: one JSON object a line in the file that ZOS_TEST_RECORD
names. What reads it (`testlib.main`) knows at every moment what has run, and afterwards counts without reading prose."""

from __future__ import annotations

import json
import os
from collections.abc import Generator

import pytest

_seconds: dict[str, float] = {}
_failed: set[str] = set()
_skipped: set[str] = set()


def _write(**said: object) -> None:
    with open(os.environ["ZOS_TEST_RECORD"], "a") as record:
        record.write(json.dumps(said) + "\n")


def pytest_collection_finish(session: pytest.Session) -> None:
    _write(collected=len(session.items))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(test=report.nodeid or "collection", outcome="failed", seconds=0.0)


def pytest_runtest_logstart(nodeid: str) -> None:
    _write(begins=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Setup, call and teardown of a test are one: it failed if any of them did."""
    test = report.nodeid
    _seconds[test] = _seconds.get(test, 0.0) + report.duration
    if report.failed:
        _failed.add(test)
    elif report.skipped:
        _skipped.add(test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    done = yield
    test = item.nodeid
    if test in _seconds:
        outcome = "failed" if test in _failed else "skipped" if test in _skipped else "passed"
        _write(test=test, outcome=outcome, seconds=round(_seconds[test], 2))
    return done
