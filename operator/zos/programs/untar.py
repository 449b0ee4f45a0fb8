"""Unpacks a tar into an empty directory.

It unpacks with that directory as its root (chroot(2)), so nothing that an archive says, no link in it and no ``..``, can reach
anything outside. An entry that tries to is an error all the same: such an archive is broken or hostile.
"""

from __future__ import annotations

import os
import tarfile
import threading
from typing import IO, cast

from zos.programs.forward import Forward
from zos.programs.packed import PIECE, BadContent, Content


def is_tar(first: bytes) -> bool:
    """Whether the first bytes of a file are those of an archive, be it an empty one."""
    block = first[: tarfile.BLOCKSIZE]
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(block) == tarfile.BLOCKSIZE and not any(first)
    return True


def untar(content: Content, root: str, size: int, entries: int) -> int:
    """Number of entries. Never returns to the old root: the process is good for nothing else afterwards. Raises BadContent."""
    try:
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", Forward(content)), errorlevel=1, copybufsize=PIECE)
    except tarfile.ReadError as error:
        raise BadContent(f"it is not a tar archive: {error}") from error
    # Loaded at their first use, and from inside there is nothing to load them from: a codec, and what ends a thread.
    b"".decode("iso8859-1")
    last = threading.Thread()
    last.start()
    last.join()
    os.chroot(root)
    os.chdir("/")
    count = held = 0
    for member in archive:
        count += 1
        held += member.size if member.isreg() else 0
        # What is written, and what is only read to be passed over: neither may be without end.
        if count > entries or max(held, member.offset_data) > size:
            raise BadContent(f"too big: {max(held, member.offset_data)} {count}")
        _check(member)
        member.name = member.name.lstrip("/") or "."
        if member.isreg() or member.isdir() or member.issym() or member.islnk():
            archive.extract(member, "/", numeric_owner=True)  # the guest's kernel makes its own device nodes
            _attributes(member)
        # It keeps each one that it saw, for look-ups that nobody makes: a million of them are a gigabyte.
        archive.members.clear()  # type: ignore[attr-defined]
    return count


def _check(member: tarfile.TarInfo) -> None:
    depth = 0
    for part in (member.linkname if member.islnk() else "", member.name):
        if ".." in part.split("/"):
            raise BadContent(f"the entry {member.name!r} leads out of the archive's root")
    if member.issym() and not member.linkname.startswith("/"):
        depth = len([part for part in member.name.split("/")[:-1] if part not in ("", ".")])
        for part in member.linkname.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                raise BadContent(f"the symlink {member.name} -> {member.linkname} leads out of the archive's root")


def _attributes(member: tarfile.TarInfo) -> None:
    """Extended attributes as GNU tar and container engines write them: file capabilities above all."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and name.startswith(("security.capability", "user.")) and not member.issym():
            os.setxattr(f"/{member.name}", name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
