"""What a kernel unpacks into memory and begins with: an archive of our init and the modules that it loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zos.programs.kmodules import name_of


def loaded(group: str, modules: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of an initramfs: modules, by their paths in the order of loading, and the list by which init loads them."""
    files = {f"modules/{name_of(path)}.ko": content for path, content in modules.items()}
    return files | {f"modules/{group}": "".join(f"/modules/{name_of(path)}.ko\n" for path in modules).encode()}


def archive(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """A "newc" archive (Documentation/driver-api/early-userspace/buffer-format.rst) of executables, with their directories
    and the mount points and the console that init needs before it can make anything."""
    directories = sorted({"dev", "proc", "sys", "image", "own", "root", *(path.rpartition("/")[0] for path in files)} - {""})
    entries = [(name, 0o040755, 0, 0, b"") for name in directories]
    entries.append(("dev/console", 0o020600, 5, 1, b""))
    entries += [(name, 0o100755, 0, 0, content) for name, content in files.items()]
    entries.append(("TRAILER!!!", 0, 0, 0, b""))
    for inode, (name, mode, major, minor, content) in enumerate(entries, 1):
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, checksum
        numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
        yield header + b"\0" * (-len(header) % 4)
        yield content + b"\0" * (-len(content) % 4)
