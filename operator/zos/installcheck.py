"""Whether an installation is whole: ``python3 -m zos.installcheck``, run in the cluster by ``helm test``. Changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zos.api.core import Lease
from zos.api.gridnode import GridNode
from zos.api.meta import API_VERSION, Condition
from zos.api.names import CONTROLLER, CONTROLLER_NAMESPACE
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.kube.client import Access, ApiError, Client, NotFound, Unavailable
from zos.manifests.admission import admission_objects

_ADMISSION = "admissionregistration.k8s.io/v1"
_PLURALS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies",  # of Kubernetes 1.36 and later
    "MutatingAdmissionPolicyBinding": "mutatingadmissionpolicybindings",
}
_AGAIN = "helm upgrade puts it back"


@dataclass
class Found:
    """What one look has shown: what is ``right``, and what is ``wrong`` with what to do about it."""

    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, right: str, wrong: Sequence[str]) -> None:
        self.wrong += wrong
        self.right += [] if wrong else [right]


class Check:
    """``client`` may read GridNodes, policies, and the Lease of who leads."""

    def __init__(self, client: Client, kinds: Kinds = KINDS) -> None:
        self._client = client
        self._kinds = kinds
        self._renewed: str | None = None  # the first version of the Lease that was seen

    async def look(self) -> Found:
        """One look at everything; who leads is known from the second on."""
        found = Found()
        try:
            await self._served(found)
            await self._held(found)
            await self._led(found)
            await self._nodes(found)
        except Unavailable as error:
            found.wrong.append(f"the API server does not answer: {error}")
        except ApiError as error:
            found.wrong.append(f"may not look: {error}; {_AGAIN}, with the rights of this check")
        return found

    async def _served(self, found: Found) -> None:
        served = await self._resources(API_VERSION)
        missing = [model.KIND for model in self._kinds.models if (model.KIND, model.PLURAL) not in served]
        said = [
            f"the API server does not serve {kind}: with crds.enabled {_AGAIN}, else apply the CustomResourceDefinitions of "
            "this release"
            for kind in missing
        ]
        found.add(f"all {len(self._kinds.models)} kinds are served", said)

    async def _held(self, found: Found) -> None:
        served = {kind for kind, _ in await self._resources(_ADMISSION)}
        wanted = [manifest for manifest in admission_objects(self._kinds) if manifest["kind"] in served]
        said = []
        for manifest in wanted:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            try:
                there = await self._client.request("GET", f"/apis/{_ADMISSION}/{_PLURALS[kind]}/{name}")
            except NotFound:
                said.append(f"{kind} {name} is missing, and nothing holds writers to what is theirs: {_AGAIN}")
                continue
            if not _has(there["spec"], manifest["spec"]):
                said.append(f"{kind} {name} is not as this release has it: {_AGAIN}")
        bound = sum(manifest["kind"].endswith("Binding") for manifest in wanted)
        found.add(f"{bound} admission policies are bound", said)

    async def _led(self, found: Found) -> None:
        raw = await self._client.get(Lease, CONTROLLER_NAMESPACE, CONTROLLER)
        if raw is None:
            found.wrong.append(f"no controller has led yet: kubectl logs -n {CONTROLLER_NAMESPACE} deployment/{CONTROLLER}")
            return
        lease, version = Lease.model_validate(raw), raw["metadata"]["resourceVersion"]
        if self._renewed is None:
            self._renewed = version
        holder = lease.spec.holder_identity
        if not holder or self._renewed == version:
            found.wrong.append(
                f"nobody renews the Lease {CONTROLLER}, so no controller leads: "
                f"kubectl logs -n {CONTROLLER_NAMESPACE} deployment/{CONTROLLER}"
            )
            return
        found.right.append(f"{holder} leads")

    async def _nodes(self, found: Found) -> None:
        nodes = [GridNode.model_validate(raw) for raw in await self._client.objects(GridNode)]
        said = []
        for node in nodes:
            ready = node.status.condition("Ready")
            if ready is None or ready.status != "True":
                said.append(f"GridNode {node.name} is not Ready: {_told(ready)}")
        none = "no GridNode yet: kubectl label node NODE zos.grid.tf.node-restriction.kubernetes.io/node=true makes it one"
        found.add(f"{len(nodes)} GridNodes are Ready" if nodes else none, said)

    async def _resources(self, version: str) -> set[tuple[str, str]]:
        """Kinds of a group and version that are served, with their plurals."""
        try:
            served = await self._client.request("GET", f"/apis/{version}")
        except NotFound:
            return set()
        return {(resource["kind"], resource["name"]) for resource in served.get("resources") or ()}


def _told(ready: Condition | None) -> str:
    if ready is None:
        return f"no controller has said anything of it: kubectl logs -n {CONTROLLER_NAMESPACE} deployment/{CONTROLLER}"
    return f"{ready.reason}, {ready.message}"


def _has(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there, beside what the API server adds by itself."""
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(key in there and _has(there[key], value) for key, value in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_has, there, wanted))
    return bool(there == wanted)


async def _settled(check: Check, seconds: float) -> Found:
    """What is found when all is well, or when so much time has gone."""
    deadline = time.monotonic() + seconds
    found = await check.look()
    while found.wrong and time.monotonic() < deadline:
        await asyncio.sleep(1)
        found = await check.look()
    return found


async def main(argv: Sequence[str] | None = None) -> int:
    """0: all is well."""
    parser = argparse.ArgumentParser(prog="zos-installcheck", description="Says whether an installation is whole.")
    parser.add_argument("--kubeconfig", default=None, help="how to reach the API server; default: as a pod does")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long it may be on its way there")
    arguments = parser.parse_args(argv)
    client = Client(await Access.load(arguments.kubeconfig))
    try:
        found = await _settled(Check(client), arguments.seconds)
    finally:
        await client.close()
    for text in found.right:
        print(f"ok: {text}")
    for text in found.wrong:
        print(f"wrong: {text}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
