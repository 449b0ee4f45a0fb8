"""Tables and counters, asked of the kernel, in a namespace of the test's own."""

from __future__ import annotations

import subprocess

import pytest

from zos.drivers import DriverError, nftables

#: More than the kernel tells in one message.
MANY = 700
pytestmark = pytest.mark.usefixtures("elsewhere")


def nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


async def test_tables_of_every_family() -> None:
    assert await nftables.names("") == []
    tables = [(family, f"t-{family}") for family in ("inet", "ip", "ip6", "arp", "bridge")]
    nft("".join(f"table {family} {name}\n" for family, name in tables))
    assert sorted(await nftables.names("")) == sorted(tables)


async def test_more_than_one_message_tells_and_while_they_change() -> None:
    nft("".join(f"table inet t-{number} {{ counter passed {{ packets {number} bytes 1; }}; }}\n" for number in range(MANY)))
    expected = {(f"t-{number}", "passed"): number for number in range(MANY)}
    assert len(await nftables.names("")) == MANY
    assert nftables.packets() == expected
    busy = subprocess.Popen(["sh", "-c", "while nft add table ip other && nft delete table ip other; do :; done"])
    try:
        for _ in range(50):
            assert {("inet", table) for table, _ in expected} <= set(await nftables.names(""))
            assert nftables.packets().items() >= expected.items()
    finally:
        busy.kill()
        busy.wait()


async def test_where_there_is_no_namespace() -> None:
    with pytest.raises(DriverError, match="no network namespace"):
        await nftables.names("zos-not-there")
