"""Who has a UDP port: told by what the kernel shows of sockets and processes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from zos.drivers.udpport import holder

TABLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"


def shown(proc: Path, *sockets: tuple[int, int], table: str = "udp") -> None:
    """As the kernel shows sockets on ports with inodes."""
    (proc / "self/net").mkdir(parents=True, exist_ok=True)
    lines = [
        f"  {n}: 00000000:{port:04X} 00000000:0000 07 0:0 00:0 0 0 0 {inode} 2 0 0\n" for n, (port, inode) in enumerate(sockets)
    ]
    (proc / "self/net" / table).write_text(TABLE + "".join(lines))


def process(proc: Path, number: int, name: str, *inodes: int) -> None:
    (proc / str(number) / "fd").mkdir(parents=True)
    (proc / str(number) / "comm").write_text(f"{name}\n")
    for n, inode in enumerate(inodes):
        (proc / str(number) / "fd" / str(n)).symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_socket_of_this_process(family: int, address: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        port = sock.getsockname()[1]
        assert (holder(port) or "").endswith(f" (process {os.getpid()})")
    assert holder(port) is None


def test_one_among_others(tmp_path: Path) -> None:
    shown(tmp_path, (51820, 100), (53, 200))
    shown(tmp_path, (51821, 300), table="udp6")
    process(tmp_path, 7, "dnsmasq", 11, 200)
    process(tmp_path, 40, "other wg", 100, 300)
    assert [holder(port, tmp_path) for port in (53, 51820, 51821)] == [
        "dnsmasq (process 7)", "other wg (process 40)", "other wg (process 40)",
    ]  # fmt: skip
    assert [holder(port, tmp_path) for port in (51819, 0)] == [None, None]


def test_what_no_process_has_is_taken_all_the_same(tmp_path: Path) -> None:
    shown(tmp_path, (51820, 100), (0, 101))
    process(tmp_path, 7, "dnsmasq", 11)
    assert "no process here" in (holder(51820, tmp_path) or "")
    assert holder(0, tmp_path) is None  # no port at all
