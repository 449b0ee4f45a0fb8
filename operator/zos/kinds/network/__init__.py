"""Network: a private network that spans nodes over WireGuard."""

from zos.api.network import Network
from zos.api.nodeworkload import NetworkOnNode
from zos.api.zmachine import ZMachine
from zos.kinds.kind import Kind, OnNode
from zos.kinds.network import lower, notices, resolve

KIND = Kind(
    Network,
    resolve.resolve,
    resolve.INDEXES,
    OnNode(NetworkOnNode, lower.lower, lower.report),
    users=(ZMachine,),
    happened=notices.notices,
)
