"""NodeWorkload: what one object needs on one node."""

from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Kind, Writer
from zos.kinds.nodeworkload import resolve

KIND = Kind(NodeWorkload, resolve.resolve, resolve.INDEXES, writer=Writer.CONTROLLER)
