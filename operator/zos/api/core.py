"""The few Kubernetes kinds of others that resolving reads."""

from __future__ import annotations

import base64
from enum import Enum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from zos.api.meta import GROUP, Model, Object

#: Label of the Leases that matter here, among all of a cluster: those of agents and of who leads.
HEARTBEAT = f"{GROUP}/heartbeat"


class NoText(Enum):
    """Why a key of a Secret gives no text. Tenants put any bytes there."""

    ABSENT = "no such key"
    BINARY = "not UTF-8, or with a NUL, which no variable and no configuration can hold"


def _values(data: object) -> object:
    """A key without a value is an empty one, as for a kubelet."""
    return {key: "" if value is None else value for key, value in data.items()} if isinstance(data, dict) else data or {}


class Secret(Object):
    """v1/Secret; ``data`` values are base64."""

    KIND: ClassVar[str] = "Secret"
    PLURAL: ClassVar[str] = "secrets"
    API_VERSION: ClassVar[str] = "v1"

    type: str = ""
    data: Annotated[dict[str, str], BeforeValidator(_values)] = Field(default_factory=dict)

    def size(self, key: str) -> int | None:
        """Bytes of one key's value, without decoding it; None: no such key."""
        value = self.data.get(key)
        return None if value is None else len(value) * 3 // 4 - value[-2:].count("=")

    def read(self, key: str) -> str | NoText:
        """The decoded value of one key, or why there is none."""
        value = self.data.get(key)
        if value is None:
            return NoText.ABSENT
        try:
            text = base64.b64decode(value, validate=True).decode()
        except ValueError:  # of base64, and of UTF-8
            return NoText.BINARY
        return NoText.BINARY if "\0" in text else text

    def text(self, key: str) -> str | None:
        """The decoded value of one key; None where there is none, or no text."""
        found = self.read(key)
        return found if isinstance(found, str) else None


class Namespace(Object):
    """v1/Namespace: its labels say what it may use."""

    KIND: ClassVar[str] = "Namespace"
    PLURAL: ClassVar[str] = "namespaces"
    API_VERSION: ClassVar[str] = "v1"
    NAMESPACED: ClassVar[bool] = False


class Node(Object):
    """v1/Node: a machine of the cluster. A label says whether it is one of the grid, an annotation where it is reached."""

    KIND: ClassVar[str] = "Node"
    PLURAL: ClassVar[str] = "nodes"
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
