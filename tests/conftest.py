"""Fixtures that several rooms of the tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import apiserver as servers


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ApiServer]:
    """A real API server with the project's CRDs, shared by the session: use names of your own."""
    try:
        servers.binary("kube-apiserver")
    except servers.Missing as missing:
        pytest.fail(f"{missing} (hack/minigrid builds it)")
    with servers.running(tmp_path_factory.mktemp("apiserver"), users=("agent-a", "agent-b")) as server:
        yield server
