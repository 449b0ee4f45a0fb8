"""Look-ups that several kinds use, so that each is one function."""

from __future__ import annotations

from zos.api.contract import Claim
from zos.api.farm import Farm, FarmSpec
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.world.heartbeat import Heartbeat
from zos.world.objects import Indexes

#: By the uid of the object that it is for, and by its node's namespace.
WORKLOADS = Indexes(
    NodeWorkload,
    {"owner": lambda workload: [workload.spec.owner.uid], "namespace": lambda workload: [workload.namespace]},
)
#: ``yes`` or ``no``.
HEARTBEATS = Indexes(Heartbeat, {"alive": lambda heartbeat: ["yes" if heartbeat.alive else "no"]})
#: By the holder's uid, and with the address by the farm that it is of.
CLAIMS = Indexes(Claim, {"holder": lambda claim: [claim.spec.holder.uid], "held_of": lambda claim: claim.by_farm})
#: By namespace and name of the contract.
CONTRACTED = Indexes(PublicIP, {"contract": lambda ip: [f"{ip.namespace}/{ip.spec.contract}"]})


def offer(farm: Farm) -> FarmSpec:
    """What a farm gives: asked once for all who look."""
    return farm.spec
