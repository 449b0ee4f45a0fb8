"""What tests with a simulated grid have in common."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from zos.api.core import Secret
from zos.kinds.registry import KINDS
from zos.kube.client import Client, NotFound


async def until(
    condition: Callable[[], Awaitable[object]], seconds: float = 60, told: Callable[[], object] | None = None
) -> None:
    """``told`` gives what it says when it gives up; absent: the last answer."""
    deadline = time.monotonic() + seconds
    while not (last := await condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {told() if told else last}"
        await asyncio.sleep(0.05)


async def sweep(client: Client) -> None:
    """Deletes every object of ours, and Secrets. What a test that failed left behind must not fail the next: there is no
    controller any more, so by force."""
    for model in KINDS.models:
        for key in await client.keys(model):
            with contextlib.suppress(NotFound):
                await client.delete(model, key.namespace, key.name)
                await client.patch(model, key.namespace, key.name, {"metadata": {"finalizers": None}})
    for key in await client.keys(Secret, "default"):
        await client.delete(Secret, "default", key.name)
