"""What the guest is made of: the build, and that init reads what the plan writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zos.plan.guest import GuestConfig, GuestFile, GuestInterface, GuestMount, GuestRoute, GuestShareMount
from zos.programs import guestbuild

SOURCES = Path(guestbuild.__file__).parent.parent / "guest"

#: Prints what config.c has read, each value with its length, so that nothing can hide.
PRINTER = r"""
#include "guest.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
void fail(const char *format, ...) { va_list l; va_start(l, format); vprintf(format, l); exit(1); }
void *must_alloc(size_t size) { return calloc(1, size); }
static void say(const char *what, const char *value, size_t n)
{
	printf("%s %zu ", what, n);
	fwrite(value, 1, n, stdout);
	putchar('\n');
}
#define SAY(what, value) say(what, (value) ? (value) : "", strlen((value) ? (value) : ""))
int main(int argc, char **argv)
{
	static struct config c;
	config_read(argv[argc - 1], &c);
	SAY("hostname", c.hostname); SAY("root", c.root); SAY("workdir", c.workdir); SAY("user", c.user);
	printf("stop %d %u\n", c.stop_signal, c.stop_seconds);
	for (size_t i = 0; i < c.n_interfaces; i++) {
		printf("interface %s %u\n", c.interfaces[i].mac, c.interfaces[i].mtu);
		if (c.interfaces[i].ipv6) SAY("ipv6", c.interfaces[i].ipv6);
		for (size_t j = 0; j < c.interfaces[i].n_addresses; j++) SAY("address", c.interfaces[i].addresses[j]);
		for (size_t j = 0; j < c.interfaces[i].n_routes; j++) {
			SAY("to", c.interfaces[i].routes[j].destination); SAY("via", c.interfaces[i].routes[j].gateway);
		}
	}
	for (size_t i = 0; i < c.n_mounts; i++) {
		SAY("source", c.mounts[i].source); SAY("path", c.mounts[i].path);
		if (c.mounts[i].format) SAY("format", c.mounts[i].format);
		else { printf("share %d\n", c.mounts[i].read_only); SAY("inside", c.mounts[i].inside); }
	}
	for (size_t i = 3; i < c.n_files; i++) { /* hostname, hosts and resolv.conf come first */
		SAY("file", c.files[i].path); printf("mode %o\n", c.files[i].mode);
		say("content", c.files[i].content, c.files[i].size);
	}
	for (size_t i = 0; i < c.n_env; i++) SAY("env", c.env[i]);
	for (size_t i = 0; i < c.n_args; i++) SAY("arg", c.args[i]);
}
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reader")
    (directory / "printer.c").write_text(PRINTER)
    # With the sanitizers: a reader of what users write must not overrun anything.
    command = ["gcc", "-std=gnu17", "-g", "-fsanitize=address,undefined", "-D_GNU_SOURCE", f"-I{SOURCES}"]
    subprocess.run([*command, "-o", directory / "reader", directory / "printer.c", SOURCES / "config.c"], check=True)
    return directory / "reader"


def read(reader: Path, directory: Path, text: bytes) -> tuple[int, bytes]:
    path = directory / "config"
    path.write_bytes(text + bytes(-len(text) % 512))  # as a disk: whole sectors
    done = subprocess.run([reader, path], capture_output=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert done.stderr == b""
    return done.returncode, done.stdout


def said(what: str, value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogateescape")
    return f"{what} {len(encoded)} ".encode() + encoded + b"\n"


# Whatever a manifest can hold: no zero bytes, which neither an argument nor a variable can have.
words = st.text(st.characters(min_codepoint=1, exclude_categories=("Cs",)), max_size=40)
names = st.text("ABCXYZ_az09", min_size=1, max_size=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    argv=st.lists(words, min_size=1, max_size=5),
    environment=st.lists(st.tuples(names, words), max_size=5),
    paths=st.lists(words.map(lambda word: f"/{word}"), max_size=3),
    content=st.text(st.characters(exclude_categories=("Cs",)), max_size=200),
)
def test_init_reads_what_the_plan_writes(
    reader: Path, tmp_path: Path, argv: list[str], environment: list[tuple[str, str]], paths: list[str], content: str
) -> None:
    config = GuestConfig(
        hostname="web",
        argv=tuple(argv),
        environment=tuple(environment),
        working_dir="/srv/with space",
        user="web:www",
        interfaces=(
            GuestInterface(
                mac="02:00:00:AA:00:01",
                mtu=1420,
                addresses=("10.0.0.2/24", "2001:db8::2/64"),
                routes=(GuestRoute(destination="0.0.0.0/0", gateway="10.0.0.1"), GuestRoute(destination="10.9.0.0/16")),
            ),
            GuestInterface(mac="02:00:00:aa:00:02", mtu=1500, ipv6="slaac"),
        ),
        mounts=(
            *(GuestMount(serial=f"s{i}", path=path) for i, path in enumerate(paths)),
            *(GuestShareMount(tag=f"t{i}", path=path, read_only=i == 1, inside="f s" * i) for i, path in enumerate(paths)),
            GuestMount(serial="last", path="/last", format="ext4"),
        ),
        files=(GuestFile(path="/etc/a b%c", content=content, mode=0o640),),
        stop_signal=3,
        stop_seconds=9,
    )
    expected = said("hostname", "web") + said("root", "zos-root") + said("workdir", "/srv/with space")
    expected += said("user", "web:www") + b"stop 3 9\n"
    expected += b"interface 02:00:00:aa:00:01 1420\n" + said("address", "10.0.0.2/24") + said("address", "2001:db8::2/64")
    expected += said("to", "0.0.0.0/0") + said("via", "10.0.0.1") + said("to", "10.9.0.0/16") + said("via", "")
    expected += b"interface 02:00:00:aa:00:02 1500\n" + said("ipv6", "slaac")
    for i, path in enumerate(paths):
        expected += said("source", f"s{i}") + said("path", path) + said("format", "btrfs")
    for i, path in enumerate(paths):
        expected += said("source", f"t{i}") + said("path", path) + f"share {int(i == 1)}\n".encode() + said("inside", "f s" * i)
    expected += said("source", "last") + said("path", "/last") + said("format", "ext4")
    expected += said("file", "/etc/a b%c") + b"mode 640\n" + said("content", content)
    expected += b"".join(said("env", f"{name}={value}") for name, value in environment)
    expected += b"".join(said("arg", word) for word in argv)
    assert read(reader, tmp_path, config.render().encode()) == (0, expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", b"not one that this guest understands"),
        (b"zos-guest 2\nend\n", b"not one that this guest understands"),
        (b"zos-guest 1\nhostname web\n", b"cut off before its end"),
        (b"zos-guest 1\nhostname web\nhostna", b'a line of "hostna" with 0 fields'),
        (b"zos-guest 1\naddress 10.0.0.1/24\nend\n", b'a line of "address" with 1 fields'),
        (b"zos-guest 1\ndisk a b\nend\n", b'a line of "disk" with 2 fields'),
        (b"zos-guest 1\n" + b"disk a b /c\n" * 65 + b"end\n", b'more than 64 lines of "disk"'),
        (b"zos-guest 1\n" + b"disk a b /c\n" * 64 + b"share a /b ro\n" * 17 + b"end\n", b'more than 16 lines of "share"'),
        (b"zos-guest 1\nshare a /b\nend\n", b'a line of "share" with 2 fields'),
        (b"zos-guest 1\nshare a /b rx\nend\n", b'a line of "share" with 3 fields'),
        (b"zos-guest 1\n" + b"env A=b\n" * 4097 + b"end\n", b'more than 4096 lines of "env"'),
    ],
)
def test_init_refuses_what_it_does_not_understand(reader: Path, tmp_path: Path, text: bytes, words: bytes) -> None:
    code, told = read(reader, tmp_path, text)
    assert code == 1
    assert words in told


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=600))
def test_noise_is_refused_without_an_overrun(reader: Path, tmp_path: Path, noise: bytes) -> None:
    assert read(reader, tmp_path, b"zos-guest 1\n" + noise)[0] in (0, 1)


@pytest.mark.usefixtures("machines_network")
def test_the_build_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = guestbuild.build(tmp_path / "guest")
    stamp = (first / "initramfs").stat().st_mtime_ns
    assert guestbuild.build(tmp_path / "guest") == first
    assert (first / "initramfs").stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "guest").iterdir()] == [first.name]
    listed = subprocess.run(
        ["cpio", "-t", "--quiet"], input=(first / "initramfs").read_bytes(), capture_output=True, check=True
    )
    names = listed.stdout.decode().split()
    assert {"init", "modules/always", "modules/btrfs", "modules/virtiofs.ko", "dev/console"} <= set(names)


def test_a_machine_without_package_lists_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guestbuild, "_META", "linux-image-of-nowhere")
    with pytest.raises(guestbuild.BuildError, match="apt-get update"):
        guestbuild.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
