"""Quota: how much each of some namespaces may hold."""

from zos.api.quota import Quota
from zos.kinds.kind import Kind, Writer
from zos.kinds.quota import resolve

KIND = Kind(Quota, resolve.resolve, resolve.INDEXES, writer=Writer.ADMINISTRATOR, rest=1.0)
