"""A pytest plugin by which several processes share the modules of one folder: each has of its own what its tests need (a grid,
above all), and takes the next module that nobody has taken, until there is none. The folder that ZOS_TEST_SHARE names says what
is taken."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

#: Seconds that a test may be thought to take which says nothing of it.
_PLAIN = 10

_mine: set[Path] = set()
_others: set[Path] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules with most to do first, so that no long one is left for the end; but behind all others those with a test that
    is marked ``last``: they need the machine for themselves, and have more of it when the rest is done."""
    size: Counter[Path] = Counter()
    last: set[Path] = set()
    for item in items:
        size[item.path] += _most(item)
        if item.get_closest_marker("last") is not None:
            last.add(item.path)
    items.sort(key=lambda item: (item.path in last, -size[item.path], item.path))


def _most(item: pytest.Item) -> int:
    """Seconds that it may take."""
    marked = item.get_closest_marker("timeout")
    return int(marked.args[0]) if marked is not None else _PLAIN


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """True: taken care of, which is to say by somebody else."""
    return None if _taken(item.path) else True


def _taken(module: Path) -> bool:
    if module not in _mine | _others:
        try:
            (Path(os.environ["ZOS_TEST_SHARE"]) / "+".join(module.parts[-2:])).touch(exist_ok=False)
            _mine.add(module)
        except FileExistsError:
            _others.add(module)
    return module in _mine
