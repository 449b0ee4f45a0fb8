"""NodeWorkload: goes when its owner is gone; let go by force when its node is."""

from __future__ import annotations

from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.plan import names
from zos.world.resolution import Resolution, ready
from zos.world.store import Indexes, Reader

INDEXES = (
    Indexes(GridNode, {"namespace": lambda node: {names.node_namespace(node.name): node.name}}),
    Indexes(Network),
    Indexes(ZMachine),
    Indexes(ZMount),
    Indexes(NodeWorkload, {"owner": lambda workload: [workload.spec.owner.uid]}),
)

_OWNERS: dict[str, type[Object]] = {model.KIND: model for model in (Network, ZMachine, ZMount)}


def resolve(workload: NodeWorkload, world: Reader) -> Resolution:
    owner = workload.spec.owner
    model = _OWNERS.get(owner.kind)
    uid = world.view(model, owner.namespace, owner.name, lambda obj: obj.uid) if model else None
    node = next(iter(world.where_view(GridNode, "namespace", workload.namespace, lambda node: node.name)), None)
    return Resolution(verdict=ready(), obsolete=uid != owner.uid, abandoned=node is None)
