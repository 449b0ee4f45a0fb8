"""What dies comes back, what lives is left alone, and what is deleted is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from guests import Guests
from harness import CHECKOUT, Grid, obj, until

TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.5; done"

KEEP = "cat /data/f; echo kept >/data/f; sync; echo up; sleep 10000"


@pytest.fixture
def guests(grid: Grid, namespace: str) -> Guests:
    made = Guests(grid, namespace)
    made.network()
    return made


def restarted(guests: Guests, name: str) -> list[str]:
    """What the events of its restarts say of each."""
    words = ("get", "events", "-n", guests.namespace, "-o", "json")
    selector = f"--field-selector=reason=Restarted,involvedObject.kind=ZMachine,involvedObject.name={name}"
    events = json.loads(guests.grid.kubectl(*words, selector))["items"]
    return [event["message"] for event in events]


def ticks(guests: Guests, name: str) -> int:
    """The last that was printed whole: a console is read while it is written, and a kernel may have its say between."""
    return int(re.findall(r"^tick (\d+)\n", guests.console(name), re.MULTILINE)[-1])


def test_libvirtd_dies_and_the_guest_lives(guests: Guests) -> None:
    guests.apply("one", TICK)
    guests.prints("one", "tick 3$")
    pid, died = guests.qemu("one"), guests.grid.kill("n1", "libvirtd")
    until(lambda: guests.grid.service_pid("n1", "libvirtd") not in (died, -1), 10)
    before = ticks(guests, "one")
    guests.prints("one", f"tick {before + 6}$", 20)
    assert guests.qemu("one") == pid
    assert guests.status("one").get("restarts", 0) == 0
    # The agent has found its way back: it still sees what happens to the guest.
    guests.grid.run("n1", "kill", "-9", str(pid))
    until(lambda: guests.status("one").get("restarts", 0) == 1, 30)
    guests.ready("one")


def test_virtlogd_dies_and_the_guest_lives(guests: Guests) -> None:
    guests.apply("one", TICK)
    guests.prints("one", "tick 3$")
    pid = guests.qemu("one")
    guests.grid.kill("n1", "virtlogd")
    guests.apply("two", TICK)
    guests.prints("two", "tick 3$")
    assert guests.qemu("one") == pid


def test_a_guest_that_dies_is_started_again(guests: Guests) -> None:
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size="64Mi"))
    guests.apply(
        "one", "cat /data/f; echo kept >/data/f; sync; echo up; sleep 10000", disks=[{"name": "data", "mountPath": "/data"}]
    )
    guests.prints("one", "^up$")
    restarts = 0
    for who in (guests.qemu, guests.virtiofsd):
        victim, restarts = who("one"), restarts + 1
        guests.ready("one")
        guests.grid.run("n1", "kill", "-9", str(victim))
        # That it is starting again is said for about a second, or not at all where that is over by then: what lasts is this.
        until(lambda restarts=restarts: guests.status("one")["restarts"] == restarts, 20, "it is counted")
        until(lambda restarts=restarts: restarted(guests, "one").count("the guest died") == restarts, 20, "it is told")
        until(lambda restarts=restarts: guests.console("one").splitlines().count("kept") == restarts, 60, "it runs again")
    guests.ready("one")
    assert guests.status("one")["restarts"] == restarts


def test_the_agent_dies_and_guests_do_not_notice(guests: Guests) -> None:
    guests.apply("one", TICK)
    guests.prints("one", "tick 3$")
    pid = guests.qemu("one")
    for _ in range(3):
        guests.grid.kill("n1", "agent")
    guests.apply("two", TICK)
    guests.prints("two", "tick 1$")
    assert guests.qemu("one") == pid
    assert guests.status("one").get("restarts", 0) == 0
    before = ticks(guests, "one")
    guests.prints("one", f"tick {before + 3}$", 20)


def test_a_node_that_crashes_brings_everything_back(guests: Guests) -> None:
    others = [f"other-{number}" for number in range(5)]
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size="64Mi"))
    guests.apply(
        "one", "cat /data/f; echo kept >/data/f; sync; echo up; sleep 10000", disks=[{"name": "data", "mountPath": "/data"}]
    )
    guests.grid.apply(guests.namespace, *(guests.spec(name, "echo begins; sleep 10000") for name in others))
    guests.prints("one", "^up$")
    guests.ready(*others)
    guests.grid.minigrid("crash", "n1")
    guests.grid.minigrid("up")
    guests.prints("one", "^kept$")
    for name in others:
        guests.prints(name, r"^begins$(.*\n)+begins$")
    guests.ready("one", *others)
    for name in ("one", *others):
        assert guests.status(name).get("restarts", 0) == 0, f"the node's end was no crash of {name}"


def left_on(grid: Grid, node: str) -> dict[str, str]:
    """What of ours a node has, by kind of thing."""
    look = {
        "links": "ip -br link | grep -vE '^(lo|eth0|public0|br-public)[@ ]'",
        "namespaces": "ls /run/netns 2>/dev/null | grep zos",
        # But for what keeps fetchers out: it stays once something was fetched.
        "nft": "nft list ruleset | awk '/^table inet zos-fetch /{skip=1} !skip; /^}/{skip=0}'",
        "domains": 'cat /run/libvirt/qemu/*.pid 2>/dev/null | grep -v "$(cat /run/libvirt/qemu/driver.pid)"',
        "processes": "ps ax -o comm | grep -E 'qemu|virtiofsd|wireguard'",
        "disks": "ls /var/lib/zos/disks",
        "machines": "ls /var/lib/zos/machines",
        "files": "ls /var/lib/zos/files",
        "wireguard": "ls /var/lib/zos/wireguard 2>/dev/null",
        "services": "ls /run/service | grep zos-",
        "logs": "ls /var/log/libvirt/qemu 2>/dev/null",
    }
    said = {what: grid.run(node, "sh", "-c", command, check=False).strip() for what, command in look.items()}
    return {what: text for what, text in said.items() if text}


def test_deleted_means_gone(grid: Grid, namespace: str) -> None:
    guests = Guests(grid, namespace)
    until(lambda: left_on(grid, "n1") == {}, 20, "something was left by an earlier test")
    before = {node: left_on(grid, node) for node in ("n1", "n2", "n3")}
    guests.network("n1", "n2", "n3")
    grid.apply(namespace, obj("ZMount", "data", size="64Mi"), obj("ZMount", "unused", size="64Mi", nodeName="n2"))
    guests.apply("one", TICK, disks=[{"name": "data", "mountPath": "/data"}])
    guests.apply("two", TICK, nodeName="n3")
    guests.ready("one", "two")
    # In an order in which nothing can go at once: each waits and says for whom.
    grid.kubectl("delete", "network", "private", "-n", namespace, "--wait=false")
    grid.kubectl("delete", "zmount", "--all", "-n", namespace, "--wait=false")
    grid.says(namespace, "network", "private", "one")
    grid.says(namespace, "zmount", "data", "one")
    assert guests.status("one")["state"] == "Running"
    grid.kubectl("delete", "zmachine", "--all", "-n", namespace, "--timeout=60s")
    until(lambda: not any(grid.items(kind, namespace) for kind in ("networks", "zmounts", "zmachines")), 60)
    for node in before:
        until(lambda node=node: left_on(grid, node) == before[node], 20, f"{node} has {left_on(grid, node)}")


@pytest.fixture
def small() -> Iterator[Grid]:
    made = Grid(f"e{os.getpid() % 100000}")
    made.minigrid("up", "--nodes", "1")
    yield made
    made.minigrid("down", check=False)


def test_an_empty_api_server_erases_nothing(small: Grid) -> None:
    small.push_image()
    small.kubectl("create", "namespace", "x")
    guests = Guests(small, "x")
    guests.network()
    small.apply("x", obj("ZMount", "data", size="64Mi"))
    guests.apply("one", TICK, disks=[{"name": "data", "mountPath": "/data"}])
    guests.prints("one", "tick 2$")
    look = "cd /var/lib/zos && ls disks && sha256sum disks/mount-*.json && stat -c '%n %s %i' disks/*.raw"
    disks = small.run("n1", "sh", "-c", look)
    assert disks.count(".raw") >= 4
    pid = guests.qemu("one")
    # The same address and certificates, and nothing in it.
    services = ("controller-1", "controller-2", "controller-manager", "apiserver", "etcd")
    for service in services:
        # Killed: an API server that is asked to end waits a minute for those who watch.
        small.run("cp", "s6-svc", "-wD", "-dk", f"/run/service/{service}", check=False)
    shutil.rmtree(small.root / "hosts" / "cp" / "etcd")
    for service in reversed(services):
        small.run("cp", "s6-svc", "-u", f"/run/service/{service}", check=False)
    until(lambda: small.kubectl("get", "--raw", "/readyz", check=False).strip() == "ok", 180)
    # CRDs, rights and the node, as on the first day. It waits for the node in vain: that is bound to the cluster it was in.
    up = subprocess.Popen([CHECKOUT / "hack/minigrid", "up", "--name", small.name, "--nodes", "1"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: small.get("gridnode", "n1") is not None, 90)
        small.kill("n1", "agent")
        until(lambda: small.service_pid("n1", "agent") > 0, 20)
        time.sleep(10)  # long enough for whatever an agent would do to what it does not know
    finally:
        up.kill()
        up.wait()
    assert small.run("n1", "sh", "-c", look) == disks
    assert small.run("n1", "sh", "-c", f"kill -0 {pid} && echo alive").strip() == "alive"
