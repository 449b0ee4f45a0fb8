"""The same writes by a client that decides nothing: what an API server needs for them, and so the measure of those that do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchlib.api import APPLY, MERGE, Api, Write, Written, each
from zos.api.meta import API_VERSION
from zos.kinds.registry import KINDS
from zos.kube.client import Raw

_MODELS = {model.PLURAL: model for model in KINDS.models}
_EVENTS = "events"


async def replay(api: Api, namespace: str, counts: Written, samples: Mapping[str, Sequence[Raw]]) -> float:
    """Seconds for as many writes of each sort as in ``counts``, over all connections; none leaves its object as it was.

    ``samples`` has the objects of each plural as they were in the end: so many are there, and each of its writes has its whole
    spec or status. Those that were there before are made before the clock starts. Raises ValueError for a sort of write that
    it can't do.
    """
    first: list[tuple[Write, int]] = []
    then: list[tuple[Write, int]] = []
    for write, count in sorted(counts.taken.items()):
        verb, plural, part = write
        if plural != _EVENTS and (plural not in samples or verb not in ("POST", "APPLY", "PATCH")):
            raise ValueError(f"writes of a sort that is not known: {write}")
        creates = verb == "POST" or (verb == "APPLY" and not part and not counts.taken["POST", plural, ""])
        makes = count if plural == _EVENTS else len(samples[plural]) if creates else 0
        first += [(write, number) for number in range(min(count, makes))]
        then += [(write, number) for number in range(makes, count)]
    made = {plural for (verb, plural, part), _ in first if not part}
    before = [("POST", plural, "") for plural in samples.keys() - made if any(key[1] == plural for key in counts.taken)]

    async def one(task: tuple[Write, int]) -> None:
        (verb, plural, part), number = task
        if plural == _EVENTS:
            await _event(api, namespace, number)
        else:
            which = number % len(samples[plural])
            await _write(api, namespace, (verb, plural, part), f"{namespace}-{which}", samples[plural][which], number)

    await each([(write, number) for write in before for number in range(len(samples[write[1]]))], one)
    began = time.monotonic()
    await each(first, one)
    await each(then, one)
    return time.monotonic() - began


async def _write(api: Api, namespace: str, write: Write, name: str, sample: Raw, number: int) -> None:
    verb, plural, part = write
    model = _MODELS[plural]
    path = f"/apis/{API_VERSION}/" + (f"namespaces/{namespace}/{plural}" if model.NAMESPACED else plural)
    marked = {"annotations": {"bench.example/write": str(number)}}
    body: dict[str, Any] = {"apiVersion": API_VERSION, "kind": model.KIND, "metadata": {"name": name, **marked}}
    if verb == "POST":
        await api.write("POST", path, {**body, "spec": sample["spec"]})
    elif part == "status":
        status = {**sample["status"], "observedGeneration": number + 1}
        await api.write("PATCH", f"{path}/{name}/status", {"status": status}, MERGE)
    elif verb == "APPLY":
        body["spec"] = sample["spec"]
        await api.write("PATCH", f"{path}/{name}", body, APPLY, {"fieldManager": "bare", "force": "true"})
    else:
        await api.write("PATCH", f"{path}/{name}", {"metadata": {"finalizers": ["bench.example/bare"], **marked}}, MERGE)


async def _event(api: Api, namespace: str, number: int) -> None:
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"e{number}"}, "reason": "Bare"}
    body["involvedObject"] = {"namespace": namespace, "kind": "Event", "name": f"e{number}"}
    await api.write("POST", f"/api/v1/namespaces/{namespace}/events", body)
