"""GridNode: a machine of the grid. Cluster-scoped; an administrator applies it, its agent reports on it."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from zos.api.farm import NON_GLOBAL_IPV4
from zos.api.meta import ABANDON, MOST, Model, Object, Quantity, Status
from zos.api.quarantine import Quarantined, QuarantineOrder
from zos.api.resources import GUEST_OVERHEAD, NodeHold, Resources, Usage
from zos.api.schema import AGE, READY, REASON, Column, Rule, at_most, each_cidr, ipv4, ipv6, keyed, named, rules, unicast
from zos.api.text import (
    MOST_COUNTED,
    Cidr,
    Ip,
    Label,
    PublicKey,
    Version,
    only,
    otherwise,
    word,
)  # fmt: skip

#: Agents from this version on know that a deletion without the word to erase takes nothing away.
_WORDS = (0, 2)
#: Agents from this version on read NodeWorkloads in the form of today (`zos.api.olderform`).
ENVELOPES = (0, 3)
#: A domain that gateways publish names under, as a regular expression, and its length: a name and a dot come before it.
DOMAIN = "([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
MOST_DOMAIN = 189


class Endpoint(Model):
    """Addresses at which other nodes reach this one. Neither: the node is hidden."""

    ipv4: str | None = Field(
        default=None, max_length=15, json_schema_extra=rules(ipv4("endpoint.ipv4"), unicast("endpoint.ipv4"))
    )
    """An IPv4 address like 198.51.100.7. Only a node that has one can be a relay or take laptops."""

    ipv6: str | None = Field(
        default=None, max_length=39, json_schema_extra=rules(ipv6("endpoint.ipv6"), unicast("endpoint.ipv6"))
    )
    """An IPv6 address like 2001:db8::7. Used between two nodes that have no IPv4 in common."""


class PortRange(Model):
    """UDP ports, both ends included."""

    model_config = ConfigDict(
        json_schema_extra=rules(Rule("self.from <= self.to", "wireguardPorts.from must not be above wireguardPorts.to"))
    )

    from_: int = Field(default=52000, alias="from", ge=1024, le=65535)
    """The lowest port."""

    to: int = Field(default=53999, ge=1024, le=65535)
    """The highest port."""


class Caps(Model):
    """Caps on what the agent reports; absent: all of it."""

    cpu: int | None = Field(default=None, ge=0, le=65536)
    """Virtual CPUs."""

    memory: Quantity | None = None
    """Bytes of RAM."""

    storage: Quantity | None = None
    """Bytes of disk."""


class Egress(Model):
    """Ranges in CIDR form. Of IPv6 nothing leaves a private network anyway."""

    deny: tuple[Cidr, ...] = Field(default=(), max_length=64, json_schema_extra=each_cidr("egress.deny"))
    """Closed as well, like the CIDRs of a cluster's pods and services."""

    allow: tuple[Cidr, ...] = Field(default=(), max_length=64, json_schema_extra=each_cidr("egress.allow"))
    """Open although they would be closed. Stands above ``deny``."""


class GridNodeSpec(Model):
    farm: str | None = Field(default=None, max_length=253, json_schema_extra=rules(named("farm")))
    """The Farm whose public segment the node is on. Absent: its machines have no public addresses."""

    endpoint: Endpoint | None = None
    """Addresses at which other nodes reach it over WireGuard. Absent or empty: those that the agent finds on the node if they
    are truly global, else the node is hidden and goes through a relay."""

    public_interface: str | None = Field(
        default=None,
        max_length=64,
        json_schema_extra=rules(
            Rule(
                r"self.matches(r'^[^/\s\p{Cc}]{1,15}$') && self != '.' && self != '..'",
                "publicInterface must be the name of an interface: 1 to 15 characters, without / and blanks",
            )
        ),
    )
    """The node's bridge or NIC on the farm's public segment, like ``br0``. Absent: its machines have no public addresses."""

    gateway_domain: str | None = Field(
        default=None,
        max_length=MOST_DOMAIN,
        json_schema_extra=rules(
            Rule(
                f"self.matches('^{DOMAIN}$')",
                "gatewayDomain must be a domain in lower case, like gw.example.org",
            )
        ),
    )
    """Domain under which gateways on this node publish names, like gw.example.org. Absent: no gateways here."""

    wireguard_ports: PortRange = Field(default_factory=PortRange)
    """UDP ports for WireGuard, one for each network that has this node; they must be reachable from outside. A port that a
    network has stays its own whatever the range becomes."""

    offer: Caps = Field(default_factory=Caps)
    """The most that is used of what the agent says the node has."""

    cpu_overcommit_percent: int = Field(
        default=100,
        json_schema_extra=rules(
            Rule("self >= 100 && self <= 1000", "cpuOvercommitPercent must be between 100 (one virtual CPU for each) and 1000")
        ),
    )
    """How many virtual CPUs may be held, in percent of those that are offered: 400 lets machines hold 32 of a node with 8.
    Memory and disk are never promised twice. Lowering it takes nothing away: what is new waits until less is held."""

    egress: Egress = Field(default_factory=Egress)
    """Where machines on this node may connect to through it. Closed by default: the node itself, the networks that it is
    connected to, link-local addresses, and what the option ``--egress-deny`` of its agent names. Open: its name servers on port
    53, what farms give to machines, the rest of the internet."""

    quarantine: tuple[QuarantineOrder, ...] = Field(default=(), max_length=256, json_schema_extra=keyed("uid"))
    """What becomes of things on the node that belong to nobody any more (``status.quarantine``). Nothing happens to what is not
    listed here. An order for an object that lives is void, and stays so when that is gone, until it is taken back and given
    anew."""

    unschedulable: bool = False
    """Nothing new is placed here; what is here stays, and what names this node in ``nodeName`` still comes."""

    maintenance: bool = False
    """Nothing new comes here, whatever it names, and machines here are asked to stop (``stopSeconds``, then off) until this is
    taken back; then they start again. What they have stays theirs: root, disks, addresses and room. Networks, disks and
    services stay as they are."""


class NodeFeatures(Model):
    accelerator: Annotated[Literal["kvm", "tcg", ""], otherwise("")] = ""
    """``kvm``, or ``tcg`` where guests are emulated in software and slow. Empty: not found out yet."""

    wireguard: Annotated[Literal["kernel", "userspace", ""], otherwise("")] = ""
    """``kernel``, or ``userspace`` where a program does it, more slowly. Empty: not found out yet."""


#: Others send to it: by an address inside their own network a node could have them knock there.
_GLOBAL = (
    Rule(
        f"!has(self.ipv4) || !isIP(self.ipv4) || !{list(NON_GLOBAL_IPV4)}.exists(block, cidr(block).containsIP(self.ipv4))",
        "reportedEndpoint.ipv4 must be a global address: an administrator may declare others in spec.endpoint",
        ".ipv4",
    ),
    Rule(
        "!has(self.ipv6) || !isIP(self.ipv6) || (cidr('2000::/3').containsIP(self.ipv6)"
        " && !cidr('2001:db8::/32').containsIP(self.ipv6))",
        "reportedEndpoint.ipv6 must be a global address: an administrator may declare others in spec.endpoint",
        ".ipv6",
    ),
)

#: No node has more. What a node says of itself attracts machines: nonsense is refused.
_SANE = (
    Rule("!has(self.cpu) || self.cpu <= 65536", "capacity.cpu must be at most 65536"),
    *(
        Rule(
            f"!has(self.{what}) || quantity(string(self.{what})).compareTo(quantity('1Ei')) <= 0",
            f"capacity.{what} must be at most 1Ei",
        )
        for what in ("memory", "storage")
    ),
)


class GridNodeStatus(Status):
    AGENTS = frozenset(
        {
            "capacity", "prekeys", "sealing_key", "features", "agent_version", "reported_endpoint", "nameservers", "quarantine",
        }
    )  # fmt: skip
    SUMS = frozenset({"allocated", "free", "usage"})

    # by the agent
    capacity: Resources = Field(default_factory=Resources, json_schema_extra=rules(*_SANE))
    """What the node has to offer: all of it less what it needs itself."""

    prekeys: Annotated[tuple[PublicKey, ...], only(word)] = Field(default=(), json_schema_extra=at_most(16))
    """Fresh WireGuard public keys, one for each network to come; the agent refills what was taken."""

    sealing_key: PublicKey | None = None
    """Public key (X25519, base64) that secrets for this node are sealed with (libsodium sealed boxes)."""

    features: NodeFeatures = Field(default_factory=NodeFeatures)
    """What the agent found the node can do."""

    agent_version: Version | None = None
    """Version of the agent that reports."""

    reported_endpoint: Endpoint | None = Field(default=None, json_schema_extra=rules(*_GLOBAL))
    """Truly global addresses that the agent found on the node. They count where ``spec.endpoint`` has none."""

    nameservers: Annotated[tuple[Ip, ...], only(word)] = Field(
        default=(),
        json_schema_extra=at_most(8, Rule("self.all(a, isIP(a))", "nameservers must be IP addresses")),
    )
    """The node's DNS servers, which its machines use as well."""

    quarantine: tuple[Quarantined, ...] = Field(default=(), json_schema_extra=at_most(1024))
    """What is on the node and belongs to nobody any more. It stays as it is and counts as held, until its owner is back or an
    administrator decides in ``spec.quarantine``."""

    # by the controller
    node_namespace: Label | None = None
    """Namespace of the node's NodeWorkloads and of its agent's account, like zos-node-n1."""

    holds: tuple[NodeHold, ...] = Field(default=(), json_schema_extra=at_most(16384))
    """What each machine, disk and network holds of the node."""

    allocated: Resources = Field(default_factory=Resources)
    """The sum of what is held."""

    free: Resources = Field(default_factory=Resources)
    """``capacity``, as far as it is offered (``spec.offer``, ``spec.cpuOvercommitPercent``), less ``allocated``."""

    usage: Usage | None = None
    """``allocated`` over what is offered, as ``kubectl get`` shows it. Absent: the agent has not said yet what the node has."""

    @cached_property
    def by_holder(self) -> dict[str, NodeHold]:
        """The holds by their holder's uid."""
        return {hold.uid: hold for hold in self.holds}


class GridNode(Object):
    """A machine of the grid that runs workloads. An administrator applies it; its agent reports on it."""

    KIND: ClassVar[str] = "GridNode"
    PLURAL: ClassVar[str] = "gridnodes"
    NAMESPACED: ClassVar[bool] = False
    SHORT_NAMES = ("gn",)
    POOL = "holds"
    COLUMNS = (
        Column("Farm", ".spec.farm"),
        Column("Endpoint", ".spec.endpoint.ipv4"),
        READY,
        REASON,
        Column("CPU", ".status.usage.cpu"),
        Column("Memory", ".status.usage.memory"),
        Column("Storage", ".status.usage.storage"),
        Column("Accelerator", ".status.features.accelerator", priority=1),
        Column("WireGuard", ".status.features.wireguard", priority=1),
        Column("Agent", ".status.agentVersion", priority=1),
        AGE,
    )

    spec: GridNodeSpec = Field(default_factory=GridNodeSpec)
    status: GridNodeStatus = Field(default_factory=GridNodeStatus)

    @property
    def knows_words(self) -> bool:
        """Whether its agent keeps what is deleted without the word to erase."""
        return self.is_of(_WORDS)

    @property
    def knows_envelopes(self) -> bool:
        """Whether its agent reads NodeWorkloads as they are written today (`zos.api.olderform`)."""
        return self.is_of(ENVELOPES)

    def is_of(self, release: tuple[int, int]) -> bool:
        """Whether its agent is of that release or a later one. One that has not reported yet is new."""
        version = self.status.agent_version
        return version is None or _numbers(version) >= release

    @cached_property
    def left(self) -> tuple[Quarantined, ...]:
        """What is in quarantine there, as agents of today tell it: those of 0.2 tell a guest's own memory alone."""
        entries = self.status.quarantine
        if self.is_of(ENVELOPES):
            return entries
        return tuple(
            entry.model_copy(update={"memory": entry.memory + GUEST_OVERHEAD}) if entry.memory else entry for entry in entries
        )

    @property
    def abandoned(self) -> bool:
        """Whether an administrator has given up what is on the node."""
        return self.deleting and self.metadata.annotations.get(ABANDON) == self.uid

    @cached_property
    def offered(self) -> Resources:
        """What may be held of the node: what its agent says it has, but no more than its administrator offers; of virtual CPUs
        as many times that as he allows."""
        told, most = self.status.capacity, self.spec.offer
        cpu = told.cpu if most.cpu is None else min(told.cpu, most.cpu)
        return Resources(
            cpu=min(MOST_COUNTED, cpu * self.spec.cpu_overcommit_percent // 100),
            memory=told.memory if most.memory is None else min(told.memory, most.memory),
            storage=told.storage if most.storage is None else min(told.storage, most.storage),
        )

    def allocated(self, holds: Collection[NodeHold]) -> Resources:
        """What ``holds`` take, and what is in quarantine and none of them is for; no more than can be written down, or what an
        agent says it has left would keep the rest of the status from being written."""
        taken: list[NodeHold | Resources] = [*holds]
        known = {hold.uid for hold in holds}
        taken += [left.held for left in self.left if left.uid not in known]
        return Resources(
            cpu=min(MOST_COUNTED, sum(one.cpu for one in taken)),
            memory=min(MOST, sum(one.memory for one in taken)),
            storage=min(MOST, sum(one.storage for one in taken)),
        )

    @cached_property
    def unheld(self) -> Resources:
        """What nobody holds of what is offered; ``status.free`` says the same a moment later."""
        held = self.allocated(self.status.holds)
        return Resources(
            cpu=self.offered.cpu - held.cpu,
            memory=self.offered.memory - held.memory,
            storage=self.offered.storage - held.storage,
        )

    @property
    def endpoint(self) -> Endpoint:
        """Where others reach it: what is declared, else what the agent found."""
        declared = self.spec.endpoint
        if declared is not None and (declared.ipv4 or declared.ipv6):
            return declared
        return self.status.reported_endpoint or Endpoint()


@lru_cache(maxsize=64)
def _numbers(version: str) -> tuple[int, ...]:
    """``0.2.1+x`` → (0, 2): as far as it goes by numbers."""
    return tuple(int(part) for part in takewhile(str.isdecimal, version.split(".")))
