"""What a node's pods bring up outlives them, and is taken over by the next ones; whatever of it ends comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnode import Pod, PodNode, soon
from zos.drivers import ownroot

_PIN = "/run/zos/tree/mnt"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PodNode]:
    host = PodNode(tmp_path)
    try:
        host.image("v1")
        yield host
    finally:
        host.close()


@pytest.fixture
def runtime(host: PodNode) -> Iterator[Pod]:
    pod = host.pod("v1", "runtime")
    pod.until("ready;")
    yield pod
    pod.kill()


def test_what_it_brought_up_outlives_a_pod(host: PodNode, runtime: Pod) -> None:
    before = host.running()
    assert {name: image for name, (_, image) in before.items()} == dict.fromkeys(
        ("s6-svscan", "s6-supervise", "s6-log", "virtlogd", "libvirtd"), "v1"
    )
    assert runtime.is_ready()
    assert host.say("v1", "ready")[0] == 1, "what runs is not its own doing"
    runtime.kill()
    assert host.running() == before
    after = host.pod("v1", "runtime")
    try:
        assert "started" not in after.until("ready;")
        assert host.running() == before
        after.signal(signal.SIGTERM)
        assert after.ended() == 0
    finally:
        after.kill()
    assert host.running() == before


def test_another_image_takes_over_what_costs_nobody_anything(host: PodNode, runtime: Pod) -> None:
    before = host.running()
    host.image("v2")
    host.image("unused")
    runtime.signal(signal.SIGTERM)
    assert runtime.ended() == 0
    after = host.pod("v2", "runtime")
    try:
        said = after.until("ready;")
    finally:
        after.kill()
    now = host.running()
    assert now["libvirtd"][1] == "v2"
    assert now["libvirtd"][0] != before["libvirtd"][0]
    assert now["virtlogd"] == before["virtlogd"]
    assert now["s6-svscan"] == before["s6-svscan"]
    assert "unused" in said
    assert not (host.state / "runtime/unused/complete").exists()
    assert (host.state / "runtime/v1/complete").exists(), "somebody runs from it"


def test_what_is_mounted_stays_when_a_copy_goes(host: PodNode, runtime: Pod) -> None:
    host.image("old")
    assert host.say("old", "exec", "ip", "netns", "add", "zos-stays")[0] == 0
    runtime.signal(signal.SIGTERM)
    assert runtime.ended() == 0
    after = host.pod("v1", "runtime")
    try:
        assert "taken away, as nobody runs from them: old" in after.until("ready;")
        assert host.say("v1", "exec", "ip", "netns", "exec", "zos-stays", "true") == (0, "")
    finally:
        after.kill()


def test_a_service_of_another_image_is_started_where_it_is(host: PodNode, runtime: Pod) -> None:
    host.image("v2")
    assert host.say("v2", "exec", "true") == (0, "")
    script = ownroot.script(["sh", "-c", "pwd; stat -c %i /"], "v2")
    _, root = host.say("v2", "exec", "stat", "-c", "%i", "/")
    assert host.say("v1", "exec", "sh", "-c", f"mkdir /run/service/.probe && cd /run/service/.probe && {script}") == (
        0,
        f"/run/service/.probe\n{root}",
    )


def test_a_copy_that_was_made_anew_is_what_programs_run_from(host: PodNode, runtime: Pod) -> None:
    copy = "/var/lib/zos/runtime/v1/root"
    host.run("sh", "-c", f"umount -l {copy}; rm -rf /mnt/v1")
    host.image("v1")
    host.run("touch", f"{copy}/opt/zos/anew")
    assert host.say("v1", "exec", "ls", "/opt/zos/anew") == (0, "/opt/zos/anew\n")


@pytest.mark.parametrize("victim", ["s6-svscan", "libvirtd", "virtlogd"])
def test_what_was_killed_comes_back(host: PodNode, runtime: Pod, victim: str) -> None:
    killed = host.running()[victim][0]
    host.kill(killed)
    soon(lambda: host.running().get(victim, (killed, ""))[0] != killed)
    soon(runtime.is_ready)


def test_a_supervisor_that_outlived_the_first_process_comes_back_as_well(host: PodNode, runtime: Pod) -> None:
    host.kill(host.running()["s6-svscan"][0])
    runtime.until("starting it again")
    before = host.all_running("s6-supervise")
    soon(lambda: "s6-svscan" in host.running())
    libvirtd = host.running()["libvirtd"][0]
    for victim in before:
        host.kill(victim)
    soon(lambda: len(host.all_running("s6-supervise")) == len(before))
    assert not host.all_running("s6-supervise") & before
    host.kill(libvirtd)
    soon(lambda: host.running().get("libvirtd", (libvirtd, ""))[0] != libvirtd)


@pytest.mark.parametrize("lost", ["proc", "run", "sys dev run proc"])
def test_a_directory_that_was_deleted_in_a_copy_leaves_nobody_without_what_was_mounted_on_it(
    host: PodNode, runtime: Pod, lost: str
) -> None:
    runtime.kill()
    before = host.running()
    host.run("sh", "-c", f"cd /var/lib/zos/runtime/v1/root && rm -rf {lost} && mkdir {lost}")
    after = host.pod("v1", "runtime")
    try:
        after.until("ready;")
        host.run("kill", "-9", str(before["libvirtd"][0]))
        soon(lambda: host.running().get("libvirtd", before["libvirtd"]) != before["libvirtd"] and after.is_ready())
        assert host.running()["s6-svscan"] == before["s6-svscan"]
    finally:
        after.kill()


@pytest.mark.parametrize("lost", ["gone", "empty", "another's"])
def test_a_first_process_that_nobody_knows_the_number_of_is_found(host: PodNode, runtime: Pod, lost: str) -> None:
    kept = {name: one for name, one in host.running().items() if name in ("s6-svscan", "virtlogd", "libvirtd")}
    runtime.kill()
    written = host.state / "runtime/first"
    written.unlink()
    if lost != "gone":
        written.write_text("" if lost == "empty" else "1 1\n")
    after = host.pod("v1", "runtime")
    try:
        assert "no longer told its number" in after.until("ready;")
        assert {name: host.running()[name] for name in kept} == kept
        assert after.is_ready()
    finally:
        after.kill()


def test_why_the_first_process_does_not_start_is_said_by_the_pod(host: PodNode, runtime: Pod) -> None:
    runtime.kill()
    assert host.say("v1", "exec", "sh", "-c", "rm -r /run/service/.s6-svscan && touch /run/service/.s6-svscan")[0] == 0
    host.run("kill", "-9", str(host.running()["s6-svscan"][0]))
    code, said = host.say("v1", "runtime")
    assert code == 1
    assert "s6-svscan: fatal: " in said
    assert "did not start: what it said is above" in said


def test_what_supervisors_complain_of_leaves_room_for_others(host: PodNode, runtime: Pod) -> None:
    """Those that outlived the first process have its successor's complain, each once a second."""
    host.kill(host.running()["s6-svscan"][0])
    runtime.until("starting it again")
    log = "/run/zos/first/log"
    soon(lambda: "already running" in host.say("v1", "exec", "cat", log)[1])
    host.say("v1", "exec", "sh", "-c", f"head -c 1000000 /dev/zero >>{log}")
    size = int(host.say("v1", "exec", "stat", "-c", "%s", log)[1])
    assert 0 < size <= 65536
    assert host.say("v1", "exec", "sh", "-c", "head -c 1000000 /dev/zero >/run/zos/others") == (0, "")


def test_an_agent_waits_for_the_runtime_and_runs_beside_it(host: PodNode) -> None:
    agent = host.pod("v1", "agent", "--", "--help")
    agent.until("waiting for the node's runtime")
    runtime = host.pod("v1", "runtime")
    try:
        said = agent.until("--service-dir")
        assert "usage: zos-agent" in said
        assert agent.ended() == 0
    finally:
        runtime.kill()
        agent.kill()


def test_a_command_is_run_where_guests_are(host: PodNode, runtime: Pod) -> None:
    code, said = host.say("v1", "exec", "sh", "-c", "ls /run; readlink /proc/self/root; exit 7")
    assert code == 7
    assert "libvirt" in said.split()


def test_an_agent_that_runs_keeps_nobody_waiting(host: PodNode, runtime: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for an API server that there is not, for as long as it is let."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    agent = host.pod("v1", "agent", "--", "--node", "n1")
    try:
        agent.until("starts, with at most")
        assert host.say("v1", "exec", "true")[0] == 0
    finally:
        agent.kill()


def test_an_agent_tells_how_it_ended(host: PodNode, runtime: Pod) -> None:
    code, said = host.say("v1", "agent", "--", "--node", "n1", "--accelerator", "none")
    assert code == 2
    assert "invalid choice: 'none'" in said


def test_an_agent_holds_up_nobody_and_ends_with_its_pod(host: PodNode, runtime: Pod) -> None:
    agent = host.pod("v1", "agent", "--", "--node", "n1")
    try:
        agent.until("starts, with at most")
        after = host.pod("v1", "runtime")
        try:
            after.until("ready;")
        finally:
            after.kill()
        agent.signal(signal.SIGTERM)
        assert agent.ended() == 0
        assert not [name for name in host.running() if name.startswith("python")]
    finally:
        agent.kill()


def test_an_agent_ends_with_the_first_process(host: PodNode, runtime: Pod) -> None:
    agent = host.pod("v1", "agent", "--", "--node", "n1")
    try:
        agent.until("starts, with at most")
        host.kill(host.running()["s6-svscan"][0])
        agent.until("the first process of the node's tree has ended")
        assert agent.ended() == 0
    finally:
        agent.kill()


def test_a_node_is_cleaned(host: PodNode, runtime: Pod) -> None:
    runtime.signal(signal.SIGTERM)
    assert runtime.ended() == 0
    (host.state / "disks").mkdir()
    host.run("ip", "link", "add", "u-abcdefghij", "type", "bridge")
    host.run("ip", "link", "add", "keep0", "type", "bridge")
    host.run("nft", "add table inet zos-fetch; add table inet others")
    code, said = host.say("v1", "clean")
    assert code == 0, said
    assert host.running() == {}
    assert "u-abcdefghij" not in host.run("ip", "link")
    assert "keep0" in host.run("ip", "link")
    assert host.run("nft", "list", "tables").split() == ["table", "inet", "others"]
    assert host.run("sh", "-c", f"grep -c {_PIN} /proc/1/mountinfo || true").strip() == "0"
    assert (host.state / "disks").is_dir(), "nobody asked for that"
    again = host.pod("v1", "runtime")
    try:
        again.until("ready;")
    finally:
        again.kill()
    assert set(host.running()) >= {"s6-svscan", "libvirtd"}


def test_a_node_is_not_cleaned_under_its_pods(host: PodNode, runtime: Pod) -> None:
    before = host.running()
    pod = host.pod("v1", "clean")
    try:
        pod.until("waiting for the grid's pods to leave")
        assert host.running() == before
        runtime.signal(signal.SIGTERM)
        assert runtime.ended() == 0
        assert "ended: " in pod.rest()
        assert pod.ended() == 0
    finally:
        pod.kill()
    assert host.running() == {}


def test_it_says_what_a_node_lacks(host: PodNode) -> None:
    host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
    code, said = host.say("v1", "preflight")
    assert code == 1
    assert "NOT MET: /dev/net/tun is missing" in said
    assert "load the module tun at boot" in said
    assert host.say("v1", "runtime")[0] == 1
    assert host.running() == {}
