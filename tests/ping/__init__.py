"""Ping: a kind that exists for the tests alone, as a stranger would write his own.

A resident program with an address in a private network, that answers whoever connects to it. What it answers depends on a word
from a Secret; how often it has answered is kept in a volume of its own.
"""

from ping import lower, resolve
from ping.model import Ping
from ping.part import PingOnNode, PingState
from zos.kinds.kind import Kind, OnNode
from zos.world.shares import BY_SHARE

KIND = Kind(
    Ping,
    resolve.resolve,
    resolve.INDEXES,
    OnNode(PingOnNode, PingState, lower.lower, lower.report),
    used_by=BY_SHARE,
)
