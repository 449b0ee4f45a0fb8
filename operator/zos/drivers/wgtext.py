"""WireGuard in text: the configuration file of wg(8), the userspace API, and the launcher of a userspace interface.

Formats: wg(8) CONFIGURATION FILE FORMAT; https://www.wireguard.com/xplatform/.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

from zos.plan.items import WireGuard, WireGuardPeer

#: Routes into WireGuard interfaces; not those of the link driver.
ROUTE_PROTOCOL = 123


@dataclass(frozen=True)
class Live:
    """A running interface. ``endpoints`` are where each peer was heard from or is called at, by public key; the peers
    themselves carry none. ``met`` are those that a session was ever made with, ``heard`` those that anything came from."""

    public_key: str
    listen_port: int
    peers: tuple[WireGuardPeer, ...]
    endpoints: Mapping[str, str]
    met: frozenset[str]
    heard: frozenset[str]


def configuration(item: WireGuard, private_key: str, learned: Mapping[str, str]) -> str:
    """For ``wg setconf`` and ``wg syncconf``. ``learned`` endpoints stand in for peers that have none of their own."""
    lines = ["[Interface]", f"PrivateKey = {_clamped(private_key)}", f"ListenPort = {item.listen_port}"]
    for peer in item.peers:
        lines += ["", "[Peer]", f"PublicKey = {peer.public_key}"]
        if peer.allowed_ips:
            lines.append(f"AllowedIPs = {', '.join(peer.allowed_ips)}")
        if endpoint := peer.endpoint or learned.get(peer.public_key):
            lines.append(f"Endpoint = {endpoint}")
        lines.append(f"PersistentKeepalive = {peer.keepalive}")
    return "\n".join(lines) + "\n"


def with_endpoints(conf: str, learned: Mapping[str, str]) -> str:
    """The configuration with learned endpoints put in, or exchanged, for the peers that have one."""
    sections = conf.split("[Peer]\n")
    result = sections[:1]
    for section in sections[1:]:
        key = section.partition("PublicKey = ")[2].partition("\n")[0]
        if key in learned:
            kept = [line for line in section.rstrip("\n").split("\n") if not line.startswith("Endpoint = ")]
            blank = "\n\n" if section.endswith("\n\n") else "\n"
            section = "\n".join([*kept, f"Endpoint = {learned[key]}"]) + blank
        result.append(section)
    return "[Peer]\n".join(result)


def _clamped(private_key: str) -> str:
    """The key as X25519 uses it (RFC 7748, section 5). The kernel keeps it so, and ends every session when it is told another,
    were it the same key with bits that don't count."""
    key = bytearray(base64.b64decode(private_key))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return base64.b64encode(key).decode()


def setup(item: WireGuard) -> str:
    """For ``ip -batch`` in the router's namespace, once the interface is there."""
    lines = [f"address replace {address} dev {item.name}" for address in item.addresses]
    lines.append(f"link set {item.name} mtu {item.mtu} up")
    lines += [f"route replace {route} dev {item.name} proto {ROUTE_PROTOCOL}" for route in item.routes]
    return "\n".join(lines) + "\n"


def callable_peers(item: WireGuard, learned: Mapping[str, str]) -> tuple[WireGuardPeer, ...]:
    """Peers that can be called, with the endpoint to call them at."""
    return tuple(
        replace(peer, endpoint=endpoint) for peer in item.peers if (endpoint := peer.endpoint or learned.get(peer.public_key))
    )


def call(peer: WireGuardPeer, *, again: bool) -> list[str]:
    """Arguments for ``wg set <interface>`` that make it call a peer at once. ``again``: forget that it was called already;
    WireGuard itself repeats an unanswered call after five seconds only, and every change of the protocol's mind costs that."""
    start = ["peer", peer.public_key, "remove"] if again else []
    return [
        *start, "peer", peer.public_key, "endpoint", peer.endpoint or "", "persistent-keepalive", "1",
        "allowed-ips", ",".join(peer.allowed_ips),
    ]  # fmt: skip


def hang_up(peer: WireGuardPeer) -> list[str]:
    """Arguments for ``wg set <interface>`` that end what `call` began, session untouched."""
    return ["peer", peer.public_key, "persistent-keepalive", str(peer.keepalive)]


#: Arguments of the launcher, after its name: interface, namespace, directory of its files, wireguard-go.
#: It becomes wireguard-go itself, so that the supervisor watches the right process; what needs the interface to exist is done
#: by a child meanwhile. Who calls first has a session at once: a keepalive of one second, for a moment, calls every peer that
#: can be called, instead of waiting until somebody has something to send.
#:
#: It has precedence over guests, as the kernel's own WireGuard has: else busy guests slow everybody's traffic. A kernel that
#: shares processors out by session first (autogroup) heeds no other niceness than the session's.
LAUNCHER = """
set -eu
name=$1 netns=$2 files=$3 program=$4
rm -f "$files/up" "/run/wireguard/$name.sock"
ip link delete "$name" 2>/dev/null || true
ip -n "$netns" link delete "$name" 2>/dev/null || true
ip netns exec "$netns" true
(
  trap 'kill $$' EXIT
  n=0
  until [ -S "/run/wireguard/$name.sock" ]; do n=$((n + 1)); [ $n -lt 250 ]; sleep 0.02; done
  wg setconf "$name" "$files/conf"
  ip link set "$name" netns "$netns"
  ip -n "$netns" -batch "$files/setup"
  trap - EXIT
  : > "$files/up"
  if [ -s "$files/calls" ]; then
    wg set "$name" $(sed 's/^/peer /; s/ [0-9]*$/ persistent-keepalive 1/' "$files/calls")
    sleep 1
    wg set "$name" $(sed 's/^/peer /; s/ \\([0-9]*\\)$/ persistent-keepalive \\1/' "$files/calls")
  fi
) &
export WG_PROCESS_FOREGROUND=1
echo -10 2>/dev/null > /proc/self/autogroup || true
exec nice -n -10 "$program" -f "$name"
"""


class _Shown(NamedTuple):
    """A peer, as WireGuard shows it. ``endpoint`` is empty where it knows none."""

    peer: WireGuardPeer
    endpoint: str
    met: bool
    heard: bool


def _live(public_key: str, listen_port: int, shown: Sequence[_Shown]) -> Live:
    return Live(
        public_key,
        listen_port,
        tuple(sorted((each.peer for each in shown), key=lambda peer: peer.public_key)),
        {each.peer.public_key: each.endpoint for each in shown if each.endpoint},
        frozenset(each.peer.public_key for each in shown if each.met),
        frozenset(each.peer.public_key for each in shown if each.heard),
    )


def parse_uapi(text: str) -> Live:
    """The answer to ``get=1``. Raises ValueError and KeyError for anything else."""
    interface: dict[str, str] = {}
    sections: list[tuple[dict[str, str], list[str]]] = []
    for line in text.splitlines():
        field, _, value = line.partition("=")
        if field == "public_key":
            sections.append(({field: value}, []))
        elif field == "allowed_ip" and sections:
            sections[-1][1].append(value)
        elif field == "errno" and value != "0":
            raise ValueError(f"errno {value}")
        else:
            (sections[-1][0] if sections else interface)[field] = value
    public = _public_of(bytes.fromhex(interface["private_key"])) if "private_key" in interface else ""
    return _live(public, int(interface.get("listen_port", "0")), [_uapi_peer(*section) for section in sections])


def _uapi_peer(fields: dict[str, str], allowed: list[str]) -> _Shown:
    keepalive = int(fields.get("persistent_keepalive_interval", "0"))
    peer = WireGuardPeer(public_key=_base64(fields["public_key"]), allowed_ips=tuple(sorted(allowed)), keepalive=keepalive)
    met, heard = (fields.get(name, "0") != "0" for name in ("last_handshake_time_sec", "rx_bytes"))
    return _Shown(peer, fields.get("endpoint", ""), met, heard)


def parse_dump(text: str) -> Live:
    """The output of ``wg show <interface> dump``. Raises ValueError for anything else."""
    first, *rest = text.splitlines()
    _, public, port, _ = first.split("\t")
    return _live(public, int(port), [_dump_peer(line) for line in rest])


def _dump_peer(line: str) -> _Shown:
    key, _, endpoint, allowed, handshake, received, _, keepalive = line.split("\t")
    ips = () if allowed == "(none)" else tuple(sorted(allowed.split(",")))
    peer = WireGuardPeer(public_key=key, allowed_ips=ips, keepalive=int(keepalive) if keepalive != "off" else 0)
    return _Shown(peer, endpoint if endpoint != "(none)" else "", handshake != "0", received != "0")


def same_peers(live: tuple[WireGuardPeer, ...], wanted: tuple[WireGuardPeer, ...], called: Set[str]) -> bool:
    """But for endpoints, which move with their peers. Those that are ``called`` may have a keepalive of one second."""
    found = {peer.public_key: peer for peer in live}
    return found.keys() == {peer.public_key for peer in wanted} and all(
        ((there := found[peer.public_key]).keepalive == peer.keepalive or (there.keepalive == 1 and peer.public_key in called))
        and sorted(there.allowed_ips) == sorted(peer.allowed_ips)
        for peer in wanted
    )


def _base64(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()


def _public_of(private: bytes) -> str:
    from nacl.public import PrivateKey

    return base64.b64encode(bytes(PrivateKey(private).public_key)).decode()
