"""Network: a private network that spans nodes over WireGuard."""

from zos.api.network import Network
from zos.kinds.kind import Kind, OnNode
from zos.kinds.network import lower, notices, resolve
from zos.kinds.network.part import NetworkOnNode, NetworkState
from zos.world import residents

KIND = Kind(
    Network,
    resolve.resolve,
    resolve.INDEXES,
    OnNode(NetworkOnNode, NetworkState, lower.lower, lower.report),
    used_by=residents.BY_NETWORK,
    happened=notices.notices,
)
