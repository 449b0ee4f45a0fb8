"""ZMachine: a guest, from a container image."""

from zos.api.nodeworkload import MachineOnNode
from zos.api.zmachine import ZMachine
from zos.kinds.kind import Kind, OnNode
from zos.kinds.zmachine import lower, notices, resolve, state

KIND = Kind(
    ZMachine, resolve.resolve, resolve.INDEXES, OnNode(MachineOnNode, lower.lower, state.report), happened=notices.notices
)
