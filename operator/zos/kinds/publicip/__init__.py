"""PublicIP: an address on a farm's public segment, for one machine."""

from zos.api.publicip import PublicIP
from zos.kinds.kind import Kind
from zos.kinds.publicip import notices, resolve

KIND = Kind(PublicIP, resolve.resolve, resolve.INDEXES, used_by="public_ip", happened=notices.notices)
