"""ZMount: a disk of its node's, for one machine."""

from zos.api.zmount import ZMount
from zos.kinds.kind import Kind, OnNode
from zos.kinds.zmount import lower, notices, resolve
from zos.kinds.zmount.part import MountOnNode, MountState

KIND = Kind(
    ZMount,
    resolve.resolve,
    resolve.INDEXES,
    OnNode(MountOnNode, MountState, lower.lower, lower.report),
    used_by=resolve.BY_DISK,
    happened=notices.notices,
)
