"""What a Ping asks of a node, and what the node says of it."""

from __future__ import annotations

from zos.api.meta import Quantity
from zos.api.nodeworkload import Nic, Offer, Owner, Part, Run, RunningNic, State
from zos.api.text import Uid

#: What its secret is called.
WORD = "word"
#: Bytes that the program may take.
MEMORY = 128 << 20


class PingOnNode(Part):
    """A Ping, with everything it refers to looked up. The node's secret ``word`` is what it knows."""

    nic: Nic
    size: Quantity
    """Bytes to reserve."""

    holds_data: bool = False
    """It has run: what it keeps must be there already."""

    adopt: Uid | None = None
    """Uid of a Ping in the node's quarantine that an administrator gives to this one."""

    @property
    def run(self) -> Run:
        return Run(cpu=0, memory=MEMORY, nics=(RunningNic(network_uid=self.nic.network_uid, ip=self.nic.ip),))

    def offer(self, owner: Owner) -> Offer:
        """Machines may look at what it keeps."""
        name = f"ping-{owner.uid}"
        return Offer(path=f"volumes/{name}/data", ground=f"volume/{name}", read_only=True)


class PingState(State):
    """What the agent sees of it."""

    used: Quantity | None = None
    """Bytes that it keeps, to a tenth of what it may."""
