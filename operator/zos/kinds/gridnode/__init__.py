"""GridNode: a machine of the grid, with its agent."""

from zos.api.gridnode import GridNode
from zos.kinds.gridnode import resolve
from zos.kinds.kind import Kind, Writer

KIND = Kind(GridNode, resolve.resolve, resolve.INDEXES, writer=Writer.ADMINISTRATOR)
