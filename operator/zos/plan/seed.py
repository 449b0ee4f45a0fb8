"""What a virtual machine's cloud-init is told: the NoCloud documents, as the text of one file.

Ours is vendor-data, which everything that the user says goes before; the user's own user-data is passed on untouched. Source:
cloud-init's reference of NoCloud, network-config v2, vendor-data, and boothooks, which run at each boot.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field

from zos.plan.guest import GuestInterface, GuestMount, GuestShareMount

#: Names of the documents, as NoCloud finds them.
META, USER, VENDOR, NETWORK = "meta-data", "user-data", "vendor-data", "network-config"
#: By which a guest finds the small disk on which it says how it stands, and what it says.
STATUS = "zos-status"
_BOOTS, _READY, _UNREADY = "booting", "ready", "unready"

_BOUNDARY = "====zos===="
#: Where shares are mounted of which a guest sees only a part.
_WHOLE = "/run/zos-shares"
#: What is done when the node says that something was mounted anew.
_ANEW = f"{_WHOLE}.anew"


@dataclass(frozen=True, kw_only=True)
class Seed:
    """``instance_id`` stays the same as long as the machine: what cloud-init does once, it does once for each. ``mounts`` are
    disks that are formatted already and shares, outer ones first."""

    instance_id: str
    hostname: str
    interfaces: tuple[GuestInterface, ...] = ()
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ssh_authorized_keys: tuple[str, ...] = ()
    mounts: tuple[GuestMount | GuestShareMount, ...] = ()
    user_data: str = field(default="", repr=False)

    def documents(self) -> dict[str, str]:
        """By name."""
        return {
            META: _json(
                {
                    "instance-id": self.instance_id,
                    "local-hostname": self.hostname,
                    "public-keys": list(self.ssh_authorized_keys),
                }
            ),
            USER: self.user_data or "#cloud-config\n{}\n",
            VENDOR: _vendor_data(self.mounts),
            NETWORK: _json(self._network()),
        }

    def render(self) -> str:
        """The text of the File item that is the Domain's ``config``."""
        return _json(self.documents())

    def _network(self) -> dict[str, object]:
        return {"version": 2, "ethernets": {f"zos{n}": self._ethernet(n, nic) for n, nic in enumerate(self.interfaces)}}

    def _ethernet(self, number: int, nic: GuestInterface) -> dict[str, object]:
        """Name servers belong to the first, which every machine has."""
        servers = {"addresses": list(self.nameservers), "search": list(self.search)} if number == 0 else {}
        return {
            "match": {"macaddress": nic.mac.lower()},
            "mtu": nic.mtu,
            "dhcp4": False,
            "dhcp6": False,
            "accept-ra": nic.ipv6 == "slaac",
            "addresses": list(nic.addresses),
            "routes": [
                {"to": route.destination, "via": route.gateway} if route.gateway else {"to": route.destination, "scope": "link"}
                for route in nic.routes
            ],
            **({"nameservers": servers} if servers else {}),
        }


def documents(text: str) -> dict[str, str]:
    """Those in a rendered seed. Raises ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(document, str) for document in found.values()):
        raise ValueError("no documents of a seed")
    return found


def _json(what: object) -> str:
    """Which is YAML as well, and says every text exactly."""
    return json.dumps(what, indent=1) + "\n"


def _vendor_data(mounts: tuple[GuestMount | GuestShareMount, ...]) -> str:
    # Keys of the machine are root's too, as they are in a container's.
    settings = "#cloud-config\n" + _json({"disable_root": False, "manage_etc_hosts": "localhost"})
    parts = (("text/cloud-config", settings), ("text/cloud-boothook", _boothook(mounts)))
    body = "".join(f"--{_BOUNDARY}\nContent-Type: {kind}; charset=utf-8\n\n{text}\n" for kind, text in parts)
    return f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\nMIME-Version: 1.0\n\n{body}--{_BOUNDARY}--\n'


def _boothook(mounts: tuple[GuestMount | GuestShareMount, ...]) -> str:
    """Not cloud-config's ``mounts`` and ``runcmd``: the user's would replace ours. What must not go wrong is one after the
    other; cloud-init is waited for beside it."""
    lines = [line for mount in mounts for line in _fstab(mount)]
    places = [place for mount in mounts for place in _places(mount)]
    return "\n".join(
        [
            "#!/bin/sh",
            "# Mounts the machine's disks and file systems, and tells the node when cloud-init is done.",
            "status=",
            "for disk in /sys/block/vd*; do",
            f'  [ "$(cat "$disk/serial" 2>/dev/null)" = {STATUS} ] && status=/dev/${{disk##*/}}',
            "done",
            'say() { [ -n "$status" ] && printf %s "$1" | dd of="$status" bs=512 conv=sync,fsync 2>/dev/null; }',
            *_follow(tuple(mount for mount in mounts if isinstance(mount, GuestShareMount) and mount.inside), places),
            f"say {_BOOTS}",
            "grep -qx '# zos end' /etc/fstab && sed -i '/^# zos begin$/,/^# zos end$/d' /etc/fstab",
            '[ -z "$(tail -c1 /etc/fstab)" ] || echo >>/etc/fstab',
            *(["cat >>/etc/fstab <<'ZOS'", "# zos begin", *lines, "# zos end", "ZOS"] if lines else []),
            *(
                f"mkdir -p {place} && {{ mountpoint -q {place} || mount {place}; }}"
                for place in (shlex.quote(place) for place in places)
            ),
            "(",
            "  cloud-init status --wait",
            f"  case $? in 0 | 2) say {_READY} ;; *) say {_UNREADY} ;; esac",
            ") </dev/null >/dev/null 2>&1 &",
            "exit 0",
        ]
    )


def _follow(shares: tuple[GuestShareMount, ...], places: list[str]) -> list[str]:
    """What is inside a share may be mounted anew on the node, which then makes the status disk a sector larger. The guest's
    kernel tells udev, whose own mounts nobody sees, so systemd does it. Who has files open there keeps the dead ones."""
    if not shares:
        return []
    anew = [f"umount -l {place}; mount {place}" for place in (shlex.quote(share.path) for share in shares)]
    under = [f"mountpoint -q {place} || mount {place}" for place in (shlex.quote(place) for place in places)]
    return [
        f"mkdir -p {_WHOLE} /run/udev/rules.d",
        f"cat >{_ANEW} <<'ZOS'",
        *anew,
        *under,
        "ZOS",
        "cat >/run/udev/rules.d/90-zos-shares.rules <<'ZOS'",
        f'ACTION=="change", SUBSYSTEM=="block", ENV{{RESIZE}}=="1", ATTR{{serial}}=="{STATUS}", '
        f'RUN+="/usr/bin/systemd-run --no-block --quiet /bin/sh {_ANEW}"',
        "ZOS",
        "udevadm control --reload",
    ]


def _places(mount: GuestMount | GuestShareMount) -> tuple[str, ...]:
    inside = isinstance(mount, GuestShareMount) and mount.inside
    return (_whole(mount), mount.path) if isinstance(mount, GuestShareMount) and inside else (mount.path,)


def _whole(share: GuestShareMount) -> str:
    return f"{_WHOLE}/{share.tag}"


def _fstab(mount: GuestMount | GuestShareMount) -> tuple[str, ...]:
    path = _escaped(mount.path)
    if isinstance(mount, GuestMount):
        device = f"/dev/disk/by-id/virtio-{mount.serial}"
        return (f"{device} {path} {mount.format} defaults,nofail,x-systemd.device-timeout=90s 0 0",)
    # What is in it is no program with other rights and no device, whatever it says of itself.
    options = f"nofail,nosuid,nodev,{'ro' if mount.read_only else 'rw'}"
    if not mount.inside:
        return (f"{mount.tag} {path} virtiofs {options} 0 0",)
    return (
        f"{mount.tag} {_whole(mount)} virtiofs {options} 0 0",
        f"{_escaped(f'{_whole(mount)}/{mount.inside}')} {path} none bind,{options} 0 0",
    )


def _escaped(path: str) -> str:
    """As fstab(5) has it."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\\#" else letter for letter in path)
