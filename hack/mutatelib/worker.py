"""Runs pytest again and again, each time in a child that begins with everything imported but the operator itself. Asked and
answered by lines of JSON: {"arguments": […], "chosen": [test ids, in order], "touched": file, "seconds": limit} gives {"code":
pytest's exit code, or null where it took too long, "said": what it said}."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import tempfile
from typing import Any

import pytest

#: What costs time to import and is none of ours.
_FOREIGN = (
    "aiohttp", "hypothesis.strategies", "kopf", "kubernetes", "libvirt", "nacl.public", "prometheus_client", "pydantic",
    "pyroute2", "pytest_asyncio", "pytest_timeout", "yaml",
)  # fmt: skip


class _Chosen:
    """A pytest plugin: these tests only, in this order."""

    def __init__(self, ids: list[str]) -> None:
        self._order = {test: number for number, test in enumerate(ids)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid])


def _run(asked: dict[str, Any], output: Any) -> None:
    """In the child."""
    os.setsid()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    plugins: list[object] = [_Chosen(asked["chosen"])] if asked.get("chosen") else []
    plugins_named = ["-p", "no:cacheprovider"]
    if asked.get("touched"):
        os.environ["ZOS_MUTATE_TOUCHED"] = asked["touched"]
        plugins_named += ["-p", "mutatelib.touched"]
    code = pytest.main([*plugins_named, "--hypothesis-seed=0", "--tb=line", *asked["arguments"]], plugins)
    sys.stdout.flush()
    os._exit(int(code))


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            try:
                _run(asked, output)
            finally:
                os._exit(3)
        ended = select.poll()
        ended.register(handle := os.pidfd_open(child))
        in_time = bool(ended.poll(asked["seconds"] * 1000))
        os.close(handle)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a test that failed has left running, too
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status) if in_time else None
        output.seek(0)
        return {"code": code, "said": output.read().decode(errors="replace")[-4000:]}


def main() -> None:
    for name in _FOREIGN:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
