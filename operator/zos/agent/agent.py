"""One node's agent: what wakes it, whom it believes, and what it does about it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from zos.agent import knowledge
from zos.agent.cluster import Cluster
from zos.agent.converge import Converger, Pass
from zos.agent.judging import as_told
from zos.agent.metrics import Metrics
from zos.agent.nodestatus import NodeStatus
from zos.agent.orders import Orders
from zos.agent.owners import Owners
from zos.agent.settings import Settings
from zos.agent.snapshot import Snapshot
from zos.agent.statuses import Statuses
from zos.agent.workloads import Workloads
from zos.api import names
from zos.api.core import Lease
from zos.api.gridnode import GridNode, NodeFeatures
from zos.api.meta import Key, Reason
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import QuarantineOrder
from zos.api.usage import USAGE
from zos.drivers import Driver
from zos.drivers.keyring import Keyring
from zos.kinds.kind import Kinds, Report
from zos.kinds.registry import KINDS
from zos.kube import lease
from zos.kube.client import ApiError, Client, Raw, Unavailable
from zos.kube.informer import Informer
from zos.kube.watches import Watched
from zos.plan.diff import Op
from zos.plan.facts import Facts, LostKeyFact
from zos.world.resolution import waiting

log = logging.getLogger("zos.agent")

#: Seconds in which further news join a pass that is due.
_COALESCE = 0.02
#: Passes in a row without such a pause for anything else before the loop slows down: something is flapping.
_BURST = 20
_SLOW = 0.25
#: Seconds without a pass that are a rest.
_REST = 5.0
#: Seconds to wait for the API server before the workloads saved on disk are brought up.
_PATIENCE = 5.0
#: Seconds until the next attempt to learn whose cluster answers.
_ASK_AGAIN = 1.0
#: Seconds until the next heartbeat when one could not be written.
_BEAT_AGAIN = 1.0
#: Seconds after which a pass that doesn't end is a reason to call the agent unhealthy.
_STUCK = 300.0


class Agent:
    """Run `run` until it is cancelled. ``wall`` gives seconds since the epoch.

    ``usage`` gives what the node's machines use, as its Lease has it; empty: nothing to say. ``rested`` is called when nothing
    has been due for a while since the last pass.

    Leaving disturbs nothing: services and guests are not its children.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        drivers: Sequence[Driver],
        *,
        kinds: Kinds = KINDS,
        keyring: Keyring,
        features: Callable[[], NodeFeatures] = NodeFeatures,
        usage: Callable[[], str] = lambda: "",
        metrics: Metrics | None = None,
        wall: Callable[[], float] = time.time,
        rested: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._rested = rested
        self._wall = wall
        self._usage = usage
        self._client = client
        self._keyring = keyring
        self.metrics = metrics or Metrics()
        self.namespace = names.node_namespace(settings.node)
        self._workloads = Workloads(kinds.workload)
        self._believed: Mapping[str, NodeWorkload] = {}  # as of the last time the cluster was known to be ours
        self._believed_version = -1
        self._due = asyncio.Event()
        self._passing_since: float | None = None
        self._secrets: dict[tuple[str, str, str], str] = {}
        self._unopened: frozenset[tuple[str, str, str]] = frozenset()
        self._right: frozenset[tuple[str, int]] = frozenset()  # (workload, generation) that were ready after the last pass
        self._snapshot = Snapshot(settings.state, kinds.workload)
        self.cluster = Cluster(client, settings.state, time.monotonic, self._snapshot.cluster)
        self._informer = Informer(
            client.access,
            client,
            # Its own heartbeat has to be heard as well: the proof of an idle node that it is not deaf.
            [
                Watched(NodeWorkload, self.namespace),
                Watched(GridNode, name=settings.node),
                Watched(Lease, self.namespace, name=names.AGENT, probe=True),
            ],
            self._heard,
            trusted=self.cluster.ours,
            relisted=self.cluster.doubt,
            rewound=self._rewound,
        )
        self._listed = self._informer.listed
        self.metrics.registry.register(self._informer.hearing)
        self._owners = Owners(settings.state)
        self._given: tuple[QuarantineOrder, ...] = ()
        self._orders = Orders(settings.state)
        self._statuses = Statuses(client, self._workloads.get, time.monotonic, self._now)
        self._node = NodeStatus(client, settings, keyring, features, time.monotonic, self._due.set)
        self.metrics.refused.set_function(lambda: self._statuses.refused + self._node.refused)
        self._drivers = frozenset(type(driver).__name__ for driver in drivers)
        self._knowing = tuple(drivers)
        self._converger = Converger(
            drivers, kinds.on_node, self._facts, changed=self._due.set, slow_done=self._slow_done,
            clock=time.monotonic, wall=wall,
        )  # fmt: skip

    def _heard(self, key: Key, raw: Raw | None) -> None:
        """News from the API server. What can't be read changes nothing: the informer tells that, and goes on."""
        if key.kind == GridNode.KIND:
            if raw is not None and key.name == self._settings.node:
                self._node.see(GridNode.model_validate(raw))
            elif raw is None:
                self._node.node = None
                self._due.set()
            if self._node.node is not None and self._node.node.spec.quarantine != self._given:
                self._due.set()
        elif key.kind == NodeWorkload.KIND:
            matters = self._workloads.put(raw) if raw is not None else self._workloads.remove(key.name)
            if matters:
                self._due.set()

    def _rewound(self) -> None:
        """The API server shows an older state: everything will be told anew."""
        self._workloads.doubt()
        self._node.doubt()
        self._statuses.rewound()

    def owner_of(self, workload: str) -> Owner | None:
        """The user's object that a NodeWorkload of this name is or was for, as far as it is remembered."""
        return self._owners.known.get(workload)

    def unhealthy(self) -> str | None:
        """What is wrong with the agent itself; None: nothing."""
        if self._passing_since is not None and time.monotonic() - self._passing_since > _STUCK:
            return f"a pass has been running for {time.monotonic() - self._passing_since:.0f} s"
        return self._informer.hearing.problem()

    async def run(self) -> None:
        """Until cancelled, or until one of its parts fails, which is a bug."""
        await self._node.look()
        self._converger.watch()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._informer.run(), name="informer")
                tasks.create_task(self._loop(), name="converge")
                tasks.create_task(self._statuses.run(), name="statuses")
                tasks.create_task(self._node.run(self._knows_all), name="node status")
                tasks.create_task(self._beat(), name="heartbeat")
        finally:
            await self._converger.close()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        await self._first_news()
        last_resync = time.monotonic()
        hurried = 0
        while True:
            self._due.clear()
            now = time.monotonic()
            if now - last_resync >= self._settings.resync:
                self._converger.resync()
                self._statuses.distrust()
                last_resync = now
            result = await self._pass()
            times = [last_resync + self._settings.resync]
            if result is None or self._workloads.version != self._believed_version:
                times.append(time.monotonic() + _ASK_AGAIN)
            if result is not None and result.wake_at is not None:
                times.append(result.wake_at)
            wait = 0.0 if result is not None and result.again else max(0.0, min(times) - time.monotonic())
            before = time.monotonic()
            await self._wait(wait)
            hurried = hurried + 1 if time.monotonic() - before < _SLOW else 0
            await asyncio.sleep(_COALESCE if hurried < _BURST else _SLOW)

    async def _wait(self, seconds: float) -> None:
        """So long, or until something is due."""
        rest = asyncio.get_running_loop().call_later(_REST, self._rested)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._due.wait()
        finally:
            rest.cancel()

    async def _first_news(self) -> None:
        """Until everything is listed, or it is time to go by what is on disk."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._listed.wait()
        if not self._listed.is_set():
            log.warning("the API server is not there yet: going by what was known last")

    async def _pass(self) -> Pass | None:
        """None: it is not known what this node should be."""
        current = await self._believe()
        if self.cluster.foreign is not None:
            self.metrics.foreign.set(1)
            return None
        self.metrics.foreign.set(0)
        if not self._listed.is_set() and not self._believed:
            saved = self._snapshot.load(self.cluster.uid)
            if saved is None:
                await self._listed_soon()
                return None
            self._believed = saved
        workloads = self._believed
        self._passing_since = time.monotonic()
        node = self._node.node
        self._given = node.spec.quarantine if node is not None else ()
        await asyncio.to_thread(self._owners.learn, workloads)
        orders: tuple[QuarantineOrder, ...] = ()
        if node is not None:  # else they are not taken back, but not known
            orders = await asyncio.to_thread(self._orders.counting, self._given, workloads)
        result = await self._converger.converge(workloads, may_remove=current, origins=self._owners.known, orders=orders)
        self.metrics.passes.observe(time.monotonic() - self._passing_since)
        self._passing_since = None
        self._account(workloads, result)
        if current:
            self._node.workloads = workloads
            self._node.keep(result.keys, result.quarantine, complete=result.complete)
            # What stays would count as free if its NodeWorkload went before the GridNode shows it.
            unsaid = frozenset(name for name in result.clean if workloads[name].spec.owner.uid in self._node.unsaid)
            self._statuses.offer(workloads, {**result.reports, **self._unsaid(workloads, unsaid)}, result.clean - unsaid)
            if result.complete:
                await asyncio.to_thread(self._owners.forget, result.owners | workloads.keys())
            self._node.changed()
        return result

    def _unsaid(self, workloads: Mapping[str, NodeWorkload], names: frozenset[str]) -> dict[str, Report[Any]]:
        """Of workloads of which something stays, where the GridNode can't show that."""
        if not (why := self._node.refusal):
            return {}
        message = (
            f"the node keeps what it has of it, which status.quarantine of its GridNode has to say first, and can't: {why}"
        )
        return {name: as_told(workloads[name], waiting(Reason.DELETION_BLOCKED, message)) for name in names}

    async def _believe(self) -> bool:
        """Takes over the news if they come from our cluster. Whether what we go by is complete and current."""
        if not self._listed.is_set():
            return False
        if self._workloads.version == self._believed_version:
            return True
        version, workloads = self._workloads.version, self._workloads.all()
        if not await self.cluster.ours():
            return False
        self._believed, self._believed_version = workloads, version
        if (uid := self.cluster.uid) is not None:
            await asyncio.to_thread(self._snapshot.save, uid, workloads)
        return True

    async def _listed_soon(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._listed.wait()

    def _knows_all(self) -> bool:
        return self._listed.is_set() and self._believed_version >= 0 and self.cluster.foreign is None

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _facts(self, workloads: Mapping[str, NodeWorkload]) -> Facts:
        return Facts(
            node=self._settings.node,
            now=self._wall(),
            nameservers=self._node.nameservers,
            egress_deny=self._settings.egress_deny,
            secrets=self._unsealed(workloads),
            known={**knowledge.known(self._knowing), LostKeyFact: self._lost_keys(workloads)},
            unknown=knowledge.unseen(self._converger.blind()),
        )

    def _lost_keys(self, workloads: Mapping[str, NodeWorkload]) -> dict[str, LostKeyFact]:
        parts = (workload.spec.part for workload in workloads.values())
        return {key: LostKeyFact() for part in parts if part is not None for key in part.keys if self._keyring.lacks(key)}

    def _unsealed(self, workloads: Mapping[str, NodeWorkload]) -> dict[tuple[str, str], str]:
        opened: dict[tuple[str, str, str], str] = {}
        unopened: set[tuple[str, str, str]] = set()
        for name, workload in workloads.items():
            for sealed in workload.spec.secrets:
                key = (name, sealed.name, sealed.value)
                try:
                    opened[key] = self._secrets[key] if key in self._secrets else self._keyring.unseal(sealed.value)
                except (ValueError, OSError) as error:
                    if key not in self._unopened:
                        log.warning("%s: %s", sealed.name, error, extra={"workload": name})
                    unopened.add(key)
        self._secrets, self._unopened = opened, frozenset(unopened)
        return {(name, what): value for (name, what, _), value in opened.items()}

    # -- telling -------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Renews the node's Lease, whatever the loop is busy with."""
        told = ""
        failures = 0
        await self._listed.wait()
        while True:
            pause = self._settings.heartbeat
            try:
                if self.cluster.foreign is None:
                    said = {USAGE: usage} if (usage := self._usage()) else None
                    await lease.renew(
                        self._client, self.namespace, names.AGENT, self._settings.node, self._settings.lease, said
                    )
                told, failures = "", 0
            except (ApiError, Unavailable) as error:
                if told != str(error):
                    log.warning("heartbeat not written: %s", error)
                told = str(error)
                pause = min(pause, _BEAT_AGAIN * 2 ** min(failures, 10))  # a new node's namespace is made in this moment
                failures += 1
            await asyncio.sleep(pause)

    def _account(self, workloads: Mapping[str, NodeWorkload], result: Pass) -> None:
        for op in result.done:
            self._count(op, True)
            owner = op.item.owner if op.item is not None else op.observed.owner if op.observed is not None else ""
            workload = workloads.get(owner)
            drift = workload is not None and (owner, workload.metadata.generation) in self._right
            if drift:
                self.metrics.drift.labels(_item(op)).inc()
            what = "mended" if drift else "done"
            log.info("%s %s: %s", op.verb, op.key, what, extra={"workload": owner, "item": op.key})
        for op in result.failed:
            self._count(op, False)
        ready = {name for name, report in result.reports.items() if report.verdict.ready}
        self._right = frozenset((name, workloads[name].metadata.generation) for name in ready)
        self.metrics.workloads.labels("ready").set(len(ready))
        self.metrics.workloads.labels("not ready").set(len(result.reports) - len(ready))
        self.metrics.workloads.labels("deleting").set(sum(workload.deleting for workload in workloads.values()))
        self.metrics.quarantined.set(len(result.quarantine))
        blind = {type(driver).__name__ for driver in self._converger.blind()}
        for name in self._drivers:
            self.metrics.blind.labels(name.removesuffix("Driver")).set(name in blind)

    def _now(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    def _slow_done(self, op: Op, ok: bool) -> None:
        self._count(op, ok)
        if ok:
            log.info("%s %s: done", op.verb, op.key, extra={"item": op.key})

    def _count(self, op: Op, ok: bool) -> None:
        self.metrics.operations.labels(_item(op), op.verb, "ok" if ok else "failed").inc()


def _item(op: Op) -> str:
    return op.key.split("/", 1)[0]
