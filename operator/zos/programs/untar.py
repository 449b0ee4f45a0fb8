"""``python -m zos.programs.untar ARCHIVE ROOT``: unpacks a tar (plain, gzip, xz, bzip2 or zstd) into an empty directory.

It unpacks with ROOT as its root directory (chroot(2)), so nothing that an archive says, no link in it and no ``..``, can
reach anything outside. An entry that tries to is an error all the same: such an archive is broken or hostile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile

_ZSTD = b"\x28\xb5\x2f\xfd"


class BadArchive(Exception):
    """What is wrong with the archive."""


def _open(archive: str) -> tarfile.TarFile:
    file = open(archive, "rb", buffering=0)  # noqa: SIM115 - read to the end of the process
    zstd_packed = file.read(4) == _ZSTD
    file.seek(0)
    if zstd_packed:
        zstd = subprocess.Popen(["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE)
        assert zstd.stdout is not None
        return tarfile.open(fileobj=zstd.stdout, mode="r|", errorlevel=1)
    return tarfile.open(fileobj=file, mode="r|*", errorlevel=1)


def _check(member: tarfile.TarInfo) -> None:
    depth = 0
    for part in (member.linkname if member.islnk() else "", member.name):
        if ".." in part.split("/"):
            raise BadArchive(f"the entry {member.name!r} leads out of the archive's root")
    if member.issym() and not member.linkname.startswith("/"):
        depth = len([part for part in member.name.split("/")[:-1] if part not in ("", ".")])
        for part in member.linkname.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                raise BadArchive(f"the symlink {member.name} -> {member.linkname} leads out of the archive's root")


def unpack(archive: str, root: str) -> int:
    """Number of entries. Never returns to the old root: the process is good for nothing else afterwards."""
    try:
        source = _open(archive)
    except tarfile.ReadError as error:
        raise BadArchive(f"it is not a tar archive: {error}") from error
    b"".decode("iso8859-1")  # loaded at its first use, and from inside there is nothing to load it from
    os.chroot(root)
    os.chdir("/")
    count = 0
    for member in source:
        _check(member)
        member.name = member.name.lstrip("/") or "."
        if not member.isdev():  # the guest's kernel makes its own device nodes
            source.extract(member, "/", numeric_owner=True)
            _attributes(member)
        count += 1
    return count


def _attributes(member: tarfile.TarInfo) -> None:
    """Extended attributes as GNU tar and container engines write them: file capabilities above all."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and name.startswith(("security.capability", "user.")) and not member.issym():
            os.setxattr(f"/{member.name}", name, value.encode("utf-8", "surrogateescape"))


def main() -> None:
    _, archive, root = sys.argv
    try:
        count = unpack(os.path.abspath(archive), os.path.abspath(root))
    except BadArchive as error:
        sys.exit(str(error))
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        sys.exit(f"the archive is broken: {error}")
    except OSError as error:
        sys.exit(f"{error.strerror or error}: {error.filename or ''}")
    if count == 0:
        sys.exit("it is not a tar archive, or an empty one")


if __name__ == "__main__":
    main()
