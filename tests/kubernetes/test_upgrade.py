"""From the chart and images of the release before to those of this checkout and back, with fifty workloads: nothing is written
to a node's kernel, nobody's spec changes, guests notice nothing."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import releases
from bound import KILLED
from cluster import Product
from guests import Guests
from harness import obj, until

#: What drivers call what they make in a node's own network (`zos.api.names`); pods' interfaces come and go with them.
OURS = re.compile(r"\b(?:[btuvwlp]-[a-z2-7]{10}|zos-[a-z2-7]+|wan|lan)\b")
ROUTER = "ls /run/netns | head -1"
#: Fifteen seconds after a port has joined a bridge the kernel tells of it once more, whatever became of it, as this runs out.
TIMERS = "cat /sys/class/net/*/brport/forward_delay_timer 2>/dev/null || true"


class KernelWrites:
    """What nodes' kernels tell of changes to what is ours, from now on."""

    def __init__(self, product: Product) -> None:
        self._told: list[tuple[str, subprocess.Popen[str]]] = []
        for node in ("n1", "n2"):
            router = product.run(node, "sh", "-c", ROUTER).strip()
            for place in ((), ("ip", "netns", "exec", router)):
                until(lambda at=(node, *place): set(product.run(*at, "sh", "-c", TIMERS).split()) <= {"0"}, 30, "bridges rest")
                for watched in (("ip", "monitor", "link", "address", "route", "rule"), ("nft", "monitor")):
                    self._told.append((f"{node} {' '.join(place[3:])}", product.popen(node, *KILLED, *place, *watched)))

    def end(self) -> list[str]:
        found = []
        for where, process in self._told:
            process.kill()
            said, _ = process.communicate()
            found += [f"{where}: {line}" for line in said.splitlines() if OURS.search(line)]
        return found


def specs(product: Product) -> dict[str, int]:
    """The generation of every object of ours."""
    found = json.loads(product.kubectl("get", "zos,nodeworkloads,gridnodes,farms", "-A", "-o", "json"))["items"]
    return {
        f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}": one["metadata"]["generation"]
        for one in found
    }


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the release before, with its images in ``images``."""
    checkout = releases.previous(tmp_path_factory.mktemp("previous"))
    if checkout is None:
        pytest.skip("this checkout has no history to take the release before from")
    releases.built(checkout, checkout / "images")
    return checkout


def running(product: Product) -> dict[str, str]:
    """The image of each part."""
    return {part: product.image_of(part) for part in ("node", "runtime", "controller")}


@pytest.fixture(scope="module")
def guests(cluster: Product, previous: Path) -> Iterator[Guests]:
    """Fifty workloads on the release before: machines that ping each other among them."""
    product = Product(cluster.name)
    product.helm("uninstall", "zos", "-n", "zos-system", "--ignore-not-found", "--wait")
    product.minigrid("up", "--images", str(previous / "images"), "--chart", str(previous / "charts/zos"), timeout=400)
    product.push_image()
    product.kubectl("create", "namespace", "fifty")
    made = Guests(product, "fifty")
    made.network("n1", "n2")
    both = [{"name": "n1"}, {"name": "n2"}]
    networks = [obj("Network", f"net{n}", ipRange=f"10.{40 + n}.0.0/16", nodes=both[: 1 + n % 2]) for n in range(12)]
    disks = [obj("ZMount", f"disk{n}", size="64Mi", nodeName=f"n{1 + n % 2}") for n in range(35)]
    product.apply("fifty", *networks, *disks)
    made.apply("two", "sleep 100000", nodeName="n2")
    made.ready("two")
    made.pinging("one", made.status("two")["ip"])
    product.ready("fifty", *(f"{one['kind'].lower()}/{one['metadata']['name']}" for one in (*networks, *disks)))
    yield made
    product.kubectl("delete", "namespace", "fifty", "--timeout=180s")


@pytest.fixture
def nothing_happened(guests: Guests) -> Iterator[Callable[[], None]]:
    """Whatever the test does: no write to a kernel, no change of a spec, the same guests, no ping lost. It gives what tells of
    specs and pings so far."""
    product = guests.grid
    assert isinstance(product, Product)
    before, qemu = specs(product), {name: guests.qemu(name) for name in ("one", "two")}
    assert len(before) > 50
    writes = KernelWrites(product)

    def so_far() -> None:
        guests.goes_on_pinging("one")
        assert specs(product) == before

    yield so_far
    so_far()
    assert {name: guests.qemu(name) for name in qemu} == qemu
    assert guests.unanswered("one") == []
    assert writes.end() == []


@pytest.mark.timeout(600)
def test_there_and_back(guests: Guests, images: Path, nothing_happened: Callable[[], None]) -> None:
    """The controller first, then the nodes; all of it back at once; and the nodes first."""
    product = guests.grid
    assert isinstance(product, Product)
    named = json.loads((product.root / "values.json").read_text())["images"]
    old = running(product)
    pods = {part: product.uids_of(part) for part in old}
    (revision,) = (release["revision"] for release in json.loads(product.helm("list", "-n", "zos-system", "-o", "json")))
    given = product.load(images)
    controller, node = (f"{given[part]['repository']}@{given[part]['digest']}" for part in ("controller", "node"))

    product.upgrade({"images": {"controller": given["controller"]}})
    assert running(product) == {**old, "controller": controller}
    works(product)
    nothing_happened()

    product.upgrade({"images": given})
    assert running(product) == {"node": node, "runtime": node, "controller": controller}
    assert [part for part in pods if product.uids_of(part) & pods[part]] == []
    nothing_happened()

    product.helm("rollback", "zos", str(revision), "-n", "zos-system", "--wait", "--timeout=180s")
    until(product.rolled_out, 60)
    assert running(product) == old
    nothing_happened()

    product.upgrade({"images": {"node": given["node"], "controller": named["controller"]}})
    assert running(product) == {"node": node, "runtime": node, "controller": old["controller"]}
    works(product)


def works(product: Product) -> None:
    """Something that is applied now gets to its node, is Ready, and goes again."""
    product.apply("fifty", obj("ZMount", "meanwhile", size="64Mi", nodeName="n1"))
    product.ready("fifty", "zmount/meanwhile")
    product.kubectl("delete", "zmount", "meanwhile", "-n", "fifty", "--timeout=60s")
