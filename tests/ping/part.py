"""What a Ping asks of a node, and what the node says of it."""

from __future__ import annotations

from zos.api import names
from zos.api.meta import Quantity
from zos.api.nodeworkload import Nic, Offer, Owner, Part, State
from zos.api.text import Uid
from zos.plan.items import ServiceLimits

#: What its secret is called.
WORD = "word"
#: What the program may take of its node.
LIMITS = ServiceLimits(memory=128 << 20)


class PingOnNode(Part):
    """A Ping, with everything it refers to looked up. The node's secret ``word`` is what it knows."""

    nic: Nic
    size: Quantity
    """Bytes to reserve."""

    holds_data: bool = False
    """It has run: what it keeps must be there already."""

    adopt: Uid | None = None
    """Uid of a Ping in the node's quarantine that an administrator gives to this one."""

    def offer(self, owner: Owner) -> Offer:
        """Machines may look at what it keeps."""
        name = names.kept("ping", owner.uid)
        return Offer(path=f"volumes/{name}/data", ground=f"volume/{name}", read_only=True)


class PingState(State):
    """What the agent sees of it."""

    used: Quantity | None = None
    """Bytes that it keeps, to a tenth of what it may."""
