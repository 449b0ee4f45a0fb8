"""ZMachine: a guest, from a container image."""

from zos.api.zmachine import ZMachine
from zos.kinds.kind import Kind, OnNode
from zos.kinds.zmachine import lower, notices, resolve, state
from zos.kinds.zmachine.part import MachineOnNode, MachineState

KIND = Kind(
    ZMachine,
    resolve.resolve,
    resolve.INDEXES,
    OnNode(MachineOnNode, MachineState, lower.lower, state.report),
    happened=notices.notices,
)
