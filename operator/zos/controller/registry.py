"""Every kind that is resolved, and the indexes that resolving needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from zos.api.contract import Claim, Contract, NameContract
from zos.api.core import HEARTBEAT, Lease, Namespace, Secret
from zos.api.farm import Farm
from zos.api.gridnode import GridNode, GridNodeStatus
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.claim import resolve as claim
from zos.kinds.contract import resolve as contract
from zos.kinds.farm import resolve as farm
from zos.kinds.gridnode import resolve as gridnode
from zos.kinds.namecontract import resolve as namecontract
from zos.kinds.network import notices as network_notices
from zos.kinds.network import resolve as network
from zos.kinds.nodeworkload import resolve as nodeworkload
from zos.kinds.publicip import notices as publicip_notices
from zos.kinds.publicip import resolve as publicip
from zos.kinds.zmachine import notices as zmachine_notices
from zos.kinds.zmachine import resolve as zmachine
from zos.kinds.zmount import notices as zmount_notices
from zos.kinds.zmount import resolve as zmount
from zos.kube.watches import Watched
from zos.world.resolution import Notice, Resolution
from zos.world.store import Indexes, Reader


@dataclass(frozen=True)
class Kind:
    """``pool``: the list in the status that records who holds what of it. ``shared``: status fields that are the agent's.
    ``finalized``: users write it and it is cleaned up after. ``users``: kinds whose objects, in its namespace, a deletion may
    have to wait for. ``rest``: seconds between two resolutions of one object, for those that sum up many others. ``happened``:
    what a resolution with a status has to tell of what happened since the last one was written."""

    model: type[Object]
    module: ModuleType
    finalized: bool = True
    users: tuple[type[Object], ...] = ()
    pool: str | None = None
    shared: frozenset[str] = frozenset()
    rest: float = 0.0
    happened: Callable[[Any, Resolution, Reader], tuple[Notice, ...]] = lambda *_: ()

    @property
    def internal(self) -> bool:
        """Nobody reads how it stands: it is only kept or dismissed."""
        return not self.finalized and self.pool is None

    @property
    def resolve(self) -> Callable[[Any, Reader], Resolution]:
        function: Callable[[Any, Reader], Resolution] = self.module.resolve
        return function


KINDS: Mapping[str, Kind] = {
    kind.model.KIND: kind
    for kind in (
        Kind(GridNode, gridnode, pool="holds", shared=GridNodeStatus.AGENTS),
        Kind(Network, network, pool="addresses", users=(ZMachine,), happened=network_notices.notices),
        Kind(ZMachine, zmachine, happened=zmachine_notices.notices),
        Kind(ZMount, zmount, users=(ZMachine,), happened=zmount_notices.notices),
        Kind(Farm, farm, users=(Claim,), rest=0.25),
        Kind(Contract, contract, pool="in_use", users=(PublicIP,)),
        Kind(NameContract, namecontract),
        Kind(PublicIP, publicip, users=(ZMachine,), happened=publicip_notices.notices),
        Kind(Claim, claim, finalized=False),
        Kind(NodeWorkload, nodeworkload, finalized=False),
    )
}

#: What the informer watches. Of a cluster's Secrets most are nobody's business here: that one changed is enough to be told.
WATCHED: tuple[Watched, ...] = (
    *(Watched(kind.model) for kind in KINDS.values()),
    Watched(Secret, metadata=True),
    Watched(Namespace, metadata=True),
    Watched(Lease, labels=HEARTBEAT),
)


def indexes() -> Iterable[Indexes]:
    """What every kind declares, merged by model."""
    merged: dict[type[Object], dict[str, Any]] = {kind.model: {} for kind in KINDS.values()}
    merged |= {Secret: {}, Namespace: {}}
    # The executor's own look-ups.
    merged[NodeWorkload]["owner"] = lambda workload: [workload.spec.owner.uid]
    merged[Claim]["holder"] = lambda claim: [claim.spec.holder.uid]
    for kind in KINDS.values():
        for declared in kind.module.INDEXES:
            merged.setdefault(declared.model, {}).update(declared.by)
    return [Indexes(model, by) for model, by in merged.items()]
