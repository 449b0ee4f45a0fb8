"""hack/torture bytes: one tenant's bytes (`torturelib.bytes`) in whatever the product reads, on simulated nodes; everyone else
is served as if nothing were.

The tenant has a namespace of its own, with a network, a laptop and a machine that takes its environment from a Secret. All
others are in the namespace of `torturelib.simulated`, under the invariants of `torturelib.grid`.
"""

from __future__ import annotations

import base64
import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from apiserver import running
from torturelib import bytes as hostile
from torturelib import chaos, grid
from torturelib.chaos import Action, Invariant, Refused, Scenario, Step
from torturelib.simulated import NAMESPACE, USERS, Simulated
from zos.api.core import Namespace, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kube.client import ApiError, NotFound, Unavailable
from zos.simulation import grid as simulated
from zos.simulation import manifest

TENANT = "tenant"
SERVED = 30.0  # seconds until what somebody else has asked for is there


@dataclass
class Hostile(Simulated):
    """``probe``: what somebody else has asked for last, and when."""

    probe: tuple[str, float] | None = None
    served: int = 0
    tenants: dict[type[Object], dict[str, dict[str, object]]] = field(default_factory=dict)

    async def begin(self) -> None:
        await super().begin()
        client = self.grid.client
        await client.create(Namespace, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}})
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "env"}, "stringData": {"token": "hush"}}
        await client.create(Secret, TENANT, secret)
        env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "env", "key": "token"}}}]
        self.tenants = {
            Network: {"net": {"ipRange": "10.66.0.0/16", "nodes": [{"name": "n1"}, {"name": "n2"}], "access": [{"name": "l"}]}},
            ZMount: {"disk": {"size": "1Gi"}},
            ZMachine: {
                "machine": {"image": "oci://r/i:t", "memory": "256Mi", "network": {"name": "net"}, "env": env}
                | {"disks": [{"name": "disk", "mountPath": "/data"}]}
            },
        }
        for kind, wanted in self.tenants.items():
            for name, spec in wanted.items():
                await client.create(kind, TENANT, manifest(kind.KIND, name, spec, TENANT))
        await self.ready(ZMachine, TENANT, "machine")

    async def clear(self) -> None:
        self.probe = None
        for kind in (ZMachine, ZMount, Network):
            for name in self.tenants[kind]:
                await self.grid.client.delete(kind, TENANT, name)
        await super().clear()

    async def put(self, kind: type[Object], namespace: str, name: str, body: dict[str, object], subresource: str = "") -> None:
        """Raises Refused: the API server would not take it, which is well."""
        try:
            await self.grid.client.patch(kind, namespace, name, body, subresource=subresource)
        except (ApiError, Unavailable, NotFound) as error:
            raise Refused(str(error)[:200]) from None


async def into_a_secret(world: Hostile, chance: Random) -> str:
    """The laptop's, which the controller has written and reads back, or one that a machine takes its environment from."""
    name, key = chance.choice(
        [("env", "token"), *(("net-l-wireguard", key) for key in ("publicKey", "privateKey", "wg0.conf", chance.choice("abc")))]
    )
    value = hostile.raw(chance)
    await world.put(Secret, TENANT, name, {"data": {key: base64.b64encode(value).decode()}})
    return f"{len(value)} bytes {value[:20]!r} into {name} {key}"


async def into_annotations(world: Hostile, chance: Random) -> str:
    kind = chance.choice(list(world.tenants))
    name = chance.choice(list(world.tenants[kind]))
    key = chance.choice(["zos.grid.tf/restartedAt", "zos.grid.tf/abandon", "example.com/x"])
    value = hostile.text(chance)
    await world.put(kind, TENANT, name, {"metadata": {"annotations": {key: value}}})
    return f"{value[:20]!r} into {key} of {kind.KIND} {name}"


async def into_a_spec(world: Hostile, chance: Random) -> str:
    """What the API server lets through."""
    value = hostile.text(chance)
    kind, name, spec = chance.choice(
        [
            (ZMachine, "machine", {"image": value}),
            (ZMachine, "machine", {"env": [{"name": "A", "value": value}]}),
            (ZMachine, "machine", {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": value, "key": value}}}]}),
            (ZMachine, "machine", {"entrypoint": [value]}),
            (ZMachine, "machine", {"sshAuthorizedKeys": [value]}),
            (Network, "net", {"access": [{"name": "l"}, {"name": "k", "publicKey": value}]}),
            (Network, "net", {"relay": value}),
            (Network, "net", {"nodes": [{"name": "n1"}, {"name": value}]}),
        ]
    )
    await world.put(kind, TENANT, name, {"spec": spec})
    return f"{str(spec)[:80]} into {kind.KIND} {name}"


async def into_a_status(world: Hostile, chance: Random) -> str:
    """What an agent, or whoever has its token, writes of a workload of the tenant's."""
    value = hostile.text(chance)
    found = [w for w in await world.listed(NodeWorkload) if w.spec.owner.namespace == TENANT]
    if not found:
        raise Refused("there is no workload of the tenant's")
    workload = chance.choice(found)
    message = {"type": "Ready", "status": "True", "reason": chance.choice(["Succeeded", "Novel"]), "message": value}
    status = chance.choice(
        [{"conditions": [message]}, {"network": {"lostKey": value}}, {"machine": {"console": value, "state": value}}]
    )
    await world.put(NodeWorkload, workload.namespace, workload.name, {"status": status}, "status")
    return f"{str(status)[:80]} into the status of {workload.name}"


async def put_right(world: Hostile, chance: Random) -> str:
    """The tenant is sorry."""
    for kind, wanted in world.tenants.items():
        for name, spec in wanted.items():
            with contextlib.suppress(Refused):
                await world.put(kind, TENANT, name, {"spec": spec})
    await world.put(Secret, TENANT, "env", {"data": {"token": base64.b64encode(b"hush").decode()}})
    return "everything of the tenant's"


async def served(world: Hostile) -> list[str]:
    """Somebody else asks for something again and again, and gets it within the time."""
    if world.probe is not None:
        name, since = world.probe
        mount = next((mount for mount in await world.listed(ZMount, NAMESPACE) if mount.name == name), None)
        condition = mount and mount.status.condition("Ready")
        if not (condition and condition.status == "True"):
            if time.monotonic() - since < SERVED:
                return []
            world.probe = None
            return [f"ZMount {name} of somebody else is not there after {SERVED:.0f} s: {condition}"]
        world.served += 1
        await world.delete(ZMount, name)
    world.probe = (await world.create(ZMount, "probe", {"size": "1Gi"}), time.monotonic())
    return []


async def nodes(world: Hostile) -> list[str]:
    """No node is thought dead."""
    found = []
    for node in await world.listed(GridNode):
        condition = node.status.condition("Ready")
        if condition is None or condition.status != "True":
            found.append(f"{node.name}: {condition}")
    return found


async def others(world: Hostile) -> list[str]:
    """Everybody else's objects are Ready."""
    found = []
    for kind in USERS:
        for thing in await world.listed(kind, NAMESPACE):
            condition = thing.status.condition("Ready")  # type: ignore[attr-defined]
            if condition is None or condition.status != "True":
                found.append(f"{kind.KIND} {thing.name}: {condition and (condition.reason, condition.message)}")
    return found


SCENARIO = Scenario(
    actions=(
        Action("into-a-secret", into_a_secret, weight=10),
        Action("into-annotations", into_annotations),
        Action("into-a-spec", into_a_spec, weight=6),
        Action("into-a-status", into_a_status, weight=6),
        Action("put-right", put_right, weight=2),
        Action("edit", grid.edit, weight=4),
        Action("restart-controller", grid.restart_controller, weight=1),
        Action("restart-agent", grid.restart_agent, weight=1),
    ),
    always=(*grid.ALWAYS, Invariant("everyone else is served", served), Invariant("no node is thought dead", nodes)),
    rest=(Invariant("everyone else is Ready", others),),
    end=grid.SCENARIO.end,
    pause=0.3,
    patience=grid.PATIENCE,
)


async def run(seed: int, seconds: float, asked: list[str], steps: list[Step]) -> int:
    """On an API server of its own."""
    actions = chaos.choose(SCENARIO.actions, asked, short=False)
    with tempfile.TemporaryDirectory(prefix="zos-torture-") as scratch, running(Path(scratch) / "api") as server:
        server.kubectl("create", "namespace", "zos-system")
        report = await over(server.kubeconfig, Path(scratch), actions, seed=seed, seconds=seconds, say=grid.say, steps=steps)
    return 1 if report.violations else 0


async def over(
    kubeconfig: str,
    scratch: Path,
    actions: list[Action[Hostile]],
    *,
    seed: int,
    seconds: float,
    say: chaos.Say,
    steps: Sequence[Step] = (),
) -> chaos.Report:
    """On an API server that is there and that nobody else uses."""
    async with simulated(kubeconfig, scratch / "nodes") as made:
        world = Hostile(made)
        try:
            return await chaos.torture(world, SCENARIO, actions, seed=seed, seconds=seconds, say=say, steps=steps)
        finally:
            await world.close()
