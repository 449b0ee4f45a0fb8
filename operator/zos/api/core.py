"""The few Kubernetes kinds of others that resolving reads."""

from __future__ import annotations

import base64
from typing import ClassVar

from pydantic import Field

from zos.api.meta import Model, Object


class Secret(Object):
    """v1/Secret; ``data`` values are base64."""

    KIND: ClassVar[str] = "Secret"
    PLURAL: ClassVar[str] = "secrets"
    API_VERSION: ClassVar[str] = "v1"

    data: dict[str, str] = Field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """The decoded value of one key; None where there is none, or where it is no text (UTF-8 without NUL bytes)."""
        try:
            text = base64.b64decode(self.data[key], validate=True).decode()
        except (KeyError, ValueError):
            return None
        return text if "\0" not in text else None


class Namespace(Object):
    """v1/Namespace: its labels say what it may use."""

    KIND: ClassVar[str] = "Namespace"
    PLURAL: ClassVar[str] = "namespaces"
    API_VERSION: ClassVar[str] = "v1"
    NAMESPACED: ClassVar[bool] = False


class LeaseSpec(Model):
    """Times are RFC 3339 with microseconds."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Object):
    """coordination.k8s.io/v1 Lease: an agent's heartbeat, and who leads."""

    KIND: ClassVar[str] = "Lease"
    PLURAL: ClassVar[str] = "leases"
    API_VERSION: ClassVar[str] = "coordination.k8s.io/v1"

    spec: LeaseSpec = Field(default_factory=LeaseSpec)


class CustomResourceDefinition(Object):
    """apiextensions.k8s.io/v1: one on its way out takes all its objects along."""

    KIND: ClassVar[str] = "CustomResourceDefinition"
    PLURAL: ClassVar[str] = "customresourcedefinitions"
    API_VERSION: ClassVar[str] = "apiextensions.k8s.io/v1"
    NAMESPACED: ClassVar[bool] = False
