"""The one naming function for kernel objects: short, collision-free names from identities of any length."""

from __future__ import annotations

import base64
import hashlib
import re

from zos.api.meta import GROUP

#: The controller's ServiceAccount, role and Lease, and their namespace.
CONTROLLER = "zos-controller"
CONTROLLER_NAMESPACE = "zos-system"
#: Name of the agent's ServiceAccount and Lease in its node's namespace.
AGENT = "agent"
#: What an agent may do in its node's namespace: a ClusterRole that is bound in each.
AGENT_ROLE = "zos-agent"
#: ServiceAccount of the agents' pods, in the controller's namespace: it may ask for the token of its node's agent, and no more.
NODE_ACCOUNT = "zos-node"
#: That it may: a ClusterRole that is bound in each node's namespace. What begins with `NODE_PREFIX` is a node's own.
TOKEN_ROLE = "zos-agent-token"
#: Seconds that such a token lasts, at most.
TOKEN_SECONDS = 3600
#: ServiceAccount of the pods that start what outlives them. It has no rights.
RUNTIME_ACCOUNT = "zos-runtime"
#: What every node's namespace begins with, those with derived names too.
NODE_PREFIX = "zos-node-"
#: On what the controller makes for a node. It deletes no namespace and no role without it.
NODE_NAMESPACE = f"{GROUP}/node-namespace"
#: Annotation of a node's namespace: the node's name, whatever the namespace is called.
NODE = f"{GROUP}/node"
#: The label with the uid of the user's object that something was made for.
OWNER_UID = f"{GROUP}/owner-uid"
#: Who made something, as Kubernetes' recommended labels have it.
MANAGED_BY = "app.kubernetes.io/managed-by"
#: Label of a Kubernetes Node that is to be a node of the grid. NodeRestriction keeps kubelets from setting it.
MEMBER = f"{GROUP}.node-restriction.kubernetes.io/node"
#: Annotation of such a Node: where others reach it, like ``198.51.100.7`` or ``198.51.100.7,2001:db8::7``.
ENDPOINT = f"{GROUP}/endpoint"


def ident(uid: str, length: int = 10) -> str:
    """Lower-case base32 of a SHA-256: 50 bits by default, so 15 bytes hold a prefix and this."""
    return base64.b32encode(hashlib.sha256(uid.encode()).digest()).decode().lower()[:length]


def readable(prefix: str, identity: str, limit: int = 63) -> str:
    """A DNS label that people recognise and that never collides: sanitised prefix, dash, hash of the whole identity."""
    label = re.sub(r"[^a-z0-9]+", "-", prefix.lower()).strip("-") or "x"
    return f"{label[: limit - 11].strip('-')}-{ident(identity)}"


def node_namespace(node: str) -> str:
    """``zos-node-<node>``; where the node's name has dots or is too long for a label, ``zos-node--<derived>``. No name begins
    with a dash, so that no node's plain namespace is another's derived one."""
    plain = f"{NODE_PREFIX}{node}"
    if len(plain) <= 63 and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", node):
        return plain
    prefix = f"{NODE_PREFIX}-"
    return prefix + readable(node, node, 63 - len(prefix))


def hostname(machine: str) -> str:
    """A machine's name as its own: Linux takes 64 bytes (sethostname(2)), DNS 63 a label. A longer one is shortened."""
    return machine if len(machine) <= 63 else readable(machine, machine)


def domain_name(network: str) -> str:
    """Below which a network's residents have their names."""
    return f"{hostname(network)}.zos"


def mac(uid: str) -> str:
    """A stable, unicast, locally administered MAC address for an identity."""
    digest = bytearray(hashlib.sha256(uid.encode()).digest()[:6])
    digest[0] = (digest[0] & 0xFC) | 0x02
    return ":".join(f"{byte:02x}" for byte in digest)


def flist(digest: str) -> str:
    """Service that mounts the flist with this digest."""
    return f"flist-{ident(digest, 16)}"


def router(network_uid: str) -> str:
    """Network namespace of a network's router on a node."""
    return f"zos-{ident(network_uid)}"


def bridge(network_uid: str) -> str:
    """Bridge of a network in the node's namespace, as older agents made it; now it is in the router, called ``lan``."""
    return f"b-{ident(network_uid)}"


def way_in(bridge: str) -> str:
    """Node side of the pair between such a bridge and the router."""
    return f"l-{bridge.removeprefix('b-')}"


def uplink(network_uid: str) -> str:
    """Node side of the pair between the node and a network's router (there called ``wan``)."""
    return f"u-{ident(network_uid)}"


def wireguard(network_uid: str) -> str:
    return f"w-{ident(network_uid)}"


def kept(what: str, uid: str) -> str:
    """What keeps data of an object, among disks or volumes: ``mount-<uid>``. Raises ValueError for a ``what`` of more than one
    word: its first ``-`` is where the uid begins."""
    if not re.fullmatch("[a-z0-9]+", what):
        raise ValueError(f"{what!r} is not one word of lower-case letters and digits")
    return f"{what}-{uid}"


def segment(interface: str) -> str:
    """Bridge of ours that a NIC of the node's is a port of, so that machines are on its segment."""
    return f"p-{ident(interface)}"


def tap(machine_uid: str, index: int = 0) -> str:
    return f"t-{ident(machine_uid)}-{index}"


def wire(machine_uid: str, index: int = 0) -> str:
    """Node side of the pair between a tap and its network's router; the port there has the tap's name."""
    return f"v-{ident(machine_uid)}-{index}"


def guard(tap: str) -> str:
    """Table of the rules for what comes out of a tap."""
    return f"zos-{tap.removeprefix('t-')}"


#: What the interface of a resident is called in its own namespace.
OWN_INTERFACE = "eth0"


def resident(uid: str) -> str:
    """Network namespace of a program that has an address in a network. Its port in the network's router is a `tap`."""
    return f"zos-{ident(uid)}"


def domain(machine_uid: str) -> str:
    """A machine's guest, for libvirt."""
    return f"zos-{ident(machine_uid)}"


def table(uid: str) -> str:
    return f"zos-{ident(uid)}"
