"""Names in networks: who is told which, whom machines ask, and whom that changes nothing for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cases import world_of
from known import facts
from zos.api import names
from zos.api.meta import Meta, Reason
from zos.api.network import AddressOwner, Network, NetworkAddress
from zos.api.nodeworkload import Nic, Owner
from zos.api.text import is_name
from zos.api.zmachine import ZMachine
from zos.kinds.kind import Here
from zos.kinds.network import naming, resolver
from zos.kinds.network.part import NameOnNode, NamesOnNode, NetworkOnNode
from zos.kinds.network.topology import Member, laptop_file
from zos.kinds.registry import KINDS
from zos.kinds.zmachine import virtual
from zos.kinds.zmachine.lower import lower
from zos.kinds.zmachine.naming import resolution
from zos.kinds.zmachine.part import DiskOnNode, MachineOnNode
from zos.plan.facts import DiskFact, Facts, ImageFact, ServiceFact, Written
from zos.plan.items import Domain, File, Item, Service
from zos.plan.lowered import Lowered, Problem
from zos.plan.restart import outdated

NETWORK = NetworkOnNode(
    ip_range="10.20.0.0/16", mtu=1420, subnet="10.20.4.0/24", wireguard_address="100.64.20.4", listen_port=52007,
    public_key="k", names=NamesOnNode(domain="net.zos", names=(NameOnNode(name="web", ip="10.20.4.2"),)),
)  # fmt: skip
IMAGE = {"oci://r/i:1": ImageFact(digest="sha256:1", entrypoint=("/bin/app",))}


def made(network: NetworkOnNode, known: Facts) -> tuple[Item, ...]:
    return resolver.items(network, "uid-net", "w", (), known)


def program(network: NetworkOnNode, known: Facts) -> Service:
    (found,) = [item for item in made(network, known) if isinstance(item, Service)]
    return found


def files(service: Service) -> dict[str, str]:
    return {file.path: file.content for file in service.files}


def test_where_nobody_asks_there_is_no_resolver_and_no_way_to_one() -> None:
    nobody = NETWORK.model_copy(update={"names": None})
    assert made(nobody, facts()) == ()
    assert resolver.rules(nobody, "w-x") == ""


def test_a_machine_that_comes_or_another_name_server_changes_files_alone() -> None:
    """So that the program is told, and not started again."""
    before = program(NETWORK, facts(nameservers=("198.51.100.2",)))
    assert NETWORK.names is not None
    more = NETWORK.names.model_copy(update={"names": (*NETWORK.names.names, NameOnNode(name="new", ip="10.20.5.2"))})
    after = program(NETWORK.model_copy(update={"names": more}), facts(nameservers=("198.51.100.3", "2001:db8::1")))
    assert after.change == "reload"
    assert replace(after, files=before.files) == before
    assert files(after) == {
        "hosts": "10.20.4.2\tweb.net.zos web\n10.20.5.2\tnew.net.zos new\n",
        "servers": "server=198.51.100.3\n",
    }


def test_what_is_no_name_comes_into_no_file() -> None:
    bad = NamesOnNode(domain="net.zos", names=(NameOnNode(name="a\n6.6.6.6 bank.example", ip="10.20.4.3"),))
    assert files(program(NETWORK.model_copy(update={"names": bad}), facts()))["hosts"] == ""


@pytest.mark.parametrize(
    ("fact", "failed", "reason"),
    [
        (ServiceFact(up=True, ready=True, since=900.0), None, None),
        (None, None, None),
        (ServiceFact(up=True, since=999.0), None, None),
        (ServiceFact(up=True, since=900.0, overdue=True), None, Reason.PROGRESSING),
        (None, Problem(Reason.FAILED, "no such account"), Reason.FAILED),
    ],
)
def test_it_is_told_when_it_stays_down_and_not_while_it_starts(
    fact: ServiceFact | None, failed: Problem | None, reason: Reason | None
) -> None:
    known = facts(now=1000.0, services={resolver.service("uid-net"): fact} if fact is not None else {})
    found = resolver.stands(made(NETWORK, known), failed, known)
    assert (found.problem.reason if found.problem is not None else None) is reason


@pytest.mark.parametrize("network", ["net", "a.b", "n" * 70, "x" * 63, f"{'l' * 60}.{'m' * 60}"])
def test_a_domain_is_one_that_dns_knows(network: str) -> None:
    domain = names.domain_name(network)
    assert is_name(domain)
    assert all(len(label) <= 63 for label in domain.split("."))


def nic(domain: str | None) -> Nic:
    return Nic(
        network_uid="u", mac="02:00:00:00:00:01", ip="10.20.4.2", prefixlen=24, gateway="10.20.4.1", mtu=1420,
        ip_range="10.20.0.0/16", domain=domain,
    )  # fmt: skip


def machine(domain: str | None) -> MachineOnNode:
    return MachineOnNode(hostname="vm", image="oci://r/i:1", cpu=1, memory=2**28, root_size=2**29, nics=(nic(domain),))


def test_more_names_than_a_node_takes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "MOST_NAMES", 2)
    machines = [
        ZMachine.model_validate(
            {
                "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
                "spec": {"image": "oci://r/i:1", "network": {"name": "net"}},
            }
        )
        for name in ("a", "b", "c", "d")
    ]
    about = {"name": "net", "namespace": "default", "uid": "uid-net"}
    network = Network.model_validate({"metadata": about, "spec": {"ipRange": "10.20.0.0/16"}})
    addresses = [
        NetworkAddress(ip=f"10.20.4.{number}", node="n", owner=AddressOwner(kind="ZMachine", name=name, uid=f"uid-{name}"))
        for number, name in enumerate("abcd", 2)
    ]
    reader = world_of([network, *machines]).reader(network.key)
    told, (condition,) = naming.told(network, addresses, (), reader)
    assert [one.name for one in told["n"].names] == ["a", "b"]
    assert condition.type == "NamesMissing"
    assert "4 names are 2 more than a node takes: those from c on" in condition.message
    assert naming.told(network, addresses[:2], (), reader)[1] == ()


def test_a_machine_asks_its_gateway_alone_unless_that_knows_nobody_else() -> None:
    assert resolution(machine("net.zos"), ("198.51.100.2", "2001:db8::1")) == (("10.20.4.1",), ("net.zos",))
    assert resolution(machine("net.zos"), ("2001:db8::1",)) == (("10.20.4.1", "2001:db8::1"), ("net.zos",))
    assert resolution(machine(None), ("198.51.100.2",)) == (("198.51.100.2",), ())


def guest(part: MachineOnNode) -> tuple[Domain, str]:
    owner = Owner(kind="ZMachine", namespace="default", name="vm", uid="uid-vm")
    workload = KINDS.workload(metadata=Meta(name="w"), spec=KINDS.workload.asking(owner, part))
    found = lower(Here.of(workload, part, facts(now=1000.0, images=IMAGE, nameservers=("198.51.100.2",)))).items
    (domain,), (config,) = ([item for item in found if isinstance(item, kind)] for kind in (Domain, File))
    assert isinstance(domain, Domain)
    assert isinstance(config, File)
    return domain, config.content


def test_who_runs_since_before_is_not_asked_to_restart_for_names() -> None:
    (before, _), (after, text) = guest(machine(None)), guest(machine("net.zos"))
    assert before.boot.config_digest != after.boot.config_digest
    assert outdated(before, after) == ()
    assert "nameserver%2010.20.4.1%0Asearch%20net.zos%0A" in text
    other = machine("net.zos").model_copy(update={"env": {"A": "b"}})
    assert outdated(before, guest(other)[0]) == ("env",)


def test_a_virtual_machine_is_told_the_same_and_one_that_runs_is_not_outdated() -> None:
    found: list[tuple[Domain, str]] = []
    for domain in (None, "net.zos"):
        boot = DiskOnNode(name="system", mount_uid="uid-disk")
        part = machine(domain).model_copy(update={"disks": (boot,)})
        owner = Owner(kind="ZMachine", namespace="default", name="vm", uid="uid-vm")
        workload = KINDS.workload(metadata=Meta(name="w"), spec=KINDS.workload.asking(owner, part))
        here = Here.of(workload, part, facts(now=1000.0, nameservers=("198.51.100.2",)))
        written = Written(image="sha256:1", ref="oci://r/i:1", firmware="bios")
        lowered = virtual.written(here, virtual.Boot(boot, DiskFact(size=1, written=written)))
        assert isinstance(lowered, Lowered)
        items = lowered.items
        (guest,) = [item for item in items if isinstance(item, Domain)]
        (config,) = [item for item in items if isinstance(item, File)]
        found.append((guest, config.content))
    (before, old), (after, new) = found
    assert "198.51.100.2" in old
    assert "198.51.100.2" not in new
    assert "net.zos" in new
    assert before.boot.config_digest != after.boot.config_digest
    assert outdated(before, after) == ()


def test_what_a_container_gets_to_end_is_named_when_it_changes() -> None:
    other = machine("net.zos").model_copy(update={"stop_seconds": 60})
    assert outdated(guest(machine("net.zos"))[0], guest(other)[0]) == ("stopSeconds",)


def test_a_laptop_is_told_whom_to_ask_where_it_wants_that() -> None:
    member = Member("n1", "10.20.4.0/24", "k", 52000, "192.0.2.1")
    plain = laptop_file("10.20.0.0/16", "10.20.9.0/24", member, None, 1420)
    asking = laptop_file("10.20.0.0/16", "10.20.9.0/24", member, None, 1420, "net.zos")
    assert "DNS" not in plain
    assert asking.replace("DNS = 10.20.4.1, net.zos\n", "") == plain
