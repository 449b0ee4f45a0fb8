"""Running programs: output, errors, timeouts, children, network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zos.drivers.process import ProcessError, lines, run


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"t-process-{os.getpid()}"
    os.system(f"ip netns add {name}")
    yield name
    os.system(f"ip netns del {name}")


async def test_output_and_input() -> None:
    result = await run("cat", input="hello")
    assert (result.code, result.stdout) == (0, "hello")


async def test_a_failure_says_what_the_program_said() -> None:
    with pytest.raises(ProcessError, match="no such table: x") as caught:
        await run("sh", "-c", "echo no such table: x >&2; exit 3")
    assert caught.value.code == 3
    assert (await run("sh", "-c", "exit 3", check=False)).code == 3


async def test_a_missing_program_is_an_error_value_not_a_traceback() -> None:
    with pytest.raises(ProcessError, match="zos-no-such-program"):
        await run("zos-no-such-program")


async def test_timeout_kills_grandchildren_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(ProcessError, match=r"not done after 0\.5 s"):
        await run("sh", "-c", f"sleep 60 & echo $! > {pid}; wait", timeout=0.5)
    assert time.monotonic() - began < 5
    async with asyncio.timeout(5):  # it was killed, but is not ours to wait for
        while alive(int(pid.read_text())):
            await asyncio.sleep(0.02)


async def test_cancelling_kills(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.create_task(run("sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60"))
    while not pid.exists():
        await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert not alive(int(pid.read_text()))


async def test_runs_in_a_network_namespace(netns: str) -> None:
    inside = (await run("ip", "-o", "link", netns=netns)).stdout.splitlines()
    assert len(inside) <= 3  # lo, and what a kernel may add to every namespace
    assert "eth0" not in "".join(inside)
    with pytest.raises(ProcessError, match="no network namespace"):
        await run("true", netns="t-no-such-namespace")


async def test_lines_come_while_the_program_runs() -> None:
    async with contextlib.aclosing(lines("sh", "-c", "echo one; sleep 60")) as output:
        assert await asyncio.wait_for(anext(output), 5) == "one"


async def test_lines_split_at_carriage_returns_and_fail_like_run() -> None:
    seen = []

    async def collect() -> None:
        async for line in lines("sh", "-c", r"printf '10%%\r20%%\r\nbroken'; exit 4"):
            seen.append(line)

    with pytest.raises(ProcessError, match="broken") as caught:
        await collect()
    assert seen == ["10%", "20%", "broken"]
    assert caught.value.code == 4
