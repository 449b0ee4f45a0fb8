"""Fixtures that several rooms of the tests share."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

import apiserver as servers

_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_busy = False
_told = False


def pytest_configure() -> None:
    """A run that is told to end takes away what it has made, as on ^C. A busy machine is no fault of what is tested."""
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")
    gc.set_threshold(100_000, 50, 50)  # models and modules stay: looking for rubbish among them takes an eighth of the time
    for number in _ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of nohup
            signal.signal(number, _interrupted)


def _interrupted(number: int, _: object) -> None:
    """What a test asks for is made whole before it is taken away, and that is not cut short; who insists is heard at once."""
    global _told
    if not _busy or _told:
        for other in _ENDINGS:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt
    _told = True


def _whole() -> Generator[None, object, object]:
    global _busy
    _busy = True
    try:
        return (yield)
    finally:
        _busy = False
        if _told:
            raise KeyboardInterrupt


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from _whole())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    return (yield from _whole())


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ApiServer]:
    """A real API server with the project's CRDs, shared by the session: use names of your own."""
    with servers.running(tmp_path_factory.mktemp("apiserver"), users=("agent-a", "agent-b")) as server:
        yield server


@pytest.fixture(scope="session")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ApiServer]:
    """One for tests that run controllers, which look at everything in it: each sweeps up behind itself (`simulated.sweep`)."""
    with servers.running(tmp_path_factory.mktemp("controlled")) as server:
        server.kubectl("create", "namespace", "zos-system")
        yield server
