"""Which nodes' agents answer, put into the World whenever that changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from zos.api import names
from zos.api.core import Lease
from zos.api.meta import Key, Meta
from zos.api.names import AGENT
from zos.api.usage import USAGE
from zos.controller.liveness import Liveness
from zos.controller.usages import Usages
from zos.controller.writing import Exchange
from zos.kube.client import Raw
from zos.world.heartbeat import Heartbeat

log = logging.getLogger("zos.controller")


class Heartbeats:
    """``clock`` gives seconds; ``hears``: whether renewals are heard at the moment."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float], hears: Callable[[], bool]) -> None:
        self._world = exchange.world
        self._changed = exchange.changed
        self._liveness = Liveness(clock)
        self._hears = hears
        self._nodes: dict[str, str] = {}  # namespace → node
        self._stirred = asyncio.Event()
        self._usage = Usages(exchange, clock)

    def node(self, namespace: str) -> str:
        """Whose namespace this is; empty: no node's."""
        return self._nodes.get(namespace, "")

    def reached(self, answered: bool) -> None:
        """Whether the API server just answered."""
        self._liveness.reached(answered)

    def joined(self, node: str) -> None:
        """A GridNode is there, or has changed."""
        self._nodes[names.node_namespace(node)] = node
        self._stirred.set()

    def left(self, node: str) -> None:
        namespace = names.node_namespace(node)
        self._nodes.pop(namespace, None)
        self._liveness.gone(namespace)
        self._changed(self._world.remove(Heartbeat.key_of("", node)))
        self._usage.left(node)

    def heard(self, key: Key, raw: Raw | None) -> None:
        """A Lease, if it is an agent's. One that is gone is as silent as one that is not renewed."""
        if key.name != AGENT or raw is None:
            return
        lease = Lease.model_validate(raw)
        self._liveness.heard(lease)
        if node := self.node(key.namespace):
            self._usage.heard(node, lease.metadata.annotations.get(USAGE, ""))
        if self._alive(key.namespace) is not True:
            self._stirred.set()

    async def watch(self) -> None:
        """Judges when a silent agent speaks, and once a second: what is looked for is that nothing comes."""
        while True:
            self.judge()
            self._stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stirred.wait()

    def judge(self) -> None:
        self._liveness.hears(self._hears())
        for namespace, alive in self._liveness.judge().items():
            node = self._nodes.get(namespace)
            if node is not None and self._alive(namespace) != alive:
                log.info("agent %s", "answers" if alive else "is silent", extra={"node": node})
                self._changed(self._world.put(Heartbeat(metadata=Meta(name=node, uid=node), alive=alive)))

    def _alive(self, namespace: str) -> bool | None:
        found = self._world.peek(Heartbeat.key_of("", self.node(namespace)))
        return found.alive if isinstance(found, Heartbeat) else None
