"""What nodes' agents say of their part of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from zos.api import names
from zos.api.meta import Condition, Reason
from zos.api.network import EGRESS_BLOCKED, NAMES_DOWN, Network
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.network.part import NetworkOnNode, NetworkState
from zos.world import indexes
from zos.world.reader import Reader

INDEXES = (indexes.WORKLOADS,)


@dataclass(frozen=True)
class NodeReport:
    """What an agent says, and what was asked of it. ``failed``: more than just not yet. ``shut``: why machines can't get out
    through the node; ``nameless``: why they can't resolve names there; ``silent``: public keys of nodes that never answered."""

    done: bool = False
    failed: bool = False
    message: str | None = None
    shut: str | None = None
    nameless: Condition | None = None
    silent: frozenset[str] = frozenset()
    listen_port: int | None = None
    public_key: str | None = None
    lost_key: str | None = None


Reports = Mapping[str, NodeReport]


def of_nodes(network: Network, nodes: Iterable[str], world: Reader) -> Reports:
    """One for each of the nodes; empty where its agent has not said anything."""
    said = dict(world.views(NodeWorkload, _report, owner=network.uid))
    return {name: said.get(names.node_namespace(name), NodeReport()) for name in nodes}


def nameless(nodes: Iterable[str], alive: Mapping[str, bool | None], reports: Reports) -> tuple[Condition, ...]:
    """Machines reach each other, but on some nodes not by name."""
    said = {name: why for name in nodes if alive.get(name) is not False and (why := reports[name].nameless) is not None}
    if not said:
        return ()
    message = "; ".join(f"{name}: {why.message}" for name, why in said.items())
    return (Condition(type=NAMES_DOWN, status="True", reason=next(iter(said.values())).reason, message=message),)


def _report(workload: NodeWorkload) -> tuple[str, NodeReport]:
    condition, part = workload.status.condition("Ready"), workload.part(NetworkOnNode)
    shut, nameless = workload.status.condition(EGRESS_BLOCKED), workload.status.condition(NAMES_DOWN)
    state = workload.state(NetworkState)
    said = NodeReport(
        listen_port=part.listen_port if part is not None else None,
        public_key=part.public_key if part is not None else None,
        lost_key=state.lost_key if state is not None else None,
        shut=shut.message if shut is not None and shut.status == "True" else None,
        nameless=nameless if nameless is not None and nameless.status == "True" else None,
        silent=frozenset(state.silent) if state is not None else frozenset(),
    )
    if condition is None:
        return workload.namespace, said
    # Names that changed meanwhile follow, and are not waited for.
    done = part is not None and state is not None and state.done == part.mark
    current = done or condition.observed_generation == workload.metadata.generation
    if current and condition.status == "True":
        return workload.namespace, replace(said, done=True)
    failed = current and condition.reason == Reason.FAILED
    return workload.namespace, replace(said, failed=failed, message=condition.message or None)
