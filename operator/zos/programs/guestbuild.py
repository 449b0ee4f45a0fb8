"""Builds what container-mode guests boot: Debian's cloud kernel as it is, and an initramfs of the project's own init.

``python -m zos.programs.guestbuild --output DIR`` prints ``DIR/<key>``, in which ``vmlinuz``, ``initramfs`` and its ``init``
are. The key names the kernel's version and the init's sources: what exists under it is right and is not built again. With
``--made`` it builds nothing, and prints the newest that was made of these sources.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zos.programs.initramfs import archive, loaded
from zos.programs.kmodules import Modules, NoModule

_META = "linux-image-cloud-amd64"
_SOURCES = Path(__file__).parent.parent / "guest"
_CFLAGS = ("-std=gnu17", "-O2", "-static", "-s", "-Wall", "-Wextra", "-D_GNU_SOURCE")

#: What the guest loads at every boot (the bus last, so that each driver is there when its device appears), and what only
#: where a disk needs it.
_MODULES = {
    "always": ("virtio_blk", "virtio_net", "virtiofs", "overlay", "button", "evdev", "virtio_pci"),
    "btrfs": ("crc32c_intel", "btrfs"),
}
#: Raise it when this file makes something else of the same sources.
_RECIPE = "2"


class BuildError(Exception):
    """What is missing, and how to get it."""


def build(output: Path, deb: Path | None = None) -> Path:
    """Gives the directory with kernel and initramfs, made unless it exists. Raises BuildError."""
    package, version = offered() if deb is None else _inside(deb)
    target = output / f"{version}-{_digest(_SOURCES.glob('*.[ch]'))}"
    if (target / "initramfs").exists():
        return target
    missing = [tool for tool in ("gcc", "depmod", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise BuildError(f"missing: {', '.join(missing)}; run: apt-get install gcc libc6-dev kmod dpkg")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=output) as work:
        room = Path(work)
        kernel = unpacked(deb or download(package, version, room), room / "kernel")
        made = room / "made"
        made.mkdir()
        shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), made / "vmlinuz")
        init = room / "init"
        _run("gcc", *_CFLAGS, "-o", str(init), *map(str, sorted(_SOURCES.glob("*.c"))), timeout=300)
        shutil.copy(init, made / "init")  # for kernels of images (`zos.programs.ownkernel`)
        files = {"init": init.read_bytes(), **modules(kernel, _MODULES)}
        (made / "initramfs").write_bytes(b"".join(archive(files)))
        try:
            made.rename(target)
        except OSError:
            if not (target / "initramfs").exists():  # else somebody else built the same in the meantime
                raise
    return target


def offered() -> tuple[str, str]:
    """Package and version of the kernel that this Debian offers. Raises BuildError."""
    shown = _run("apt-cache", "show", "--no-all-versions", _META, check=False)
    found = re.search(r"^Depends: (linux-image-[^ ]+-cloud-amd64) \(= ([^)]+)\)", shown.stdout, re.MULTILINE)
    if found is None:
        raise BuildError(f"this machine's package lists don't know {_META}; run: apt-get update")
    return found[1], found[2]


def _inside(deb: Path) -> tuple[str, str]:
    package, version = (_run("dpkg-deb", "-f", str(deb), "Package", "Version")).stdout.splitlines()
    return package.partition(": ")[2], version.partition(": ")[2]


def download(package: str, version: str, room: Path) -> Path:
    """The package's file, put into ``room``. Raises BuildError."""
    print(f"downloading {package} {version}", file=sys.stderr)
    # apt-get writes to the working directory, and knows no option for another.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}"]
    _run("env", "-C", str(room), *command, timeout=1800)
    return next(room.glob("*.deb"))


def unpacked(deb: Path, kernel: Path) -> Path:
    """What is in the package, in directory ``kernel``, its modules indexed. Raises BuildError."""
    _run("dpkg-deb", "-x", str(deb), str(kernel), timeout=300)
    _run("depmod", "-b", str(kernel), next((kernel / "lib" / "modules").iterdir()).name, timeout=120)
    return kernel


def modules(kernel: Path, groups: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """By path in the initramfs: modules, and a list for each group in the order in which they load. Raises BuildError."""
    release = next((kernel / "lib" / "modules").iterdir())
    known = Modules.read((release / "modules.dep").read_text(), (release / "modules.builtin").read_text())
    files: dict[str, bytes] = {}
    for group, names in groups.items():
        try:
            order = known.order(names)
        except NoModule as missing:
            raise BuildError(f"the kernel has no module {missing}") from missing
        files |= loaded(group, {path: _content(release / path) for path in order})
    return files


def _content(module: Path) -> bytes:
    """The module, not compressed: the guest's processor may be an emulated one."""
    if module.suffix == ".zst":
        _run("zstd", "-d", "-q", str(module))
        module = module.with_suffix("")
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content


def _run(*argv: str, timeout: float = 30.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{argv[0]}: {error}") from error
    if check and done.returncode != 0:
        raise BuildError(f"{argv[0]}: {done.stderr.strip() or done.stdout.strip() or f'exit code {done.returncode}'}")
    return done


def made(output: Path) -> Path | None:
    """The directory that was made last of these sources, whichever others there are. None: there is none."""
    return newest(output, _digest(_SOURCES.glob("*.[ch]")))


def newest(output: Path, digest: str) -> Path | None:
    found = sorted(output.glob(f"*-{digest}/initramfs"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def _digest(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256(repr((_RECIPE, _CFLAGS, _MODULES)).encode())
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(prog="zos-guestbuild", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory of all builds")
    parser.add_argument("--deb", type=Path, help="a kernel package to take instead of the one that Debian offers")
    parser.add_argument("--made", action="store_true", help="build nothing; exit code 1 where there is none of these sources")
    arguments = parser.parse_args()
    if arguments.made:
        there = made(arguments.output.absolute())
        sys.exit(print(there) if there is not None else 1)
    try:
        print(build(arguments.output.absolute(), arguments.deb))
    except BuildError as error:
        sys.exit(f"guestbuild: {error}")


if __name__ == "__main__":
    os.umask(0o022)
    main()
