"""Two interfaces as one wire: whatever comes in at one goes out at the other, before anything else of the node sees it.

By the ingress hook of traffic control (tc-u32(8), tc-mirred(8)): no bridge of the node, and so none of its firewall's forward
rules, is in between. When one end goes away, the kernel drops what comes in at the other.
"""

from __future__ import annotations

import errno
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

_INGRESS = 0xFFFF0000
_ETH_P_ALL = 3
#: linux/tc_act/tc_mirred.h, linux/pkt_cls.h.
_EGRESS_REDIRECT, _STOLEN = 1, 4


async def leads_to(sock: AsyncIPRoute, index: int) -> int | None:
    """Index of the interface that gets all that comes in here; None: no rule says so, or not the first one."""
    filters = [message async for message in await sock.get_filters(index=index, parent=_INGRESS)]
    for message in filters:
        if message.get_attr("TCA_KIND") != "u32":
            return None
        if (selector := message.get_nested("TCA_OPTIONS", "TCA_U32_SEL")) is not None:  # else it is a table of such rules
            return _target(message, selector)
    return None


def _target(message: Any, selector: Any) -> int | None:
    protocol = int.from_bytes((message["info"] & 0xFFFF).to_bytes(2, "little"), "big")
    action = message.get_nested("TCA_OPTIONS", "TCA_U32_ACT", "TCA_ACT_PRIO_1", "TCA_ACT_OPTIONS", "TCA_MIRRED_PARMS")
    if protocol != _ETH_P_ALL or selector["keys"] or action is None:
        return None
    redirects = (action["eaction"], action["action"]) == (_EGRESS_REDIRECT, _STOLEN)
    return int(action["ifindex"]) or None if redirects else None


async def lead(sock: AsyncIPRoute, index: int, target: int) -> None:
    """Gives all that comes in here to ``target``, in place of whatever rules there were; for a moment there are none. Raises
    NetlinkError."""
    await cut(sock, index)
    await sock.tc("add", "ingress", index, _INGRESS)
    redirect = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": target}
    # Without a key: a frame too short for one would match none.
    rule = {"protocol": _ETH_P_ALL, "prio": 1, "keys": [], "target": 0, "action": redirect}
    await sock.tc("add-filter", "u32", index, parent=_INGRESS, **rule)


async def cut(sock: AsyncIPRoute, index: int) -> None:
    """Takes all such rules away. Raises NetlinkError."""
    try:
        await sock.tc("del", "ingress", index, _INGRESS)
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EINVAL):  # there were none
            raise
