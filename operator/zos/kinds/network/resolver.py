"""The resolver of a network on a node: dnsmasq in the network's router, at the machines' gateway address (ADR 0023).

It knows the names of the network and passes everything else on to the node's name servers. Names below ``zos``, private
addresses and single words are never asked for outside: an answer from there could only be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_address

from zos.api import names
from zos.api.meta import Condition, Reason
from zos.api.network import NAMES_DOWN, TOP_DOMAIN, wireguard_range
from zos.api.text import is_name
from zos.kinds.network.part import NamesOnNode, NetworkOnNode
from zos.plan.facts import Facts, ServiceFact
from zos.plan.items import Item, Readiness, Service, ServiceFile, ServiceLimits, Sysctl
from zos.plan.lowered import Problem
from zos.plan.standing import Standing, standing

LIMITS = ServiceLimits(memory=32 << 20, scratch=1 << 20, descriptors=512, processes=32)
#: Answers that are remembered, and questions that are asked outside at a time: what one network may cost its node.
_CACHE, _FORWARDED = 1000, 150
#: Questions a second that a network's machines may ask, all together, and at once.
_RATE = "1000/second burst 2000 packets"
#: Seconds for which others may remember an address: who comes again has another one soon.
_TTL = 5
PORT = 53
_LOW = "net/ipv4/ip_unprivileged_port_start"


def items(network: NetworkOnNode, uid: str, owner: str, needs: tuple[str, ...], facts: Facts) -> tuple[Item, ...]:
    """None of them where nobody asks. ``needs`` are the keys of what has the gateway's address."""
    if network.names is None:
        return ()
    router, address = names.router(uid), gateway(network)
    # Whose port this is, is the router's affair: nothing else runs in there. The program needs no right for it then.
    low = Sysctl(owner=owner, needs=needs, netns=router, path=_LOW, value=str(PORT))
    files = (
        ServiceFile(path="hosts", content=_hosts(network.names)),
        ServiceFile(path="servers", content=_servers(facts.nameservers)),
    )
    program = Service(
        owner=owner,
        needs=(*needs, low.key),
        name=service(uid),
        argv=(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-"),
            *("--bind-interfaces", f"--listen-address={address}", "--no-hosts", "--no-resolv", "--no-poll"),
            *("--addn-hosts={files}/hosts", "--servers-file={files}/servers"),
            *("--domain-needed", "--bogus-priv", f"--local=/{TOP_DOMAIN}/", "--local=/64.100.in-addr.arpa/"),
            *(f"--local-ttl={_TTL}", f"--cache-size={_CACHE}", f"--dns-forward-max={_FORWARDED}"),
        ),
        files=files,
        netns=router,
        limits=LIMITS,
        change="reload",
        ready=Readiness(by="port", at=f"{address}:{PORT}"),
    )
    return low, program


def service(uid: str) -> str:
    return f"names-{names.ident(uid)}"


def gateway(network: NetworkOnNode) -> str:
    return str(IPv4Network(network.subnet)[1])


def rules(network: NetworkOnNode, wireguard: str) -> str:
    """Of the router's input: who may ask, and how much. The bound stands before what is let in as known already."""
    if network.names is None:
        return ""
    asked = f"ip daddr {gateway(network)} meta l4proto {{ tcp, udp }} th dport {PORT}"
    sources = f"{{ {network.ip_range}, {wireguard_range(network.ip_range)} }}"
    return f"""  iifname != "lo" {asked} limit rate over {_RATE} drop
  iifname "lan" ip saddr {network.subnet} {asked} accept
  iifname "{wireguard}" ip saddr {sources} {asked} accept
"""


def of(lowered: Iterable[Item]) -> tuple[Item, ...]:
    """Those of a network's items that are its resolver's."""
    return tuple(item for item in lowered if isinstance(item, Service) or (isinstance(item, Sysctl) and item.path == _LOW))


def stands(own: Iterable[Item], failed: Problem | None, facts: Facts) -> Standing:
    """``own`` are its items, ``failed``: why they are not in place. One that is just starting is no news. Raises Unknown where
    nobody could look."""
    program = next((item for item in own if isinstance(item, Service)), None)
    if program is None:
        return Standing()
    fact = facts.get(ServiceFact, program.name)
    found = standing(program, fact, facts.now)
    problem = failed or found.problem
    if problem is not None and problem.reason is Reason.PROGRESSING and (fact is None or not fact.overdue):
        problem = None
    return Standing(problem, found.wake_at)


def down(problem: Problem) -> Condition:
    message = f"machines can't resolve names on this node: {problem.message}"
    return Condition(type=NAMES_DOWN, status="True", reason=problem.reason, message=message)


def _hosts(known: NamesOnNode) -> str:
    """As hosts(5); the first name is that which an address is said to have. A word alone is for who has no dot in it, or a
    machine's name could take the place of one on the Internet."""
    lines = []
    for one in known.names:
        if is_name(one.name) and is_name(known.domain):
            alone = "" if "." in one.name or one.name == "localhost" else f" {one.name}"
            lines.append(f"{ip_address(one.ip)}\t{one.name}.{known.domain}{alone}\n")
    return "".join(lines)


def _servers(nameservers: tuple[str, ...]) -> str:
    """A router has no IPv6 that leads anywhere."""
    return "".join(f"server={server}\n" for server in nameservers if ":" not in server)
