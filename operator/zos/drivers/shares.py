"""What a guest is given of its node beside its disks, as far as the node's directories and mounts tell."""

from __future__ import annotations

import os
from pathlib import Path

from zos.drivers import DriverError
from zos.drivers.mounts import mounts_at
from zos.plan.items import ContainerBoot, Domain, GuestShare

#: The daemon's own view of a directory has them, but what is mounted inside comes as it is (ADR 0018).
_HARMLESS = frozenset({"nosuid", "nodev", "noexec"})


def check(state: Path, share: GuestShare) -> None:
    """Raises DriverError where there is nothing to share, or nothing that may be. The daemon's launcher finds out as well, and
    later; but says it where nobody reads it."""
    path = state / share.path
    if share.mount:  # first: who stands behind a mount may not answer
        place = state / share.mount
        mount = mounts_at([place]).get(place)
        if mount is None:
            raise DriverError(f"{share.ground}: nothing is mounted at {place}, which is to be shared with the guest")
        needed = _HARMLESS.union({"ro"} if share.read_only else ()) if share.inside else frozenset()
        if missing := needed - mount.options:
            raise DriverError(f"{share.ground}: {place} is mounted without {', '.join(sorted(missing))}: not for a guest")
    if not path.is_dir():
        raise DriverError(f"{share.ground}: there is no directory {path} to share with the guest")
    if share.inside and os.listdir(path) != [share.inside]:
        raise DriverError(
            f"{share.ground}: there is more in {path} than {share.inside}, and all would be shared with the guest"
        )


def count(item: Domain) -> int:
    """How many directories a guest is given: a container's image is the first."""
    return len(item.shares) + (1 if isinstance(item.boot, ContainerBoot) else 0)


def mounts_of(state: Path, item: Domain) -> frozenset[Path]:
    """Where on the node what is mounted, and may be mounted anew, is a guest's as well."""
    return frozenset(state / share.mount for share in item.shares if share.inside)
