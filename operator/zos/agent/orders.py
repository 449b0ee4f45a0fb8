"""Which of an administrator's orders count: those given of what is nobody's. One whose object lives again is over, and stays so
until it is taken back and given anew: it would strike at the next time that the object's NodeWorkload is lost.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from zos.api.nodeworkload import NodeWorkload
from zos.api.quarantine import QuarantineOrder
from zos.files import Durability, write
from zos.kube.client import Raw

log = logging.getLogger("zos.agent")


class Orders:
    """One file, those that are over by their uid. Lost: what lives is seen to live."""

    def __init__(self, state: Path) -> None:
        self._file = state / "orders.json"
        self._over = self._load()

    def counting(self, given: Sequence[QuarantineOrder], workloads: Mapping[str, NodeWorkload]) -> tuple[QuarantineOrder, ...]:
        """``given`` are all that stand, ``workloads`` all of this node."""
        alive = {workload.spec.owner.uid for workload in workloads.values() if not workload.deleting}
        over = {order.uid: order.wire() for order in given if order.uid in alive or self._over.get(order.uid) == order.wire()}
        if over != self._over:
            for uid in over.keys() - self._over.keys():
                log.warning("the order for %s in spec.quarantine is over, its object lives: take it back", uid)
            self._over = over
            self._save()
        return tuple(order for order in given if order.uid not in over)

    def _load(self) -> dict[str, Raw]:
        try:
            return dict(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("what was remembered of orders can't be used: %s", error)
            return {}

    def _save(self) -> None:
        try:
            write(self._file, json.dumps(self._over, sort_keys=True), Durability.DURABLE)
        except OSError as error:
            log.warning("orders can't be remembered: %s", error)
