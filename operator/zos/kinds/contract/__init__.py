"""Contract: public IPv4 addresses of a farm, reserved for a namespace."""

from zos.api.contract import Contract
from zos.kinds.contract import resolve
from zos.kinds.kind import Kind

KIND = Kind(Contract, resolve.resolve, resolve.INDEXES, used_by="contract")
