"""The smallest and the greatest that each number, quantity, range, count and name of a spec may be, and what is just beyond.

What may be is taken by the API server (`tests/api/test_admission.py`) and decided upon (`tests/unit/test_limits.py`); what is
beyond is refused with words that name the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NETWORK: dict[str, Any] = {"ipRange": "10.20.0.0/16"}
MACHINE: dict[str, Any] = {"image": "oci://r/i:1", "network": {"name": "net"}}
FARM: dict[str, Any] = {"publicIPv4": [{"range": "8.8.0.0/28", "gateway": "8.8.0.1"}]}

LABEL = "a" + "-" * 61 + "b"
NAME = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
"""The longest of labels and of names, in which nothing is but what such a name may have."""

_KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
#: What Kubernetes calls a quantity, written in each way.
_ODD = ("16777216", 16777216, "16Mi", "16384Ki", "16777.216k", "16777216000m", "0.015625Gi")


@dataclass(frozen=True)
class Limit:
    """Specs of a kind. ``beyond``: a spec, and what the refusal says."""

    kind: str
    what: str
    taken: tuple[dict[str, Any], ...]
    beyond: tuple[tuple[dict[str, Any], str], ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.what}"


def _nodes(count: int) -> list[dict[str, str]]:
    return [{"name": f"n{number}"} for number in range(count)]


def _laptops(count: int) -> list[dict[str, str]]:
    return [{"name": f"l{number}"} for number in range(count)]


def _mount(size: object) -> dict[str, Any]:
    return {"size": size}


def _farm(range: str, gateway: str, **more: Any) -> dict[str, Any]:
    return {"publicIPv4": [{"range": range, "gateway": gateway, **more}]}


LIMITS = (
    Limit(
        "ZMount",
        "size",
        (
            *map(_mount, _ODD),
            _mount("1Ei"),
            _mount("7Ei"),
            _mount("8Ei"),
            _mount("9223372036854775807"),
            _mount("9" * 19 + "Ei"),
        ),
        (
            (_mount("0"), "size must be at least 16Mi"),
            (_mount(1), "size must be at least 16Mi"),
            (_mount("1m"), "size must be at least 16Mi"),
            (_mount("0.5"), "size must be at least 16Mi"),
            (_mount("1Ki"), "size must be at least 16Mi"),
            (_mount("16777215"), "size must be at least 16Mi"),
            (_mount("-1"), "spec.size"),
            (_mount("1e3"), "spec.size"),
            (_mount("1e30"), "spec.size"),
            (_mount("1" * 20), "spec.size"),
            (_mount(""), "spec.size"),
            (_mount("Gi"), "spec.size"),
            (_mount("16Mi "), "spec.size"),
            (_mount("+16Mi"), "spec.size"),
        ),
    ),
    Limit(
        "ZMount",
        "nodeName",
        ({"size": "1Gi", "nodeName": "a"}, {"size": "1Gi", "nodeName": NAME}),
        (
            ({"size": "1Gi", "nodeName": NAME + "d"}, "spec.nodeName"),
            ({"size": "1Gi", "nodeName": ""}, "nodeName must be a name"),
        ),
    ),
    Limit(
        "ZMachine",
        "cpu",
        (MACHINE | {"cpu": 1}, MACHINE | {"cpu": 255, "rootSize": "2Gi"}),
        (
            (MACHINE | {"cpu": 0}, "cpu must be at least 1"),
            (MACHINE | {"cpu": 1025}, "spec.cpu"),
            (MACHINE | {"cpu": 1.5}, "spec.cpu"),
        ),
    ),
    Limit(
        "ZMachine",
        "memory",
        tuple(MACHINE | {"memory": memory} for memory in ("250Mi", 262144000, "262144k", "1Ei", "9223372036854775807")),
        (
            *((MACHINE | {"memory": memory}, "memory must be at least 250Mi") for memory in ("0", "1m", 262143999, "0.5")),
            *((MACHINE | {"memory": memory}, "spec.memory") for memory in ("-1", "1e9", "lots")),
        ),
    ),
    Limit(
        "ZMachine",
        "rootSize",
        (
            MACHINE | {"rootSize": "0"},
            MACHINE | {"rootSize": 0},
            MACHINE | {"rootSize": "500Mi"},
            MACHINE | {"rootSize": "8Ei"},
            MACHINE | {"cpu": 8, "memory": "1Gi", "rootSize": "2Gi"},
            MACHINE | {"cpu": 8, "memory": "1073741823", "rootSize": "500Mi"},
        ),
        (
            (MACHINE | {"rootSize": "1m"}, "rootSize must be 0 (the minimum) or"),
            (MACHINE | {"rootSize": 524287999}, "rootSize must be"),
            (MACHINE | {"cpu": 8, "memory": "1Gi", "rootSize": "2147483647"}, "rootSize must be"),
            (MACHINE | {"rootSize": "-1"}, "spec.rootSize"),
        ),
    ),
    Limit(
        "ZMachine",
        "names",
        (
            MACHINE | {"network": {"name": NAME}},
            MACHINE | {"nodeName": NAME},
            MACHINE | {"publicIP": NAME},
            MACHINE | {"disks": [{"name": NAME, "mountPath": "/" + "m" * 255}]},
            MACHINE | {"env": [{"name": "A" * 253, "valueFrom": {"secretKeyRef": {"name": NAME, "key": "k" * 253}}}]},
        ),
        (
            (MACHINE | {"network": {"name": NAME + "d"}}, "spec.network.name"),
            (MACHINE | {"nodeName": NAME + "d"}, "spec.nodeName"),
            (MACHINE | {"publicIP": NAME + "d"}, "spec.publicIP"),
            (MACHINE | {"disks": [{"name": NAME + "d", "mountPath": "/m"}]}, "name"),
            (MACHINE | {"env": [{"name": "A" * 254, "value": ""}]}, "spec.env[0].name"),
            (MACHINE | {"disks": [{"name": "d", "mountPath": "/" + "m" * 1024}]}, "mountPath"),
        ),
    ),
    Limit(
        "ZMachine",
        "counts",
        (
            MACHINE | {"disks": [{"name": f"d{number}", "mountPath": f"/d{number}"} for number in range(24)]},
            MACHINE | {"env": [{"name": f"V{number}", "value": "x"} for number in range(256)]},
            MACHINE | {"entrypoint": ["x"] * 256},
            MACHINE | {"sshAuthorizedKeys": ["ssh-ed25519 x"] * 64},
        ),
        (
            (MACHINE | {"disks": [{"name": f"d{number}", "mountPath": f"/d{number}"} for number in range(25)]}, "spec.disks"),
            (MACHINE | {"env": [{"name": f"V{number}", "value": "x"} for number in range(257)]}, "spec.env"),
            (MACHINE | {"entrypoint": ["x"] * 257}, "spec.entrypoint"),
            (MACHINE | {"sshAuthorizedKeys": ["x"] * 65}, "spec.sshAuthorizedKeys"),
        ),
    ),
    Limit(
        "Network",
        "ipRange",
        tuple({"ipRange": r} for r in ("10.0.0.0/8", "10.255.240.0/20", "172.16.0.0/12", "192.168.240.0/20")),
        (
            ({"ipRange": "10.0.0.0/7"}, "ipRange must be"),
            ({"ipRange": "10.0.0.0/21"}, "ipRange must be between a /8 and a /20"),
            ({"ipRange": "172.0.0.0/11"}, "ipRange must be private"),
            ({"ipRange": "192.168.255.0/20"}, "host bits must be zero"),
        ),
    ),
    Limit(
        "Network",
        "mtu",
        (NETWORK | {"mtu": 1280}, NETWORK | {"mtu": 8920}),
        ((NETWORK | {"mtu": 1279}, "spec.mtu"), (NETWORK | {"mtu": 8921}, "spec.mtu"), (NETWORK | {"mtu": "1420"}, "spec.mtu")),
    ),
    Limit(
        "Network",
        "counts",
        (
            NETWORK | {"nodes": _nodes(256)},
            NETWORK | {"access": _laptops(256)},
            {"ipRange": "10.20.0.0/20", "nodes": _nodes(256)},
        ),
        ((NETWORK | {"nodes": _nodes(257)}, "spec.nodes"), (NETWORK | {"access": _laptops(257)}, "spec.access")),
    ),
    Limit(
        "Network",
        "names",
        (
            NETWORK | {"nodes": [{"name": NAME, "subnet": "10.20.255.0/24"}], "relay": NAME},
            NETWORK | {"access": [{"name": LABEL, "node": "n1", "subnet": "10.20.0.0/24", "publicKey": _KEY}]},
        ),
        (
            (NETWORK | {"nodes": [{"name": NAME + "d"}]}, "spec.nodes[0].name"),
            (NETWORK | {"relay": NAME + "d"}, "spec.relay"),
            (NETWORK | {"access": [{"name": LABEL + "c"}]}, "spec.access[0].name"),
            (NETWORK | {"access": [{"name": "a.b"}]}, "spec.access[0].name"),
        ),
    ),
    Limit(
        "Farm",
        "publicIPv4",
        (
            _farm("8.8.0.0/16", "8.8.255.255"),
            _farm("8.8.8.8/32", "8.8.8.8"),
            _farm("8.8.8.8/31", "8.8.8.9"),
            _farm("8.8.8.8/30", "8.8.8.9", exclude=["8.8.8.10"]),
            {"publicIPv4": [{"range": f"8.8.{n}.0/24", "gateway": f"8.8.{n}.1"} for n in range(64)]},
        ),
        (
            (_farm("8.0.0.0/15", "8.0.0.1"), "publicIPv4[].range must be a /16 or smaller"),
            (_farm("8.8.8.8/33", "8.8.8.8"), "range must be"),
            (_farm("8.8.8.8/31", "8.8.8.10"), "gateway must be an address inside"),
            ({"publicIPv4": [{"range": f"8.8.{n}.0/24", "gateway": f"8.8.{n}.1"} for n in range(65)]}, "spec.publicIPv4"),
        ),
    ),
    Limit(
        "Contract",
        "publicIPv4",
        ({"farm": "lab", "publicIPv4": 1}, {"farm": NAME, "publicIPv4": 4096}),
        (
            ({"farm": "lab", "publicIPv4": 0}, "publicIPv4 must be between 1 and 4096"),
            ({"farm": NAME + "d", "publicIPv4": 1}, "spec.farm"),
            ({"farm": "lab", "publicIPv4": 4097}, "publicIPv4 must be between 1 and 4096"),
        ),
    ),
    Limit(
        "PublicIP",
        "contract",
        ({"contract": "c"}, {"contract": NAME}),
        (({"contract": NAME + "d"}, "spec.contract"), ({"contract": ""}, "contract")),
    ),
    Limit(
        "NameContract",
        "name",
        ({"name": "a"}, {"name": "A" * 63}, {"name": "_-" * 31}),
        (({"name": ""}, "spec.name"), ({"name": "a" * 64}, "spec.name")),
    ),
    Limit(
        "GridNode",
        "ports",
        tuple({"wireguardPorts": {"from": low, "to": high}} for low, high in ((1024, 1024), (65535, 65535), (1024, 65535))),
        (
            ({"wireguardPorts": {"from": 1023, "to": 1024}}, "wireguardPorts.from"),
            ({"wireguardPorts": {"from": 1024, "to": 65536}}, "wireguardPorts.to"),
            ({"wireguardPorts": {"from": 1025, "to": 1024}}, "wireguardPorts.from must not be above"),
        ),
    ),
    Limit(
        "GridNode",
        "offer",
        (
            {"offer": {"cpu": 0, "memory": "0", "storage": 0}},
            {"offer": {"cpu": 65536, "memory": "8Ei", "storage": "9223372036854775807"}},
        ),
        (
            ({"offer": {"cpu": -1}}, "spec.offer.cpu"),
            ({"offer": {"cpu": 65537}}, "spec.offer.cpu"),
            ({"offer": {"memory": "-1"}}, "spec.offer.memory"),
            ({"offer": {"storage": "1e3"}}, "spec.offer.storage"),
        ),
    ),
    Limit(
        "GridNode",
        "publicInterface",
        ({"publicInterface": "e"}, {"publicInterface": "e" * 15}),
        (({"publicInterface": "e" * 16}, "publicInterface"),),
    ),
)
