"""kopf keeps the order of events within an object's life. One name may have several, and their events cross."""

from __future__ import annotations

import itertools

import pytest

from zos.api.zmount import ZMount
from zos.kube.client import Access, Client, Raw
from zos.kube.informer import Informer
from zos.kube.watches import Watched


def event(type: str | None, uid: str, version: int) -> tuple[str | None, Raw]:
    meta = {"name": "d", "namespace": "n", "uid": uid, "resourceVersion": str(version)}
    return type, {"apiVersion": ZMount.API_VERSION, "kind": "ZMount", "metadata": meta}


FIRST = [event("ADDED", "x", 10), event("MODIFIED", "x", 11), event("DELETED", "x", 12)]
SECOND = [event("ADDED", "y", 13), event("MODIFIED", "y", 14)]


def interleaved() -> list[list[tuple[str | None, Raw]]]:
    """Every order that keeps that within each life."""
    orders = []
    for places in itertools.combinations(range(5), 3):
        first, second = iter(FIRST), iter(SECOND)
        orders.append([next(first) if place in places else next(second) for place in range(5)])
    return orders


@pytest.mark.parametrize("order", interleaved())
def test_the_last_of_a_name_is_known_in_the_end(order: list[tuple[str | None, Raw]]) -> None:
    there: dict[object, str] = {}
    buried: list[str] = []

    def handle(key: object, raw: Raw | None) -> None:
        if raw is None:
            there.pop(key, None)
        else:
            there[key] = f"{raw['metadata']['uid']} {raw['metadata']['resourceVersion']}"

    access = Access(None)  # type: ignore[arg-type]
    informer = Informer(access, Client(access), [Watched(ZMount)], handle, buried=buried.append)
    for type, raw in order:
        informer.event(type, raw)
    assert list(there.values()) == ["y 14"]
    assert buried == ["x"]
    informer.event(*event("DELETED", "y", 15))
    assert not there
