"""A node with many networks, in a process and namespaces of its own: COUNT. Writes what it took as JSON.

Run by ``unshare --net --mount``: nothing of it is left when the process ends, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from zos.agent.converge import Converger, Pass
from zos.api import names
from zos.api.meta import Meta, Reason
from zos.api.nodeworkload import NodeWorkload, Owner, State
from zos.drivers.firewall import FirewallDriver
from zos.drivers.link import LinkDriver
from zos.drivers.prefixes import PrefixDriver
from zos.drivers.segment import SegmentDriver
from zos.kinds.kind import Here, OnNode, Report
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode
from zos.plan.facts import Facts
from zos.plan.items import Bridge, Firewall, Netns, Route, Veth
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import ready, waiting

TABLE = "chain forward {{ type filter hook forward priority {}; policy accept; }}"


class Networks:
    """What a network is made of, as far as drivers look after it in many namespaces."""

    def lower(self, here: Here[MountOnNode]) -> Lowered:
        uid = here.name
        router, table = names.router(uid), names.table(uid)
        space = Netns(name=router)
        lan = Bridge(netns=router, name="lan", mtu=1420, addresses=("10.0.0.1/24",), needs=(space.key,))
        number = here.name.removeprefix("net-")
        near = f"100.127.{int(number) // 128}.{int(number) % 128 * 2}"
        wan = Veth(name=names.uplink(uid), peer_netns=router, peer_name="wan", mtu=1500, addresses=(f"{near}/31",),
                   needs=(space.key,))  # fmt: skip
        items = (
            space,
            lan,
            wan,
            Route(netns=router, destination="10.1.0.0/16", device="lan", gateway="10.0.0.2", needs=(lan.key,)),
            Firewall(netns=router, name=table, body=TABLE.format(here.part.size), needs=(space.key,)),
        )
        return Lowered(items)

    def report(self, here: Here[MountOnNode], lowered: Lowered, outcome: Outcome) -> Report[State]:
        wrong = {**outcome.failed, **outcome.pending, **outcome.blocked}
        return Report(waiting(Reason.PROGRESSING, str(wrong)) if wrong else ready())


def workload(number: int, generation: int = 1) -> NodeWorkload:
    name = f"net-{number}"
    owner = Owner(kind="Network", namespace="default", name=name, uid=name)
    meta = Meta(name=name, namespace="zos-node-n", uid=name, generation=generation, creation_timestamp="2030-01-01T00:00:00Z")
    return KINDS.workload(metadata=meta, spec=KINDS.workload.asking(owner, MountOnNode(size=generation)))


class Touched:
    """The namespaces of ours that anything is done in, by this process or by a program that it starts."""

    def __init__(self) -> None:
        self.routers: set[str] = set()
        self.programs = 0
        sys.addaudithook(self._hear)

    def clear(self) -> None:
        self.routers.clear()
        self.programs = 0

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "subprocess.Popen"):
            self.programs += event != "open"
            words = arguments[1] if event != "open" else (arguments[0],)
            if isinstance(words, list | tuple):
                for word in words:
                    self.routers.update(re.findall(r"/run/netns/(zos-[a-z2-7]{10})", str(word)))


class Most:
    """The most descriptors and threads that this process had, looked at all the while."""

    def __init__(self) -> None:
        self.descriptors = self.threads = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.descriptors = max(self.descriptors, len(os.listdir("/proc/self/fd")))
            self.threads = max(self.threads, threading.active_count())
            time.sleep(0.005)


async def main(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for command in ("mount --make-rprivate /", "mkdir -p /run/netns", "mount -t tmpfs none /run/netns", "ip link set lo up"):
        subprocess.run(command.split(), check=True)
    touched, most = Touched(), Most()
    due = asyncio.Event()
    drivers = (LinkDriver(), PrefixDriver(), SegmentDriver(), FirewallDriver(Path(tempfile.mkdtemp())))
    networks = Networks()
    kind = OnNode(MountOnNode, None, networks.lower, networks.report)
    converger = Converger(
        drivers, lambda _: kind, lambda _: Facts(node="n", now=time.time()), changed=due.set,
        slow_done=lambda *_: None, clock=time.monotonic, wall=time.time,
    )  # fmt: skip
    converger.watch()
    wanted = {f"net-{number}": workload(number) for number in range(count)}

    async def settled() -> tuple[Pass, float]:
        began = time.monotonic()
        while True:
            due.clear()
            result = await converger.converge(wanted, may_remove=True)
            done = result.complete and all(report.verdict.ready for report in result.reports.values())
            if done and not result.again and not due.is_set():
                return result, time.monotonic() - began
            if (
                not due.is_set() and not result.again
            ):  # a busy machine: what looks or works beside the loop tells when it is done
                await asyncio.wait_for(due.wait(), 100)

    async def quiet() -> None:
        """Until nothing is told any more: interfaces tell of some things a second late."""
        with contextlib.suppress(TimeoutError):
            while True:
                await settled()
                await asyncio.wait_for(due.wait(), 3)

    told: dict[str, object] = {}
    result, told["made"] = await settled()
    told["ready"] = sum(report.verdict.ready for report in result.reports.values())
    told["complete"] = result.complete
    told["idle descriptors"], told["idle threads"] = len(os.listdir("/proc/self/fd")), threading.active_count()
    await quiet()

    touched.clear()
    wanted["net-7"] = workload(7, generation=2)
    _, told["changed"] = await settled()
    told["changed touched"], told["changed programs"] = sorted(touched.routers), touched.programs
    await quiet()

    subprocess.run(["ip", "-n", names.router("net-9"), "route", "del", "10.1.0.0/16"], check=True)
    touched.clear()
    await asyncio.wait_for(due.wait(), 5)
    _, told["mended"] = await settled()
    told["mended touched"] = sorted(touched.routers)

    converger.resync()
    touched.clear()
    _, told["resync"] = await settled()
    told["resync touched"] = len(touched.routers)
    told["most descriptors"], told["most threads"] = most.descriptors, most.threads
    await converger.close()
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
