"""The agent's part of GridNode.status: what the node offers, and its fresh keys. Written only when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from zos import __version__
from zos.agent import prekeys
from zos.agent.settings import Settings
from zos.agent.statuses import replacing
from zos.agent.surroundings import Surroundings
from zos.api.gridnode import GridNode, GridNodeStatus, NodeFeatures
from zos.api.meta import version_number
from zos.api.nodeworkload import NodeWorkload
from zos.api.quarantine import Quarantined
from zos.drivers.keyring import Keyring
from zos.kube.client import ApiError, Client, NotFound, Raw, Unavailable

log = logging.getLogger("zos.agent")

#: Seconds between looks at what nobody tells us of: addresses, name servers, the size of the disk; and while something seems
#: to be gone.
_LOOK = 60.0
_LOOK_AGAIN = 5.0
_RETRY, _LAST_RETRY = 3.0, 300.0
#: Our fields of GridNode.status, as on the wire.
_OURS = frozenset(to_camel(field) for field in GridNodeStatus.AGENTS)


class NodeStatus:
    """``features`` gives what drivers found out by now. ``run`` until cancelled; call `changed` when there is news. ``told`` is
    called when what is not said yet, or why, is another."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        keyring: Keyring,
        features: Callable[[], NodeFeatures],
        clock: Callable[[], float],
        told: Callable[[], None],
    ) -> None:
        self._client = client
        self._settings = settings
        self._keyring = keyring
        self._features = features
        self._clock = clock
        self._told = told
        self._wake = asyncio.Event()
        self._made: set[str] = set()
        self._unused: Mapping[str, float] = {}
        self._surroundings = Surroundings(settings)
        self._quarantine: tuple[Quarantined, ...] | None = None  # not known yet
        self._kept_keys: frozenset[str] | None = None
        self.workloads: Mapping[str, NodeWorkload] = {}
        self.node: GridNode | None = None
        self._doubted = False
        self._failed: tuple[str, int, float] | None = None  # why the last write failed, how many did, when to try again

    @property
    def refused(self) -> bool:
        """Whether the API server does not take the node's status."""
        return self._failed is not None

    @property
    def refusal(self) -> str:
        """Why the API server does not take the node's status; empty: it does, as far as is known."""
        return self._failed[0] if self._failed is not None else ""

    @property
    def unsaid(self) -> frozenset[str]:
        """Uids of what is in quarantine and not shown yet by the GridNode. Where there is none, nobody is to be told."""
        if self.node is None:
            return frozenset()
        return frozenset(entry.uid for entry in self._quarantine or ()) - {e.uid for e in self.node.status.quarantine}

    @property
    def quarantine(self) -> tuple[Quarantined, ...]:
        """What is on the node and belongs to nobody; until that is known, what an agent has shown before."""
        if self._quarantine is not None:
            return self._quarantine
        return self.node.left if self.node is not None else ()

    @property
    def nameservers(self) -> tuple[str, ...]:
        return self._surroundings.nameservers

    def keep(self, keys: frozenset[str], quarantine: tuple[Quarantined, ...], *, complete: bool) -> None:
        """What is on the node: keys that WireGuard runs with, and what belongs to nobody. ``complete``: that is all; else
        what was seen before and could not be looked at now is still there."""
        if not complete:
            before = {entry.uid: entry for entry in self.quarantine}
            quarantine = tuple({**{entry.uid: entry for entry in quarantine}, **before}.values())
        if quarantine != (self._quarantine or ()):
            told = ", ".join(f"{entry.kind} {entry.namespace}/{entry.name} ({entry.uid})" for entry in quarantine)
            if told:
                log.warning("in quarantine, left as it is: %s", told)
            else:
                log.info("nothing is in quarantine any more")
        self._quarantine = quarantine
        self._kept_keys = keys if complete else None

    def changed(self) -> None:
        self._wake.set()

    def doubt(self) -> None:
        """The API server's versions went back: what it shows next is news, whatever the version."""
        self._doubted = True

    def see(self, node: GridNode) -> None:
        """What the API server shows; older news than what is known is dropped."""
        self._surroundings.recall(node.status)
        if self.node is not None and self.node.uid == node.uid:
            if not self._doubted and _version(node) <= _version(self.node):
                return
            self._doubted = False
            if ours(node) == ours(self.node) and node.status.holds == self.node.status.holds:
                self.node = node
                return
        self.node = node
        self.changed()

    async def look(self) -> None:
        """Asks the node for what it doesn't tell by itself."""
        await self._surroundings.look()

    async def run(self, allowed: Callable[[], bool]) -> None:
        """``allowed``: the workloads are known and the cluster is ours, so keys can be told used from unused."""
        looked = self._clock()
        while True:
            self._wake.clear()
            between = _LOOK_AGAIN if self._surroundings.unsure else _LOOK
            delay = max(0.1, looked + between - self._clock())
            if allowed() and self.node is not None:
                pause = self._failed[2] - self._clock() if self._failed is not None else 0.0
                if pause <= 0:
                    before = (self.unsaid, self.refusal)
                    pause = await self._try(self.node)
                    if (self.unsaid, self.refusal) != before:
                        self._told()
                if pause > 0:
                    delay = min(delay, pause)
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                if self._clock() - looked >= between:
                    await self.look()
                    looked = self._clock()

    async def _try(self, node: GridNode) -> float:
        """Writes. Seconds until it is to be tried again, 0: when there is news."""
        try:
            await self._write(node)
        except NotFound:
            self.node = None
        except (ApiError, Unavailable, OSError, ValidationError) as error:
            said, tries = str(error), self._failed[1] + 1 if self._failed is not None else 1
            if self._failed is None or self._failed[0] != said:
                log.warning("node status not written: %s", error)
            permanent = isinstance(error, ValidationError) or (isinstance(error, ApiError) and error.permanent)
            pause = min(_LAST_RETRY, _RETRY * 2.0 ** min(tries - 1, 10)) if permanent else _RETRY
            self._failed = (said, tries, self._clock() + pause)
            return pause
        self._failed = None
        return 0.0

    async def _write(self, node: GridNode) -> None:
        status = node.status
        used = {hold.public_key for hold in status.holds if hold.public_key}
        used |= {key for w in self.workloads.values() if w.spec.part is not None for key in w.spec.part.keys}
        used |= self._kept_keys or frozenset()
        pool = prekeys.plan(self._keyring.publics(), status.prekeys, self._made, used, self._unused, self._clock())
        self._unused = pool.unused
        for key in pool.forget if self._kept_keys is not None else ():
            log.info("key of a network that is gone deleted", extra={"public_key": key})
            self._keyring.forget(key)
        fresh = tuple(self._keyring.create() for _ in range(pool.create))
        self._made = (self._made - set(status.prekeys)) | set(fresh)
        wanted = node.model_copy(
            update={
                "status": status.model_copy(
                    update={
                        "capacity": self._surroundings.capacity,
                        "prekeys": (*pool.publish, *fresh),
                        "sealing_key": self._keyring.sealing_key(),
                        "features": self._features(),
                        "agent_version": __version__,
                        "reported_endpoint": self._surroundings.endpoint,
                        "nameservers": self._surroundings.nameservers,
                        "quarantine": self.quarantine,
                    }
                )
            }
        )
        if ours(wanted) == ours(node):
            return
        body = {"metadata": {"uid": node.uid}, "status": replacing(ours(wanted), ours(node))}
        self.see(GridNode.model_validate(await self._client.patch(GridNode, "", node.name, body, subresource="status")))


def _version(node: GridNode) -> int:
    return version_number(node.metadata.resource_version)


def ours(node: GridNode) -> Raw:
    """The agent's fields, as on the wire."""
    return {key: value for key, value in node.status.wire().items() if key in _OURS}
