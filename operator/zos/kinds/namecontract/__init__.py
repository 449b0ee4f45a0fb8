"""NameContract: a name, reserved for a namespace."""

from zos.api.contract import NameContract
from zos.kinds.kind import Kind
from zos.kinds.namecontract import resolve

KIND = Kind(NameContract, resolve.resolve, resolve.INDEXES)
