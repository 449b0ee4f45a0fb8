"""Farm: nodes of one operator on one public segment, with its address ranges."""

from zos.api.farm import Farm
from zos.kinds.farm import resolve
from zos.kinds.kind import Kind, Writer

KIND = Kind(Farm, resolve.resolve, resolve.INDEXES, writer=Writer.ADMINISTRATOR, used_by="held_of", rest=0.25)
