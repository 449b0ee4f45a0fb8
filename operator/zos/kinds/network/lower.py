"""What a network is on one node: a router namespace with a bridge for machines, WireGuard, and what may pass."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from zos.api import names
from zos.api.meta import Condition, Reason
from zos.api.network import EGRESS_BLOCKED, wireguard_range
from zos.kinds.kind import Here, Report
from zos.kinds.network import egress, resolver
from zos.kinds.network.part import NetworkOnNode, NetworkState
from zos.plan import wayout
from zos.plan.facts import Facts, LostKeyFact, ShutFact, SilentFact
from zos.plan.items import Bridge, Firewall, Item, Netns, Route, Sysctl, Veth, WireGuard, WireGuardPeer
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import ready, waiting

#: As many as admission takes.
_MOST_SILENT = 1024
#: Whether bridged packets pass the IP hooks of their namespace (br_netfilter; kernel, ip-sysctl.rst).
_ON_BRIDGES = ("bridge-nf-call-arptables", "bridge-nf-call-ip6tables", "bridge-nf-call-iptables")


def lower(here: Here[NetworkOnNode]) -> Lowered:
    network, facts = here.part, here.facts
    uid, owner = here.owner.uid, here.name
    router, uplink = names.router(uid), names.uplink(uid)
    near, far = _uplink_addresses(network.listen_port)
    netns = Netns(owner=owner, name=router)
    inside = Firewall(
        owner=owner,
        needs=(netns.key,),
        netns=router,
        name=names.table(uid),
        body=_router_rules(network, names.wireguard(uid), facts),
    )
    forwarding = Sysctl(owner=owner, path="net/ipv4/ip_forward", value="1")
    # What machines say to each other is no affair of the node's firewall, whatever the kernel does on bridges elsewhere.
    bridged = tuple(
        Sysctl(owner=owner, needs=(netns.key,), netns=router, path=f"net/bridge/{word}", value="0", optional=True)
        for word in _ON_BRIDGES
    )
    lan = Bridge(
        owner=owner,
        needs=(netns.key,),
        netns=router,
        name="lan",
        mtu=network.mtu,
        addresses=(f"{IPv4Network(network.subnet)[1]}/24",),
        mac=names.mac(uid),
    )
    wan = Veth(
        owner=owner,
        needs=(netns.key, inside.key),  # no way out before what is closed is closed
        name=uplink,
        peer_netns=router,
        peer_name="wan",
        mtu=1500,
        addresses=(f"{near}/31",),
        peer_addresses=(f"{far}/31",),
    )
    default = Route(owner=owner, needs=(wan.key,), netns=router, destination="0.0.0.0/0", device="wan", gateway=str(near))
    outside = Firewall(owner=owner, name=names.table(uid), body=_node_rules(uplink, str(far), facts))
    mesh = WireGuard(
        owner=owner,
        needs=(netns.key, inside.key),
        netns=router,
        name=names.wireguard(uid),
        public_key=network.public_key,
        listen_port=network.listen_port,
        mtu=network.mtu,
        # Alone in its network, or the kernel would keep that one's last address for broadcasts: a member's own.
        addresses=(f"{network.wireguard_address}/32",),
        routes=(network.ip_range, str(wireguard_range(network.ip_range))),
        peers=tuple(
            WireGuardPeer(
                public_key=peer.public_key,
                endpoint=peer.endpoint,
                allowed_ips=tuple(sorted(peer.allowed_ips)),
                keepalive=peer.keepalive or 0,
            )
            for peer in sorted(network.peers, key=lambda peer: peer.public_key)
        ),
    )
    items: tuple[Item, ...] = (netns, forwarding, *bridged, lan, wan, default, inside, outside, mesh)
    return Lowered((*items, *resolver.items(network, uid, owner, (netns.key, inside.key, lan.key), facts)))


def report(here: Here[NetworkOnNode], lowered: Lowered, outcome: Outcome) -> Report[NetworkState]:
    network, facts = here.part, here.facts
    if facts.get(LostKeyFact, network.public_key) is not None:
        message = f"the private half of {network.public_key} is not on this node any more: the controller takes another key"
        return Report(waiting(Reason.PROGRESSING, message), NetworkState(lost_key=network.public_key))
    names_of = resolver.of(lowered.items)
    ways = [item for item in lowered.items if item not in names_of]  # without names it is a network all the same
    if (problem := lowered.problem or outcome.problem(ways)) is not None:
        return Report(waiting(problem.reason, problem.message))
    shut = facts.get(ShutFact, names.router(here.owner.uid))
    silent = facts.get(SilentFact, names.wireguard(here.owner.uid))
    state = NetworkState(done=network.mark, silent=tuple(sorted(silent.peers)[:_MOST_SILENT]) if silent is not None else ())
    stands = resolver.stands(names_of, outcome.problem(names_of), facts)
    conditions = (
        *((_shut(shut.by),) if shut is not None else ()),
        *((resolver.down(stands.problem),) if stands.problem is not None else ()),
    )
    return Report(ready(), state, conditions, wake_at=stands.wake_at)


def _shut(by: str) -> Condition:
    message = (
        f"the node's firewall lets nothing of the network's machines through to the Internet: {by}; let what comes from u-* "
        "pass there, and what goes to u-* where it answers: with iptables, -I FORWARD -i u-+ -j ACCEPT and "
        "-I FORWARD -o u-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
    return Condition(type=EGRESS_BLOCKED, status="True", reason=Reason.NODE_FIREWALL, message=message)


def _uplink_addresses(port: int) -> tuple[IPv4Address, IPv4Address]:
    near = egress.UPLINKS + 2 * port
    return near, near + 1


def _router_rules(network: NetworkOnNode, wireguard: str, facts: Facts) -> str:
    """Inside is free, out is masqueraded and not to everywhere, in from outside is only what was asked for. Where out leads not
    is looked up for each packet: what is closed is closed for those who are connected, too."""
    closed = "\n".join(f"  {rule}" for rule in egress.rules(network.egress, facts))
    return f"""
chain egress {{
{closed}
}}
chain input {{
  type filter hook input priority filter; policy drop;
  iifname "lo" accept
{resolver.rules(network, wireguard)}  ct state established,related accept
  iifname {{ "lan", "{wireguard}" }} icmp type {{ echo-request, destination-unreachable, time-exceeded }} accept
}}
chain forward {{
  type filter hook forward priority filter; policy drop;
  oifname "wan" jump egress
  tcp flags syn / syn,rst tcp option maxseg size set rt mtu
  ct state established,related accept
  iifname "lan" ip saddr != {network.subnet} drop
  iifname {{ "lan", "{wireguard}" }} oifname {{ "lan", "{wireguard}" }} accept
  iifname "lan" oifname "wan" accept
}}
chain output {{
  type filter hook output priority filter; policy accept;
  oifname "wan" jump egress
}}
chain postrouting {{
  type nat hook postrouting priority srcnat; policy accept;
  oifname "wan" masquerade
}}"""


def _node_rules(uplink: str, router: str, facts: Facts) -> str:
    """On the node: out is masqueraded; nothing new goes in, to another network or to the node itself, but for its own name
    server where that is the node's."""
    asked = "".join(f'  iifname "{uplink}" {rule}\n' for rule in egress.names("accept", facts))
    return f"""
chain input {{
  type filter hook input priority filter - 5; policy accept;
  iifname "{uplink}" ct state established,related accept
{asked}  iifname "{uplink}" drop
}}
chain forward {{
  type filter hook forward priority filter - 5; policy accept;
  iifname "{uplink}" oifname "u-*" drop
  oifname "{uplink}" ct state established,related accept
  oifname "{uplink}" drop
}}
chain postrouting {{
  type nat hook postrouting priority srcnat; policy accept;
  ip saddr {router} oifname != "u-*" masquerade
}}{wayout.rules(uplink, router)}"""
