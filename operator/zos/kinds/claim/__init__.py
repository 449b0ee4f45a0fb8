"""Claim: an exclusive hold of something that has no owner in the API; its creation is the lock."""

from zos.api.contract import Claim
from zos.kinds.claim import resolve
from zos.kinds.kind import Kind, Writer

KIND = Kind(Claim, resolve.resolve, resolve.INDEXES, writer=Writer.CONTROLLER)
