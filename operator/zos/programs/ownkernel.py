"""``python -m zos.programs.ownkernel TREE INIT ROOM``: what a machine boots that runs the kernel of its image, made of the
image's TREE and our INIT, into the directory ROOM: ``vmlinuz``, and ``initramfs`` with INIT and the modules without which it
would not get to its root. Prints the kernel's version and the file systems that it knows, as JSON.

A stranger wrote what is in TREE. Links in it lead where they would in a guest whose root it is, and never out of it; nothing
but regular files is read, none beyond its bound. Exit code 1: the image is nothing to boot, for the reason that is said;
`TROUBLE`: it could not be read, or nothing be written.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import re
import stat
import struct
import sys
from pathlib import Path

from zos.programs.initramfs import archive, loaded
from zos.programs.kmodules import Modules, NoModule
from zos.programs.packed import BadContent, Content, Digested

KERNEL = "boot/vmlinuz"
#: Exit code.
TROUBLE = 75

#: Bytes of a kernel, of a list of its modules, of a module, and of all that are taken; modules that are.
_KERNEL, _LIST, _MODULE, _ALL, _MOST = 64 << 20, 8 << 20, 16 << 20, 64 << 20, 64
#: Without these there is no root. The bus last, so that each driver is there when its device appears.
_ROOT = ("virtio_blk", "virtio_net", "virtiofs", "overlay", "ext4", "virtio_pci")
#: Taken where they are: checksums, which these file systems ask for by another name, and the power button.
_FIRST = ("crc32c_generic", "crc32c_intel", "button", "evdev")
#: Of disks.
_BTRFS = ("btrfs",)

#: Documentation/arch/x86/boot.rst: the header of a bzImage, of a protocol that tells of 64 bits.
_SETUP_SECTORS, _PARAGRAPHS, _BOOT_FLAG, _MAGIC, _PROTOCOL, _VERSION, _LOAD_FLAGS, _XLOAD_FLAGS = (
    0x1F1,
    0x1F4,
    0x1FE,
    0x202,
    0x206,
    0x20E,
    0x211,
    0x236,
)
_OLDEST, _LOADED_HIGH, _KERNEL_64 = 0x20C, 1, 1
_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+~-]{0,63}")
_FILE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,63}\.ko(\.(gz|xz|zst))?")

#: openat2(2).
_OPENAT2, _NO_MAGICLINKS, _IN_ROOT = 437, 0x02, 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """Why this image can't be booted."""


class Tree:
    """An image's root, read as a guest would see it."""

    def __init__(self, root: str) -> None:
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def read(self, path: str, most: int) -> bytes | None:
        """A file of no more than so many bytes; None: there is no such file. Raises Refused for what is none, or larger."""
        try:
            found = self._look(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise Refused(f"/{path} is a link that leads nowhere: {error.strerror}") from error
            raise
        try:
            info = os.fstat(found)
            if not stat.S_ISREG(info.st_mode):
                raise Refused(f"/{path} is no file")
            if info.st_size > most:
                raise Refused(f"/{path} has {info.st_size} bytes, and {most} is the most")
            # Only now: to open a device or a pipe may already do something.
            with open(f"/proc/self/fd/{found}", "rb") as file:
                content = file.read(most + 1)
        finally:
            os.close(found)
        if len(content) > most:
            raise Refused(f"/{path} has more than {most} bytes")
        return content

    def has(self, path: str) -> bool:
        try:
            os.close(self._look(path))
        except OSError:
            return False
        return True

    def _look(self, path: str) -> int:
        how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS)
        fd: int = _libc.syscall(
            ctypes.c_long(_OPENAT2), ctypes.c_int(self._fd), ctypes.c_char_p(os.fsencode(path)), how, ctypes.c_size_t(len(how))
        )
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        return fd


def release_of(kernel: bytes) -> str:
    """The version that a kernel says it is, which names the directory of its modules. Raises Refused."""
    if len(kernel) < 1024 or kernel[_BOOT_FLAG : _BOOT_FLAG + 2] != b"\x55\xaa" or kernel[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise Refused(f"its /{KERNEL} is no Linux kernel for x86 (a bzImage, as distributions have it)")
    sectors = kernel[_SETUP_SECTORS] or 4
    protocol, at, bits = (struct.unpack_from("<H", kernel, where)[0] for where in (_PROTOCOL, _VERSION, _XLOAD_FLAGS))
    if protocol < _OLDEST or not kernel[_LOAD_FLAGS] & _LOADED_HIGH or not bits & _KERNEL_64:
        raise Refused(f"its /{KERNEL} is no kernel for x86-64, or an older one than 3.8")
    setup = kernel[: (sectors + 1) * 512]
    said = setup[at + 512 : at + 1024].split(b"\0")[0].decode("ascii", "replace").partition(" ")[0] if at else ""
    (paragraphs,) = struct.unpack_from("<I", kernel, _PARAGRAPHS)
    if len(setup) + 16 * paragraphs > len(kernel):
        raise Refused(f"its /{KERNEL} is not complete: it has {len(kernel)} bytes of {len(setup) + 16 * paragraphs}")
    if len(setup) == len(kernel) or not _RELEASE.fullmatch(said):
        raise Refused(f"its /{KERNEL} does not tell its version: it is damaged")
    return said


def modules_of(tree: Tree, release: str) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Files of the initramfs, and the file systems of disks that the kernel knows. Raises Refused."""
    place = f"lib/modules/{release}"
    if not tree.has(place):
        raise Refused(f"the image's kernel {release} has no /{place}: install its package as a whole, modules too")
    dependencies, built_in = (tree.read(f"{place}/modules.{what}", _LIST) for what in ("dep", "builtin"))
    if dependencies is None:
        raise Refused(f"/{place} has no modules.dep: run depmod -a {release} in the image")
    known = Modules.read(dependencies.decode(errors="replace"), (built_in or b"").decode(errors="replace"))
    first = [name for name in _FIRST if known.has(name)]
    try:
        groups = {"always": known.order((*first, *_ROOT))}
    except NoModule as missing:
        raise Refused(
            f"its kernel {release} has no {missing}, neither as a module nor built in, and a machine's root needs that"
        ) from missing
    if all(known.has(name) for name in _BTRFS):
        groups["btrfs"] = known.order((*(name for name in first if name.startswith("crc")), *_BTRFS))
    read = _Contents(tree, place)
    files: dict[str, bytes] = {}
    for group, order in groups.items():
        files |= loaded(group, {path: read.module(path) for path in order})
    return files, ("ext4", *(("btrfs",) if "btrfs" in groups else ()))


class _Contents:
    """Of modules, each read once, all of them bounded together."""

    def __init__(self, tree: Tree, place: str) -> None:
        self._tree = tree
        self._place = place
        self._known: dict[str, bytes] = {}
        self._size = 0

    def module(self, path: str) -> bytes:
        """Not packed: the guest's processor may be an emulated one. Raises Refused."""
        if path not in self._known:
            if not _FILE.fullmatch(path.rpartition("/")[2]):
                raise Refused(f"/{self._place}/modules.dep names {path[:80]!r}, which is no module")
            whole = path.lstrip("/") if path.startswith("/") else f"{self._place}/{path}"
            packed = self._tree.read(whole, _MODULE)
            if packed is None:
                raise Refused(f"/{whole} is missing, which modules.dep names: install the kernel's package as a whole")
            self._known[path] = content = _unpacked(packed, whole)
            self._size += len(content)
            if len(self._known) > _MOST or self._size > _ALL:
                raise Refused(f"its kernel needs more than {_MOST} modules or {_ALL >> 20} MiB of them to get to its root")
        return self._known[path]


def _unpacked(packed: bytes, path: str) -> bytes:
    """Raises Refused."""
    try:
        content, found = Content(Digested(io.BytesIO(packed))), b""
        while piece := content.read():
            found += piece
            if len(found) > _MODULE:
                raise Refused(f"/{path} unpacks to more than {_MODULE >> 20} MiB")
    except BadContent as error:
        raise Refused(f"/{path} can't be unpacked: {error}") from error
    if not found.startswith(b"\x7fELF"):
        raise Refused(f"/{path} is no module")
    return found


def make(root: str, init: Path, room: Path) -> dict[str, object]:
    """Raises Refused, OSError."""
    tree = Tree(root)
    kernel = tree.read(KERNEL, _KERNEL)
    if kernel is None:
        raise Refused(f"its /{KERNEL} leads to what is not there")
    release = release_of(kernel)
    modules, formats = modules_of(tree, release)
    (room / "vmlinuz").write_bytes(kernel)
    with open(room / "initramfs", "xb") as file:
        file.writelines(archive({"init": init.read_bytes(), **modules}))
    return {"release": release, "formats": formats}


def main() -> None:
    _, root, init, room = sys.argv
    try:
        made = make(root, Path(init), Path(room))
    except Refused as refused:
        sys.exit(str(refused))
    except MemoryError:
        sys.exit("its modules want more memory than they get to be unpacked")
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        sys.exit(TROUBLE)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
