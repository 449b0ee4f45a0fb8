"""What a node lacks is told with what to do about it, and what it has is not told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from zos.programs.node import cgroup, preflight, trials
from zos.programs.node.preflight import Finding, look


class Host:
    """The files by which a host with everything is known, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.root, self.proc = directory / "root", directory / "proc"
        self.release = "6.1.0-13-amd64"
        self.failed: Mapping[str, str] = {}
        for name in ("dev/net/tun", "dev/kvm", "dev/fuse", "dev/loop-control"):
            self.write(self.root / name, "")
        self.write(self.root / "etc/resolv.conf", "nameserver 192.0.2.1\n")
        (self.root / "var/lib/zos").mkdir(parents=True)
        self.write(self.proc / "self/status", "Name:\tpython3\nCapEff:\t000001ffffffffff\n")
        self.write(self.proc / "1/cgroup", "0::/init.scope\n")
        for process in ("self", "1"):
            (self.proc / process / "ns").mkdir()
            (self.proc / process / "ns/net").symlink_to("net:[4026531840]")
        self.write(self.proc / "sys/fs/inotify/max_user_instances", "128\n")
        (self.proc / "sys/net/ipv6").mkdir(parents=True)
        self.write(self.proc / "sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
        self.write(self.proc / "sys/net/ipv4/ip_local_reserved_ports", "8080,50000-54000\n")

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def found(self) -> list[Finding]:
        return list(look(self.root, self.proc, self.release, lambda: self.failed))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    disk(monkeypatch)
    return Host(tmp_path)


def disk(monkeypatch: pytest.MonkeyPatch, *, free: int = 100, flags: int = 0) -> None:
    """Not the one of the machine that tests run on. ``free`` in GiB."""
    block = 2**20
    found = os.statvfs_result((block, block, 200 << 10, free << 10, free << 10, 100, 100, 100, flags, 255))
    monkeypatch.setattr("os.statvfs", lambda _: found)


def test_a_host_with_everything_has_all_that_is_needed(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.found() == []


def other_network(file: Path) -> None:
    file.unlink()
    file.symlink_to("net:[4026532000]")


CASES: Mapping[str, tuple[Callable[[Host], object], bool, str, str]] = {
    # what is done to the host; whether it is fatal; what is missing; what to do
    "tun": (lambda host: (host.root / "dev/net/tun").unlink(), True, "/dev/net/tun is missing", "load the module tun"),
    "kvm": (lambda host: (host.root / "dev/kvm").unlink(), False, "/dev/kvm is missing", "kvm_intel or kvm_amd"),
    "fuse": (lambda host: (host.root / "dev/fuse").unlink(), False, "/dev/fuse is missing", "module fuse"),
    "loop": (lambda host: (host.root / "dev/loop-control").unlink(), False, "/dev/loop-control", "module loop"),
    "names": (lambda host: (host.root / "etc/resolv.conf").unlink(), False, "no /etc/resolv.conf", "name the node's servers"),
    "ipv6": (lambda host: (host.proc / "sys/net/ipv6").rmdir(), False, "no IPv6", "ipv6.disable"),
    "ports": (
        lambda host: host.write(host.proc / "sys/net/ipv4/ip_local_reserved_ports", "52000-52100\n"),
        False,
        "UDP ports of WireGuard",
        "net.ipv4.ip_local_reserved_ports=52000-53999",
    ),
    "kernel": (
        lambda host: setattr(host, "release", "5.10.0-8-amd64"),
        True,
        "the kernel is 5.10.0-8-amd64",
        "install a newer",
    ),
    "kernel without a number": (lambda host: setattr(host, "release", "mine"), True, "the kernel is mine", "install a newer"),
    "pod without rights": (
        lambda host: host.write(host.proc / "self/status", "CapEff:\t00000000a80425fb\n"),
        True,
        "may not do what nodes' pods do",
        "privileged: true",
    ),
    "pod without the host's processes": (
        lambda host: host.write(host.proc / "1/cgroup", "0::/kubepods.slice/kubepods-pod1.slice/cri-1.scope\n"),
        True,
        "is a pod's",
        "hostPID: true",
    ),
    "pod without the host's network": (
        lambda host: other_network(host.proc / "self/ns/net"),
        True,
        "a network of its own",
        "hostNetwork: true",
    ),
    "no groups of pods": (
        lambda host: setattr(host, "failed", {trials.PODS_GROUP: "none"}),
        True,
        "control groups are not found (none)",
        "cgroupsPerQOS",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_said_with_what_helps(host: Host, case: str) -> None:
    spoil, fatal, missing, helps = CASES[case]
    spoil(host)
    (finding,) = host.found()
    assert finding.fatal is fatal
    assert missing in finding.what
    assert helps in finding.what


@pytest.mark.parametrize(
    ("flags", "free", "fatal", "missing"),
    [
        (os.ST_RDONLY, 100, True, "can't be written to"),
        (os.ST_NOEXEC, 100, True, "noexec"),
        (0, 7, False, "7.0 GiB free"),
        (0, 0, True, "0.0 GiB free"),
    ],
)
def test_the_disk_is_looked_at(
    host: Host, monkeypatch: pytest.MonkeyPatch, flags: int, free: int, fatal: bool, missing: str
) -> None:
    disk(monkeypatch, free=free, flags=flags)
    (finding,) = host.found()
    assert finding.fatal is fatal
    assert missing in finding.what
    assert "/var/lib/zos" in finding.what


def test_a_node_that_has_its_programs_is_used_however_full_it_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free=0)
    host.write(host.root / "var/lib/zos/runtime/.new-v1/complete", "{}")
    assert [finding.fatal for finding in host.found()] == [True]
    host.write(host.root / "var/lib/zos/runtime/v1/complete", "{}")
    assert [finding.fatal for finding in host.found()] == [False]


@pytest.mark.parametrize("name", sorted(trials.NAMES - {trials.PODS_GROUP}))
def test_whatever_the_kernel_does_not_make_is_said(host: Host, name: str) -> None:
    host.failed = {name: "Operation not supported"}
    (finding,) = host.found()
    assert finding.fatal is (name not in {"wireguard", "ext4", "fuse"})
    assert "(Operation not supported)" in finding.what
    assert re.search(r"CONFIG_\w+", finding.what)
    assert "/etc/modules-load.d" in finding.what


def test_what_can_not_be_looked_at_is_said_and_the_rest_is_looked_at(host: Host) -> None:
    (host.proc / "sys/net/ipv4/ip_local_port_range").unlink()
    (host.root / "dev/kvm").unlink()
    first, second = sorted(finding.what for finding in host.found())
    assert "/dev/kvm is missing" in first
    assert "ip_local_port_range could not be looked at: No such file" in second


def test_a_note_is_no_reason_to_refuse(host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def passed() -> bool:
        found = host.found()
        monkeypatch.setattr(preflight, "look", lambda: iter(found))
        return preflight.passed()

    assert passed()
    assert capsys.readouterr().out == "this node has all that is needed\n"
    (host.root / "dev/kvm").unlink()
    assert passed()
    assert capsys.readouterr().out.startswith("note: /dev/kvm is missing")
    (host.root / "dev/net/tun").unlink()
    assert not passed()
    assert "NOT MET: /dev/net/tun is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "above"),
    [
        ("0::/kubepods.slice/kubepods-pod1.slice/cri-1.scope", ""),
        ("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice", "kubelet.slice"),
        ("0::/zos-1/kubepods/burstable/pod1/c1", "zos-1"),
    ],
)
def test_the_kubelets_groups_are_found_however_it_calls_them(line: str, above: str) -> None:
    assert cgroup.pod_of(line, False, lambda _: True) == (".", line[4:], above)


def test_who_is_in_no_pod_has_no_groups_beside_it() -> None:
    assert cgroup.pod_of("0::/system.slice/containerd.service", False, lambda _: True) is None
