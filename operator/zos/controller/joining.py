"""Kubernetes Nodes with the label become GridNodes by themselves (`zos.kinds.gridnode.joining` says how)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from zos.api.core import Node
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Reason
from zos.controller.events import warning
from zos.controller.outbox import Outbox
from zos.controller.writing import MANAGER, Exchange
from zos.kinds.gridnode import joining
from zos.kinds.gridnode.joining import Membership
from zos.kube.client import ApiError, Raw, Unavailable, path_of
from zos.kube.log import about
from zos.kube.queue import Queue

log = logging.getLogger("zos.controller")


class Joining:
    """``clock`` gives seconds, ``jitter`` a factor around 1."""

    def __init__(self, exchange: Exchange, given: Membership, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._given = given
        self._queue = Queue(clock, jitter)
        self._outbox = Outbox(exchange.client, clock)
        # What stays otherwise because others have set it: uid and generation of the GridNode, and what was asked of it.
        self._settled: dict[str, tuple[str, int, Mapping[str, Any]]] = {}

    def look_at(self, key: Key) -> None:
        """A Node or a GridNode has changed. (Of Nodes only those with the label are known.)"""
        node = Node.key_of("", key.name)
        if self._world.peek(node) is not None:
            self._queue.add(node)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                key = await self._queue.get()
                try:
                    await self._join(key)
                except (ApiError, Unavailable) as error:
                    pause = self._queue.failed(key, isinstance(error, ApiError) and error.permanent)
                    log.warning("again in %.1f s: its GridNode can't be written: %s", pause, error, extra=about(key))
                except Exception:
                    pause = self._queue.failed(key)
                    log.exception("a bug; again in %.1f s", pause, extra=about(key))
                else:
                    self._queue.done(key)
        finally:
            await self._outbox.close()

    async def _join(self, key: Key) -> None:
        node = self._world.peek(key)
        if not isinstance(node, Node) or node.deleting:
            self._settled.pop(key.name, None)
            return
        known = self._world.peek(GridNode.key_of("", node.name))
        if isinstance(known, GridNode):
            spec = joining.fields_of(known)
            wanted = joining.asked(node, self._given, spec)
            settled = (known.uid, known.metadata.generation, wanted.fields)
            if known.deleting or not joining.made_here({"labels": known.metadata.labels}):
                return
            self._tell(node, wanted.problem)
            if not joining.differs(spec, wanted.fields) or self._settled.get(node.name) == settled:
                return
        await self._write(node, await self._client.get(GridNode, "", node.name))

    async def _write(self, node: Node, found: Raw | None) -> None:
        """Compares with what the API server has at this moment, which may be more than is known here."""
        meta, spec = (found["metadata"], found.get("spec") or {}) if found is not None else ({}, {})
        if found is not None and ("deletionTimestamp" in meta or not joining.made_here(meta)):
            return
        wanted = joining.asked(node, self._given, spec)
        self._tell(node, wanted.problem)
        theirs = joining.of_others(meta)
        if found is None or joining.differs(spec, wanted.fields, theirs):
            found = await self._client.request(
                "PATCH",
                path_of(GridNode, "", node.name),
                params={"fieldManager": joining.MANAGER},  # by force, it would take over what others have set meanwhile
                body=joining.gridnode(node.name, wanted.fields, theirs),
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
            log.info("joins the grid" if not meta else "its GridNode follows", extra=about(node.key))
            self._absorb(GridNode.key_of("", node.name), found)
        self._settled[node.name] = (found["metadata"]["uid"], found["metadata"].get("generation", 0), wanted.fields)

    def _tell(self, node: Node, problem: str | None) -> None:
        if problem is not None:
            self._outbox.put(warning(node, Reason.INVALID_SPEC, problem, problem, MANAGER))
