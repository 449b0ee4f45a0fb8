"""PublicIP: an address on a farm's public segment, for one machine."""

from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.kinds.kind import Kind
from zos.kinds.publicip import notices, resolve

KIND = Kind(PublicIP, resolve.resolve, resolve.INDEXES, users=(ZMachine,), happened=notices.notices)
