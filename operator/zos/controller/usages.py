"""What nodes tell of their machines' use, put into the World: once a minute for each, and on large grids less often, so that
what is written of it is bounded however many machines there are."""

from __future__ import annotations

import logging
from collections.abc import Callable

from zos.api.meta import Meta
from zos.api.usage import understood
from zos.controller.writing import Exchange
from zos.world.usage import NodeUsage

log = logging.getLogger("zos.controller")

#: Seconds between two news of a node, at least; and how many machines' statuses may change in a second for this, of all nodes
#: together.
_PERIOD, _RATE = 55.0, 20.0


class Usages:
    """``clock`` gives seconds, any origin."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        self._world = exchange.world
        self._changed = exchange.changed
        self._clock = clock
        self._taken: dict[str, tuple[str, float, int]] = {}  # by node: text, when, of how many machines

    def heard(self, node: str, text: str) -> None:
        """What can't be understood says nothing."""
        now = self._clock()
        known, since, _ = self._taken.get(node, ("", -1e9, 0))
        every = max(_PERIOD, sum(count for _, _, count in self._taken.values()) / _RATE)
        if text == known or now - since < every:
            return
        try:
            machines = understood(text) if text else {}
        except ValueError as error:
            log.warning("use of machines can't be understood: %s", str(error)[:200], extra={"node": node})
            machines = {}
        self._taken[node] = (text, now, len(machines))
        self._changed(self._world.put(NodeUsage(metadata=Meta(name=node, uid=node), machines=machines)))

    def left(self, node: str) -> None:
        if self._taken.pop(node, None) is not None:
            self._changed(self._world.remove(NodeUsage.key_of("", node)))
