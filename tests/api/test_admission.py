"""What the API server refuses, in its own words; the message names the field and the rule."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from apiserver import ApiServer
from limits import LIMITS, Limit
from zos.kinds.registry import KINDS

NETWORK: dict[str, Any] = {"ipRange": "10.20.0.0/16", "nodes": [{"name": "n1"}], "access": [{"name": "laptop"}]}
MACHINE: dict[str, Any] = {"image": "oci://registry.example/zos/hello:latest", "network": {"name": "private"}}
MOUNT: dict[str, Any] = {"size": "1Gi"}
NODE: dict[str, Any] = {"endpoint": {"ipv4": "198.51.100.7"}}
FARM: dict[str, Any] = {"publicIPv4": [{"range": "203.0.113.16/28", "gateway": "203.0.113.17"}], "allowNonGlobal": True}
CONTRACT: dict[str, Any] = {"farm": "f", "publicIPv4": 2}
PUBLIC_IP: dict[str, Any] = {"contract": "c"}

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
WORKLOAD: dict[str, Any] = {"owner": {"kind": "ZMount", "namespace": "d", "name": "d", "uid": "uid-d"}}
PART: dict[str, Any] = {
    "ipRange": "10.20.0.0/16", "mtu": 1420, "subnet": "10.20.5.0/24", "wireguardAddress": "100.64.20.5", "listenPort": 52000,
    "publicKey": KEY,
}  # fmt: skip

GOOD = [
    ("Network", NETWORK),
    ("Network", NETWORK | {"nodes": [{"name": "a.b", "subnet": "10.20.9.0/24"}], "access": [{"name": "l", "publicKey": KEY}]}),
    ("ZMachine", MACHINE),
    ("ZMachine", MACHINE | {"image": "oci://[::1]/x".replace("[::1]", "10.0.0.1:5000"), "memory": "250Mi", "rootSize": "500Mi"}),
    ("ZMachine", MACHINE | {"image": "file:///srv/images/a.tar", "disks": [{"name": "d", "mountPath": "/data/.cache"}]}),
    ("ZMachine", MACHINE | {"image": "https://images.example/a.tar.zst", "memory": 268435456}),
    ("ZMachine", MACHINE | {"disks": [
        {"name": f"d{i}", "mountPath": path}
        for i, path in enumerate(("/data/sub", "/data", "/etc/app", "/usr/local", "/device", "/run/x", "/var", "/a" * 512))]}),
    ("ZMachine", MACHINE | {"env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
    ("ZMount", MOUNT),
    ("ZMount", {"size": "1.5Gi"}),
    ("GridNode", NODE),
    ("GridNode", {}),
    ("GridNode", {"cpuOvercommitPercent": 1000}),
    ("Farm", FARM),
    ("Farm", {"publicIPv6": [{"prefix": "2001:db8:1::/64"}], "allowNonGlobal": True}),
    ("Contract", CONTRACT),
    ("PublicIP", PUBLIC_IP),
    ("PublicIP", {"contract": "c", "ipv4": False}),
    ("NameContract", {"name": "My_Name-1"}),
    ("Quota", {"namespaces": {}, "cpu": 0, "memory": "1.5Gi"}),
    ("Quota", {"namespaces": {"matchExpressions": [{"key": "plan", "operator": "Exists"}]}, "publicIPv4": 2, "machines": 1}),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"peers": [
        {"publicKey": KEY, "endpoint": "198.51.100.7:52000", "allowedIps": ["10.20.0.0/16", "100.64.0.0/16"], "keepalive": 20},
        {"publicKey": KEY, "endpoint": "[2001:db8::7]:52000"}]}}}),
    ("NodeWorkload", WORKLOAD | {"network": PART}),  # in the form of release 0.2
    ("NodeWorkload", WORKLOAD | {"mount": {"size": "1Gi"}}),
    ("NodeWorkload", WORKLOAD | {"part": {"zmount": {"size": "1Gi", "holdsData": True}}, "erase": "uid-d"}),
]  # fmt: skip

REFUSED = [
    ("ZMachine", MACHINE | {"image": "https://images.example/a\nb"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"image": "file:///srv/a\u0000"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": "/a\nb"}]}, "disks[].mountPath must not have control characters"),
    ("ZMachine", MACHINE | {"env": [{"name": "A", "value": "a\u0000b"}]}, "spec.env[0].value"),
    ("ZMachine", MACHINE | {"entrypoint": ["a\u0000"]}, "spec.entrypoint[0]"),
    ("ZMachine", MACHINE | {"env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "", "key": "k"}}}]}, "secretKeyRef.name"),
    ("ZMount", {"size": -1}, "spec.size"),
    ("ZMount", {"size": "9" * 40}, "spec.size"),
    ("GridNode", {"publicInterface": "br0\n"}, "publicInterface must be the name of an interface"),
    ("GridNode", {"offer": {"memory": -1}}, "spec.offer.memory"),
    ("Quota", {"cpu": 1}, "spec.namespaces: Required value"),
    ("Quota", {"namespaces": {}, "machines": -1}, "spec.machines"),
    ("Quota", {"namespaces": {}, "storage": "much"}, "spec.storage"),
    ("Quota", {"namespaces": {"matchExpressions": [{"key": "plan", "operator": "Like"}]}}, "operator"),
    ("GridNode", {"cpuOvercommitPercent": 99}, "cpuOvercommitPercent must be between 100"),
    ("GridNode", {"cpuOvercommitPercent": 1001}, "cpuOvercommitPercent must be between 100"),
    ("GridNode", {"offer": {"cpu": -1}}, "spec.offer.cpu"),
    ("GridNode", {"egress": {"allow": ["10.0.0.1"]}}, "spec.egress.allow"),
    ("NodeWorkload", WORKLOAD | {"erase": "uid d"}, "spec.erase"),
    ("NodeWorkload", WORKLOAD | {"owner": WORKLOAD["owner"] | {"kind": "Z Mount"}}, "spec.owner.kind"),
    ("NodeWorkload", WORKLOAD, "exactly one part"),
    ("NodeWorkload", WORKLOAD | {"part": {}}, "exactly one part"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART, "zmount": {"size": "1Gi"}}}, "exactly one part"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"publicKey": f"{KEY}\nx"}}}, "spec.part.network.publicKey"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"subnet": "10.20.5.0/24\nx"}}}, "spec.part.network.subnet"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"wireguardAddress": "100.64.1"}}}, "spec.part.network.wireguardAddress"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"listenPort": 0}}}, "spec.part.network.listenPort"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"peers": [{"publicKey": "k"}]}}}, "spec.part.network.peers[0].publicKey"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"peers": [{"publicKey": KEY, "endpoint": "a:1\nx"}]}}}, "peers[0].endpoint"),
    ("NodeWorkload", WORKLOAD | {"part": {"network": PART | {"peers": [{"publicKey": KEY, "allowedIps": ["all"]}]}}}, "peers[0].allowedIps"),
    ("Claim", {"holder": {"kind": "Contract", "namespace": "d", "name": "c", "uid": "u"}, "thing": "a\nb"}, "spec.thing"),
    ("Network", NETWORK | {"ipRange": "10.20.0.0"}, "ipRange must be an IPv4 range"),
    ("Network", NETWORK | {"ipRange": "banana"}, "ipRange must be an IPv4 range"),
    ("Network", NETWORK | {"ipRange": "fd00::/48"}, "ipRange must be an IPv4 range"),
    ("Network", NETWORK | {"ipRange": "8.8.0.0/16"}, "ipRange must be private"),
    ("Network", NETWORK | {"ipRange": "172.0.0.0/8"}, "ipRange must be private"),
    ("Network", NETWORK | {"ipRange": "10.20.1.0/16"}, "host bits must be zero"),
    ("Network", NETWORK | {"ipRange": "10.20.0.0/24"}, "between a /8 and a /20"),
    ("Network", NETWORK | {"mtu": 9}, "spec.mtu"),
    ("Network", NETWORK | {"nodes": [{"name": "a", "subnet": "10.21.0.0/24"}]}, "nodes[].subnet must lie inside ipRange"),
    ("Network", NETWORK | {"nodes": [{"name": "a", "subnet": "10.20.2.0/25"}]}, "nodes[].subnet must be exactly a /24"),
    ("Network", NETWORK | {"nodes": [{"name": "a"}, {"name": "a"}]}, "Duplicate value"),
    ("Network", NETWORK | {"nodes": [{"name": n, "subnet": "10.20.2.0/24"} for n in "ab"]}, "two must not share a sub-range"),
    ("Network", NETWORK | {"nodes": [{"name": "a", "subnet": "10.20.2.0/24"}],
                           "access": [{"name": "l", "subnet": "10.20.2.0/24"}]}, "access[].subnet must differ"),
    ("Network", NETWORK | {"access": [{"name": "l", "publicKey": "short"}]}, "access[].publicKey must be a WireGuard public key"),
    ("Network", NETWORK | {"access": [{"name": "l", "publicKey": "A" * 43 + "="}]}, "access[].publicKey must be the public half"),
    ("Network", NETWORK | {"access": [{"name": "l", "publicKey": "/" * 42 + "8="}]}, "access[].publicKey must be the public half"),
    ("Network", NETWORK | {"access": [{"name": n, "publicKey": KEY} for n in "ab"]}, "two laptops must not share a key"),
    ("Network", NETWORK | {"access": [{"name": "Upper"}]}, "spec.access[0].name"),
    ("ZMachine", MACHINE | {"memory": "249Mi"}, "memory must be at least 250Mi"),
    ("ZMachine", MACHINE | {"memory": 1000}, "memory must be at least 250Mi"),
    ("ZMachine", MACHINE | {"memory": "lots"}, "spec.memory"),
    ("ZMachine", MACHINE | {"cpu": 0}, "cpu must be at least 1"),
    ("ZMachine", MACHINE | {"cpu": -1}, "cpu must be at least 1"),
    ("ZMachine", MACHINE | {"rootSize": "499Mi"}, "rootSize must be 0 (the minimum) or at least the minimum"),
    ("ZMachine", MACHINE | {"cpu": 4, "memory": "4Gi", "rootSize": "1Gi"}, "rootSize must be 0 (the minimum) or at least"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": "data"}]}, "disks[].mountPath must be absolute"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": "/"}]}, "disks[].mountPath must not be /"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": "/data/"}]}, "disks[].mountPath must be written plainly"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": "/a/../b"}]}, "disks[].mountPath must be written plainly"),
    *(
        ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": path}]}, f"disks[].mountPath must not {words}")
        for words, path in (
            ("be in /proc", "/proc"), ("be in /proc", "/dev/shm"), ("be in /proc", "/sys/fs"), ("hide", "/etc"), ("hide", "/usr"),
            ("hide", "/lib64"), ("hide", "/usr/bin"), ("be a file that", "/etc/hosts"), ("be a file that", "/root/.ssh/authorized_keys"), ("have a part", "/a/" + "b" * 256),
        )
    ),
    ("ZMachine", MACHINE | {"disks": [{"name": n, "mountPath": "/d"} for n in "ab"]}, "disks[].mountPath must be different"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": p} for p in ("/a", "/b")]}, "Duplicate value"),
    ("ZMachine", MACHINE | {"image": "debian"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"image": "oci://host"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"image": "oci://host/UPPER"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"image": "oci://host//x"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"image": "oci://host/a/-b"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"image": "file://relative"}, "image must be oci://"),
    ("ZMachine", MACHINE | {"network": {"name": "n", "ip": "10.20.2"}}, "network.ip must be an IPv4 address"),
    ("ZMachine", MACHINE | {"env": [{"name": "A"}]}, "exactly one of value and valueFrom"),
    ("ZMachine", MACHINE | {"env": [{"name": "1A", "value": "x"}]}, "env[].name must be letters"),
    ("ZMachine", MACHINE | {"runPolicy": "Sometimes"}, "spec.runPolicy"),
    ("ZMachine", MACHINE | {"entrypoint": []}, "spec.entrypoint"),
    ("ZMachine", {"image": "oci://a/b"}, "spec.network"),
    ("ZMount", {"size": 0}, "size must be at least 16Mi"),
    ("ZMount", {"size": "15Mi"}, "size must be at least 16Mi"),
    ("ZMount", {"size": "-1Gi"}, "spec.size"),
    ("ZMount", {}, "spec.size"),
    ("ZMount", {"size": "1Gi", "source": {}}, "source must have exactly one of: zmount, image"),
    ("ZMount", {"size": "1Gi", "source": {"zmount": {"name": "a"}, "image": "oci://r/i"}}, "source must have exactly one of"),
    ("ZMount", {"size": "1Gi", "source": {"image": "docker.io/i"}}, "source.image must be oci://"),
    (
        "ZMount",
        {"size": "1Gi", "source": {"zmount": {"name": "a"}, "imagePullSecrets": [{"name": "a"}]}},
        "source.imagePullSecrets are for an image",
    ),
    ("ZMount", {"size": "1Gi", "source": {"zmount": {"name": "a b"}}}, "source.zmount.name"),
    ("GridNode", {"endpoint": {"ipv4": "host.example"}}, "endpoint.ipv4 must be an IPv4 address"),
    ("GridNode", {"endpoint": {"ipv6": "1.2.3.4"}}, "endpoint.ipv6 must be an IPv6 address"),
    *(
        ("GridNode", {"endpoint": {family: address}}, f"endpoint.{family} must be an address that others can send to")
        for family, address in (
            ("ipv4", "127.0.0.1"), ("ipv4", "0.0.0.0"), ("ipv4", "255.255.255.255"), ("ipv4", "224.0.0.5"), ("ipv4", "169.254.1.1"),
            ("ipv6", "::1"), ("ipv6", "::"), ("ipv6", "ff02::1"), ("ipv6", "fe80::1"),
        )
    ),
    ("GridNode", {"wireguardPorts": {"from": 5000, "to": 4000}}, "wireguardPorts.from must not be above"),
    ("GridNode", {"publicInterface": "a-name-of-16-byte"}, "publicInterface must be the name of an interface"),
    ("GridNode", {"gatewayDomain": "Gateways"}, "gatewayDomain must be a domain"),
    ("Farm", {"publicIPv4": FARM["publicIPv4"]}, "publicIPv4[].range must be globally routable"),
    ("Farm", {"publicIPv6": [{"prefix": "fd00::/64"}]}, "publicIPv6[].prefix must be globally routable"),
    ("Farm", {"publicIPv6": [{"prefix": "::ffff:1.2.3.0/120"}], "allowNonGlobal": True}, "publicIPv6[].prefix must be"),
    ("Farm", {"publicIPv6": [{"prefix": "2a02::/56"}]}, "publicIPv6[].prefix must be exactly a /64"),
    ("Farm", FARM | {"publicIPv4": [{"range": "203.0.113.16/28", "gateway": "203.0.113.1"}]}, "gateway must be an address inside"),
    ("Farm", FARM | {"publicIPv4": [{"range": "203.0.113.16/28", "gateway": "203.0.113.16"}]}, "not the network address"),
    ("Farm", FARM | {"publicIPv4": [FARM["publicIPv4"][0], {"range": "203.0.113.16/29", "gateway": "203.0.113.18"}]}, "must not overlap"),
    ("Farm", FARM | {"publicIPv4": [{"range": "nonsense", "gateway": "203.0.113.18"}]}, "publicIPv4[].range must be an IPv4 range"),
    ("Contract", CONTRACT | {"publicIPv4": 0}, "publicIPv4 must be between 1 and 4096"),
    ("Contract", CONTRACT | {"publicIPv4": 100000}, "publicIPv4 must be between 1 and 4096"),
    ("PublicIP", {"contract": "c", "ipv4": False, "ipv6": False}, "at least one of ipv4 and ipv6 must be true"),
    ("NameContract", {"name": "a.b"}, "name must be letters"),
    *(
        (kind, spec, f"{what} must be a name as")
        for kind, what, spec in (
            ("Network", "nodes[].name", NETWORK | {"nodes": [{"name": "n1"}, {"name": "N2_typo"}]}),
            ("Network", "access[].node", NETWORK | {"access": [{"name": "l", "node": "Node_1"}]}),
            ("Network", "relay", NETWORK | {"relay": "n1."}),
            ("ZMachine", "network.name", MACHINE | {"network": {"name": "a b"}}),
            ("ZMachine", "disks[].name", MACHINE | {"disks": [{"name": "d_1", "mountPath": "/d"}]}),
            ("ZMachine", "secretKeyRef.name",
             MACHINE | {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "-s", "key": "k"}}}]}),
            ("ZMachine", "publicIP", MACHINE | {"publicIP": ""}),
            ("ZMachine", "nodeName", MACHINE | {"nodeName": "n1\n"}),
            ("ZMount", "nodeName", MOUNT | {"nodeName": "n/1"}),
            ("Contract", "farm", CONTRACT | {"farm": "Lab"}),
            ("PublicIP", "contract", PUBLIC_IP | {"contract": "c..d"}),
            ("GridNode", "farm", NODE | {"farm": "lab-"}),
            *(
                ("GridNode", f"quarantine[].giveTo.{what}", NODE | {"quarantine": [{"uid": "u", "giveTo": to}]})
                for what, to in (
                    ("name", {"kind": "ZMount", "namespace": "d", "name": "D"}),
                    ("namespace", {"kind": "ZMount", "namespace": "a.b", "name": "d"}),
                )
            ),
        )
    ),
]  # fmt: skip

CHANGES = [
    ("Network", NETWORK, {"ipRange": "10.30.0.0/16"}, "ipRange is immutable"),
    ("ZMachine", MACHINE | {"nodeName": "n1"}, {"nodeName": "n2"}, "nodeName is immutable"),
    ("Contract", CONTRACT, {"farm": "other"}, "farm is immutable"),
    ("ZMount", MOUNT | {"source": {"zmount": {"name": "a"}}}, {"source": {"zmount": {"name": "b"}}}, "source is immutable"),
    ("ZMount", MOUNT, {"source": {"zmount": {"name": "a"}}}, "source is immutable"),
    ("ZMount", MOUNT | {"source": {"image": "oci://r/i:1"}}, {"source": {"image": "oci://r/i:2"}}, "source is immutable"),
    ("PublicIP", PUBLIC_IP, {"contract": "other"}, "contract is immutable"),
]


#: What there is, by the status; what is asked for before; what may be asked for then, and what not.
SIZES = [
    ("ZMount", MOUNT, {"size": "2Gi"}, "size", "900Gi", ["2Gi", "3Gi"], "1Gi"),
    ("ZMount", MOUNT, {}, "size", "900Gi", ["2Gi", "16Mi"], "15Mi"),
    ("ZMachine", MACHINE, {"rootSize": "4Gi"}, "rootSize", "900Gi", ["4Gi", "5Gi", 0], "3Gi"),
    ("ZMachine", MACHINE, {}, "rootSize", "900Gi", ["3Gi", "500Mi"], "499Mi"),
]


#: What an older version took, a change of something else, and one that touches what is not taken any more.
FROM_BEFORE = [
    ("Network", NETWORK | {"access": [{"name": n, "publicKey": KEY} for n in "ab"]}, {"relay": "n1"},
     {"access": [{"name": n, "publicKey": KEY} for n in "abc"]}, "two laptops must not share a key"),
    ("ZMachine", MACHINE | {"disks": [{"name": "d", "mountPath": "/usr"}]}, {"cpu": 2},
     {"disks": [{"name": "d", "mountPath": "/usr"}, {"name": "e", "mountPath": "/usr/lib"}]}, "disks[].mountPath must not hide"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "other", "same", "words"), FROM_BEFORE, ids=[words for *_, words in FROM_BEFORE])
def test_what_is_there_already_can_be_changed(
    apiserver: ApiServer, kind: str, spec: dict[str, Any], other: dict[str, Any], same: dict[str, Any], words: str
) -> None:
    """CRD validation ratcheting: what a change leaves as it was is not judged."""
    crd = f"{kind.lower()}s.zos.grid.tf"
    strict = json.loads(apiserver.kubectl("get", "crd", crd, "-o", "json"))
    replace_crd(apiserver, without_rules(strict))
    try:
        until(lambda: apiserver.kubectl("create", "-f", "-", stdin=manifest(kind, spec, "from-before")))
    finally:
        replace_crd(apiserver, strict)
    patch = ("patch", crd, "from-before", "--type=merge", "-p")
    try:
        until(lambda: refusal_of(lambda: dry(apiserver, manifest(kind, spec))))
        apiserver.kubectl(*patch, json.dumps({"spec": other}))
        assert words in refusal_of(lambda: apiserver.kubectl(*patch, json.dumps({"spec": same})))
    finally:
        apiserver.kubectl("delete", crd, "from-before")


def replace_crd(apiserver: ApiServer, crd: dict[str, Any]) -> None:
    meta = {"name": crd["metadata"]["name"], "labels": crd["metadata"].get("labels", {})}
    apiserver.kubectl(
        "replace", "-f", "-", stdin=json.dumps({k: v for k, v in crd.items() if k != "status"} | {"metadata": meta})
    )


def without_rules(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: without_rules(value) for key, value in schema.items() if key != "x-kubernetes-validations"}
    return [without_rules(value) for value in schema] if isinstance(schema, list) else schema


def refusal_of(work: Callable[[], object]) -> str:
    with pytest.raises(RuntimeError) as refusal:
        work()
    return str(refusal.value)


def until(work: Callable[[], object]) -> None:
    """The API server takes up a changed CRD a moment later."""
    for _ in range(50):
        try:
            work()
        except (RuntimeError, pytest.fail.Exception):
            time.sleep(0.1)
        else:
            return
    work()


#: Texts and numbers in statuses that only the controller writes, and that go on to nodes, machines and laptops.
STATUSES: dict[str, list[dict[str, Any]]] = {
    "network": [
        {"nodes": [{"name": "n1", "subnet": "10.20.5.0/24", "publicKey": f"{KEY}\nPostUp = x"}]},
        {"nodes": [{"name": "n1", "subnet": "10.20.5.0"}]},
        {"nodes": [{"name": "n1", "subnet": "10.20.5.0/24", "endpoint": "198.51.100.7:1\nx"}]},
        {"nodes": [{"name": "n1", "subnet": "10.20.5.0/24", "listenPort": 65536}]},
        {"access": [{"name": "l", "subnet": "10.20.5.0/24", "publicKey": "hello"}]},
        {"access": [{"name": "l", "subnet": "10.20.5.0/24", "secret": "a\nb"}]},
        {"addresses": [{"ip": "10.20.5.300", "owner": {"kind": "ZMachine", "name": "m", "uid": "u"}, "node": "n1"}]},
        {"addresses": [{"ip": "10.20.5.3", "owner": {"kind": "ZMachine", "name": "m"}, "node": "n1"}]},
        {"addresses": [{"ip": "10.20.5.3", "machine": "m", "node": "n1"}]},
        {"relay": "n1\n"},
    ],
    "zmachine": [
        {"nodeName": "n1\n"}, {"ip": "10.20.5"}, {"publicIPv4": "2001:db8::7"}, {"publicIPv6": "198.51.100.7"},
        {"console": "relative"}, {"imageDigest": "latest"}, {"restarts": -1}, {"startedAt": "now"}, {"state": "a\nb"},
    ],
    "zmount": [{"size": -1}, {"usedBy": "A B"}],
    "contract": [{"reserved": ["198.51.100"]}, {"inUse": [{"uid": "u", "ip": "x", "publicIP": "p"}]}, {"free": -1}],
    "publicip": [{"ipv4": {"address": "198.51.100.7"}}, {"mac": "02:00:00:00:00:00\n"}, {"machineUid": "u u"}],
    "namecontract": [{"claim": "a\nb"}],
    "farm": [{"outOfRange": ["x"]}, {"ipv4": {"total": -1}}],
    "gridnode": [
        {"holds": [{"uid": "u", "owner": "Network d/n", "publicKey": "hello"}]},
        {"holds": [{"uid": "u", "owner": "Network d/n\nx"}]},
        {"holds": [{"uid": "u", "owner": "Network d/n", "listenPort": 0}]},
        {"nodeNamespace": "a.b"},
    ],
}  # fmt: skip
SPECS = {
    "network": NETWORK, "zmachine": MACHINE, "zmount": MOUNT, "contract": CONTRACT, "publicip": PUBLIC_IP, "farm": FARM,
    "gridnode": NODE, "namecontract": {"name": "bounds"},
}  # fmt: skip


@pytest.mark.parametrize("kind", STATUSES)
def test_statuses_are_held_to_their_form(apiserver: ApiServer, kind: str) -> None:
    (model,) = [model for model in KINDS.models if model.KIND.lower() == kind]
    apiserver.kubectl("create", "-f", "-", stdin=manifest(model.KIND, SPECS[kind], "bounds"))
    patch = ("patch", kind, "bounds", "--subresource=status", "--type=merge", "--dry-run=server", "-p")
    try:
        for status in STATUSES[kind]:
            with pytest.raises(RuntimeError) as refusal:
                apiserver.kubectl(*patch, json.dumps({"status": status}))
            assert f"status.{next(iter(status))}" in str(refusal.value)
    finally:
        apiserver.kubectl("delete", kind, "bounds")


def test_who_has_an_address_is_kept_in_todays_form_and_in_that_of_release_0_2(apiserver: ApiServer) -> None:
    """A controller of either release may write it under these definitions, and loses nothing."""
    older = {"ip": "10.20.2.2", "machine": "web", "uid": "uid-web", "node": "n1", "next": "10.20.2.3"}
    today = older | {"owner": {"kind": "ZMachine", "name": "web", "uid": "uid-web"}}
    apiserver.kubectl("create", "-f", "-", stdin=manifest("Network", NETWORK, "skew"))
    try:
        for entry in (older, today):
            status = {"status": {"observedGeneration": 1, "addresses": [entry]}}
            patch = ("patch", "network", "skew", "--subresource=status", "--type=merge", "-o", "json", "-p", json.dumps(status))
            assert json.loads(apiserver.kubectl(*patch))["status"]["addresses"] == [entry]
    finally:
        apiserver.kubectl("delete", "network", "skew")


def manifest(kind: str, spec: dict[str, Any], name: str = "admission") -> str:
    body = {"apiVersion": "zos.grid.tf/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return json.dumps(body)


def dry(server: ApiServer, text: str) -> str:
    return server.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=text)


@pytest.mark.parametrize(("kind", "spec"), GOOD, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(GOOD)])
def test_taken(apiserver: ApiServer, kind: str, spec: dict[str, Any]) -> None:
    made = json.loads(dry(apiserver, manifest(kind, spec)))
    for name, value in spec.items():
        assert made["spec"][name] is not None, name
        if not isinstance(value, (dict, list)):
            assert made["spec"][name] == value


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_limits(apiserver: ApiServer, limit: Limit) -> None:
    """What may just be, all at once, and each that is just beyond."""
    items = [json.loads(manifest(limit.kind, spec, f"limit-{number}")) for number, spec in enumerate(limit.taken)]
    dry(apiserver, json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    for spec, words in limit.beyond:
        said = refusal_of(lambda spec=spec: dry(apiserver, manifest(limit.kind, spec)))  # type: ignore[misc]
        assert words in said, spec


@pytest.mark.parametrize(("kind", "spec", "words"), REFUSED, ids=[f"{kind}-{words}" for kind, _, words in REFUSED])
def test_refused(apiserver: ApiServer, kind: str, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(RuntimeError) as refusal:
        dry(apiserver, manifest(kind, spec))
    assert words in str(refusal.value)
    assert "rule evaluation error" not in str(refusal.value)


@pytest.mark.parametrize(("kind", "spec", "change", "words"), CHANGES, ids=[words for *_, words in CHANGES])
def test_changes_refused(apiserver: ApiServer, kind: str, spec: dict[str, Any], change: dict[str, Any], words: str) -> None:
    apiserver.kubectl("create", "-f", "-", stdin=manifest(kind, spec, "changes"))
    try:
        with pytest.raises(RuntimeError) as refusal:
            apiserver.kubectl("apply", "-f", "-", stdin=manifest(kind, copy.deepcopy(spec) | change, "changes"))
        assert words in str(refusal.value)
    finally:
        apiserver.kubectl("delete", kind, "changes")


@pytest.mark.parametrize(("kind", "spec", "status", "field", "typo", "taken", "refused"), SIZES)
def test_a_size_can_be_taken_back_to_what_there_is(
    apiserver: ApiServer,
    kind: str,
    spec: dict[str, Any],
    status: dict[str, Any],
    field: str,
    typo: str,
    taken: list[Any],
    refused: str,
) -> None:
    def ask(size: Any) -> None:
        apiserver.kubectl("apply", "-f", "-", stdin=manifest(kind, copy.deepcopy(spec) | {field: size}, "sizes"))

    ask(typo)
    try:
        patch = json.dumps({"status": status | {"observedGeneration": 1}})
        apiserver.kubectl("patch", kind, "sizes", "--subresource=status", "--type=merge", "-p", patch)
        for size in taken:
            ask(size)
            ask(typo)
        with pytest.raises(RuntimeError) as refusal:
            ask(refused)
        assert field in str(refusal.value)
        ask(taken[0])  # and a status that says more afterwards is taken all the same: it tells what is
        more = json.dumps({"status": {field: "800Gi"}})
        apiserver.kubectl("patch", kind, "sizes", "--subresource=status", "--type=merge", "-p", more)
    finally:
        apiserver.kubectl("delete", kind, "sizes")


def test_defaults_appear(apiserver: ApiServer) -> None:
    made = json.loads(dry(apiserver, manifest("ZMachine", MACHINE)))
    assert made["spec"]["runPolicy"] == "Always"
    assert (made["spec"]["cpu"], made["spec"]["memory"]) == (1, "512Mi")
    assert made["status"]["observedGeneration"] == -1
    assert json.loads(dry(apiserver, manifest("Network", NETWORK)))["spec"]["mtu"] == 1420
