"""The product on a cluster, as its users have it: installed by Helm, upgraded, interrupted, taken away. Guests notice nothing.

The tests of this module stand on each other's cluster, and on two machines that are there from the first to the last: one pings
the other, ten times a second, over WireGuard.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Product
from guests import NETWORK, Guests
from harness import obj, until


@pytest.fixture(scope="module")
def guests(product: Product) -> Iterator[Guests]:
    product.kubectl("create", "namespace", "machines")
    made = Guests(product, "machines")
    made.network("n1", "n2")
    made.apply("two", "sleep 100000", nodeName="n2")
    made.ready("two")
    made.pinging("one", made.status("two")["ip"])
    yield made
    product.kubectl("delete", "namespace", "machines", "--timeout=120s")


@pytest.fixture
def unharmed(guests: Guests) -> Iterator[Guests]:
    """Whatever the test does: the same guests, and no ping lost."""
    before = {name: guests.qemu(name) for name in ("one", "two")}
    started = {name: guests.status(name)["startedAt"] for name in before}
    guests.goes_on_pinging("one")
    yield guests
    guests.goes_on_pinging("one")
    assert {name: guests.qemu(name) for name in before} == before
    assert {name: guests.status(name)["startedAt"] for name in before} == started
    assert guests.unanswered("one") == []


def test_it_is_whole(product: Product, guests: Guests) -> None:
    said = product.helm("test", "zos", "-n", "zos-system", "--logs")
    assert "Succeeded" in said
    assert product.kubectl("get", "events", "-n", "zos-system", "--field-selector=type=Warning,reason=Failed").strip() == ""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "change",
    [
        {"node": {"logLevel": "DEBUG"}},
        {"controller": {"logLevel": "DEBUG"}},
        {"runtime": {"podAnnotations": {"example.org/changed": "yes"}}},
    ],
    ids=["agent", "controller", "runtime"],
)
def test_a_changed_value_is_rolled_out(product: Product, unharmed: Guests, change: dict[str, object]) -> None:
    (part,) = change
    before = product.uids_of(part)
    product.upgrade(change)
    until(product.rolled_out, 60)
    assert len(product.uids_of(part)) == 2
    assert not product.uids_of(part) & before


@pytest.mark.timeout(300)
def test_another_image_is_rolled_out(product: Product, unharmed: Guests, other_images: Path) -> None:
    libvirtd = {node: product.service_pid(node, "libvirtd") for node in ("n1", "n2")}
    virtlogd = {node: product.service_pid(node, "virtlogd") for node in ("n1", "n2")}
    product.install(other_images)
    assert all(product.service_pid(node, "libvirtd") != libvirtd[node] for node in libvirtd)
    assert {node: product.service_pid(node, "virtlogd") for node in virtlogd} == virtlogd
    roots = product.run_on_host("n1", "sh", "-c", "ls -d /var/lib/zos/runtime/*/complete").split()
    assert len(roots) == 2, "the old one is there as long as somebody runs from it"
    unharmed.apply("three", "echo from the other image; sleep 1000")
    unharmed.prints("three", "from the other image")
    unharmed.ready("three")
    product.kubectl("delete", "zmachine", "three", "-n", "machines", "--timeout=60s")


@pytest.mark.timeout(200)
def test_what_is_killed_comes_back(product: Product, unharmed: Guests) -> None:
    for service in ("libvirtd", "kubelet", "containerd"):
        place = product if service == "libvirtd" else product.below
        old = place.kill("n1", service)
        place.service_returns("n1", service, old)
    product.kubectl("delete", "pod", "-n", "zos-system", "-l", "app.kubernetes.io/component=agent", "--wait=false")
    until(lambda: product.node_ready("n1") == "True", 60)
    until(lambda: len(product.pods_of("node")) == 2 and product.rolled_out(), 90, "all pods are Ready again")
    product.ready("", "gridnode/n1", "gridnode/n2")
    unharmed.ready("one", "two")


@pytest.mark.timeout(120)
def test_who_leads_dies_and_the_other_goes_on(product: Product, unharmed: Guests) -> None:
    lease = product.ask("/apis/coordination.k8s.io/v1/namespaces/zos-system/leases/zos-controller")
    assert lease is not None
    leader = lease["spec"]["holderIdentity"]
    product.kubectl("delete", "pod", leader, "-n", "zos-system", "--grace-period=0", "--force")
    product.apply("machines", obj("ZMount", "later", size="64Mi", nodeName="n1"))
    product.ready("machines", "zmount/later", seconds=60)
    product.kubectl("delete", "zmount", "later", "-n", "machines", "--timeout=60s")


@pytest.mark.timeout(300)
def test_it_is_uninstalled_and_comes_back_to_what_runs(product: Product, unharmed: Guests) -> None:
    objects = product.kubectl("get", "zmachines,networks,nodeworkloads", "-A", "-o", "name")
    product.helm("uninstall", "zos", "-n", "zos-system", "--wait", "--timeout=90s")
    assert product.kubectl("get", "zmachines,networks,nodeworkloads", "-A", "-o", "name") == objects
    unharmed.goes_on_pinging("one")
    product.install()
    unharmed.ready("one", "two")
    product.ready("machines", f"network/{NETWORK}")


@pytest.mark.timeout(300)
def test_a_node_dies_and_comes_back(product: Product, guests: Guests) -> None:
    """The last one: the pings end here."""
    addresses = {name: guests.status(name)["ip"] for name in ("one", "two")}
    one = guests.qemu("one")
    product.minigrid("crash", "n2")
    died = time.monotonic()
    until(lambda: product.condition("gridnode", "n2", "")["status"] == "False", 60, "the grid knows that n2 is gone")
    assert guests.says("two", "n2")["status"] == "False"
    assert product.condition("gridnode", "n1", "")["status"] == "True"
    print(f"told after {time.monotonic() - died:.0f} s")
    product.minigrid("up", timeout=200)
    returned = time.monotonic()
    guests.ready("one", "two", seconds=150)
    print(f"guests Ready {time.monotonic() - returned:.0f} s after the node")
    assert guests.qemu("one") == one
    assert {name: guests.status(name)["ip"] for name in ("one", "two")} == addresses
    guests.goes_on_pinging("one")
    assert json.loads(product.kubectl("get", "nodes", "-o", "json"))["items"]
