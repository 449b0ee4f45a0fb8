"""Which cluster this node belongs to. State on disk is bound to it: another cluster's word moves nothing here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from zos.api.core import Namespace
from zos.files import Durability, write
from zos.kube.client import ApiError, Client, Unavailable

log = logging.getLogger("zos.agent")

#: Seconds for which an answer is good: how long an exchanged API server could go unnoticed.
_FRESH = 10.0


class Cluster:
    """A cluster is known by the UID of its namespace kube-system, which lives as long as the cluster does."""

    def __init__(
        self, client: Client, state: Path, clock: Callable[[], float], remembered: Callable[[], str | None] = lambda: None
    ) -> None:
        """``remembered`` says what else on the node's disk tells of its cluster, should the file be lost."""
        self._client = client
        self._file = state / "cluster-uid"
        self._clock = clock
        self._remembered = remembered
        self._verified_at: float | None = None
        self.foreign: str | None = None  # UID of the wrong cluster that answers now

    @property
    def uid(self) -> str | None:
        """The cluster that this node is bound to; None: to none yet, or the file that says it is empty."""
        try:
            told = self._file.read_text(errors="replace").strip()
        except FileNotFoundError:
            told = ""
        return told or self._remembered()

    def doubt(self) -> None:
        """Another server may answer from now on: the next `ours` asks."""
        self._verified_at = None

    async def ours(self) -> bool:
        """Whether the API server that answers is this node's cluster; the first one that does becomes it. False as well
        when nobody answers."""
        if self._verified_at is not None and self._clock() - self._verified_at < _FRESH:
            return True
        try:
            raw = await self._client.get(Namespace, "", "kube-system")
        except (Unavailable, ApiError) as error:
            log.info("the cluster can't be identified: %s", error)
            return False
        if raw is None:
            return False  # a server that is just starting
        found, bound = str(raw["metadata"]["uid"]), self.uid
        if bound is None and self._file.exists():
            if self.foreign != found:
                log.critical(
                    "%s is empty, so it is not known to which cluster this node belongs; it is left as it is. If that is the "
                    "one that answers, write %s into the file",
                    self._file,
                    found,
                )
            self.foreign, self._verified_at = found, None
            return False
        if bound is None:
            bound = found
            log.info("bound to cluster %s", found)
        if found != bound:
            if self.foreign != found:
                log.critical(
                    "another cluster answers (%s); this node belongs to %s and is left as it is. If it is to join the "
                    "other one, stop the agent and give it another state directory: what is in %s belongs to the first",
                    found,
                    bound,
                    self._file.parent,
                )
            self.foreign, self._verified_at = found, None
            return False
        if not self._file.exists() or self._file.read_text(errors="replace").strip() != bound:
            write(self._file, bound + "\n", Durability.DURABLE)
        self.foreign, self._verified_at = None, self._clock()
        return True
