"""What a guest runs with otherwise than is wanted, by the fields of its user's spec."""

from __future__ import annotations

from zos.plan.items import Domain, GuestNic

#: For a guest that an earlier agent has started, which did not write down more.
_ALL = "configuration"


def outdated(was: Domain, now: Domain) -> tuple[str, ...]:
    """What of ``now`` a guest that was started as ``was`` gets at its next start: names like ``network.ip``, none twice."""
    found = [field for field in ("cpu", "memory") if getattr(was, field) != getattr(now, field)]
    alike = type(was.boot) is type(now.boot)
    words = now.boot.WORDS.items() if alike else ()
    found += [word for field, word in words if getattr(was.boot, field) != getattr(now.boot, field)]
    found += [] if alike else [_IMAGE]
    found += [_DISKS] if was.disks != now.disks else []
    found += [_SHARES] if was.shares != now.shares else []
    found += _interfaces(was.nics, now.nics)
    if alike and was.boot.config_digest != now.boot.config_digest:
        found += _configured(was, now) if was.boot.fields else [_ALL]
    if any(word != _NETWORK and word.startswith(_NETWORK) for word in found):
        found = [word for word in found if word != _NETWORK]  # its addresses are in the configuration as well
    return tuple(dict.fromkeys(found))


_IMAGE = "image"  # it says how a machine boots, and all else that is otherwise then comes of that
_DISKS = "disks"
_SHARES = "filesystems"
_NETWORK = "network"
_PUBLIC = "publicIP"


def _interfaces(was: tuple[GuestNic, ...], now: tuple[GuestNic, ...]) -> list[str]:
    if not all(nic.told for nic in was):
        return [_NETWORK] if [(nic.tap, nic.mac) for nic in was] != [(nic.tap, nic.mac) for nic in now] else []
    found: list[str] = []
    old, new = ([nic for nic in nics if nic.network] for nics in (was, now))
    if [nic.network for nic in old] != [nic.network for nic in new]:
        found.append(f"{_NETWORK}.name")
    elif [nic.ipv4 for nic in old] != [nic.ipv4 for nic in new]:
        found.append(f"{_NETWORK}.ip")
    elif old != new:
        found.append(_NETWORK)
    if [nic for nic in was if nic.interface] != [nic for nic in now if nic.interface]:
        found.append(_PUBLIC)
    return found


def _configured(was: Domain, now: Domain) -> list[str]:
    before, after = dict(was.boot.fields), dict(now.boot.fields)
    return [field for field in {**after, **before} if before.get(field) != after.get(field)]
