"""A grid without API server or nodes: every object is resolved, and what its resolution asks for is there at once, until
nothing changes any more. For questions about decisions alone."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from nacl.public import PrivateKey

from gridkinds import GRID
from zos.api import names
from zos.api.contract import Claim, ClaimHolder, ClaimSpec
from zos.api.core import Secret
from zos.api.meta import Condition, Meta, OwnerReference, Quantity
from zos.api.nodeworkload import NodeWorkload, Owner, State
from zos.api.zmachine import RunPolicy
from zos.controller.resolving import resolved
from zos.controller.sealing import seal
from zos.controller.secrets import contents
from zos.kinds.zmachine.part import MachineOnNode, MachineState
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.world.conditions import conditions
from zos.world.resolution import Resolution, Workload
from zos.world.store import World

NOW = "2026-01-01T00:01:00Z"


def resolve(subject: Any, world: World) -> Resolution:
    """As the controller does it."""
    return resolved(GRID[subject.KIND], subject, world.reader(subject.key))


def settle(world: World, kinds: Iterable[str], rounds: int = 12) -> None:
    """Until nothing changes any more. Nodes do what they are asked for, and say so."""
    order = [*kinds]
    for _ in range(rounds):
        before = {obj.key: obj for kind in GRID for obj in world.all(kind)}
        for kind in order:
            for obj in world.all(kind):
                carried_out(world, obj, resolve(obj, world))
        if before == {obj.key: obj for kind in GRID for obj in world.all(kind)}:
            return
    raise AssertionError("it never comes to rest")


def carried_out(world: World, subject: Any, resolution: Resolution, *, nodes: bool = True) -> Any:
    """The subject as it is when everything that its resolution asks for is there; without ``nodes`` they have not begun yet."""
    for hold in resolution.holds:
        _share(world, hold.pool, subject.uid, hold.entry)
    for key in resolution.releases:
        _share(world, key, subject.uid, None)
    for wish in resolution.claims or ():
        holder = ClaimHolder(kind=subject.KIND, namespace=subject.namespace, name=subject.name, uid=subject.uid)
        spec = ClaimSpec(holder=holder, thing=wish.thing, farm=wish.farm)
        world.put(Claim(metadata=Meta(name=wish.name, uid=f"uid-{wish.name}"), spec=spec))
    for secret in resolution.secrets or ():
        if secret.values is not None:
            _secret(world, subject, secret)
    for workload in (resolution.workloads or ()) if nodes else ():
        if workload.part is not None:
            _workload(world, subject, workload)
    current: Any = world.peek(subject.key)
    if resolution.status is not None and current is not None:
        found = conditions(resolution.verdict, resolution.conditions, current.status.conditions, 1, NOW)
        status = resolution.status.model_copy(update={"conditions": found, "observed_generation": 1})
        pool = subject.POOL
        if pool is not None and getattr(current.status, pool) != getattr(subject.status, pool):
            return current  # guarded: others took shares of it meanwhile
        current = current.model_copy(update={"status": status})
        world.put(current)
    return current


def _share(world: World, key: Any, uid: str, entry: Any) -> None:
    pool: Any = world.peek(key)
    name = GRID[key.kind].model.POOL
    if pool is None or name is None:
        return
    others = tuple(other for other in getattr(pool.status, name) if other.uid != uid)
    if entry is not None and entry in getattr(pool.status, name):
        return
    entries = (*others, entry) if entry is not None else others
    world.put(pool.model_copy(update={"status": pool.status.model_copy(update={name: entries})}))


def _secret(world: World, subject: Any, wanted: Any) -> None:
    present: Any = world.peek(Secret.key_of(subject.namespace, wanted.name))
    made = base64.b64encode(bytes(PrivateKey(bytes(range(32))))).decode()
    private = present.text("privateKey") if present is not None else made
    data = {name: base64.b64encode(value.encode()).decode() for name, value in contents(wanted, private).items()}
    owner = OwnerReference(api_version=subject.API_VERSION, kind=subject.KIND, name=subject.name, uid=subject.uid)
    meta = Meta(name=wanted.name, namespace=subject.namespace, uid=f"uid-{wanted.name}", owner_references=(owner,))
    world.put(Secret(metadata=meta, data=data))


def _workload(world: World, subject: Any, wanted: Workload) -> None:
    place = names.node_namespace(wanted.node)
    name = names.readable(f"{subject.KIND}-{subject.namespace}-{subject.name}", subject.uid)
    present: Any = world.peek(NodeWorkload.key_of(place, name))
    before = present.spec.secrets if present is not None else ()
    secrets = before if wanted.secrets is None else seal(wanted.secrets, wanted.sealing_key, before)
    owner = Owner(kind=subject.KIND, namespace=subject.namespace, name=subject.name, uid=subject.uid)
    assert wanted.part is not None
    spec = GRID.workload.asking(owner, wanted.part, secrets, older=wanted.older)
    meta = Meta(name=name, namespace=place, uid=f"uid-{place}-{name}", generation=1, finalizers=("zos.grid.tf/agent",))
    made = GRID.workload(metadata=meta, spec=spec)
    ready = Condition(type="Ready", status="True", reason="Succeeded", observed_generation=1)
    status = made.saying(_state(made, present), observed_generation=1, conditions=(ready,))
    world.put(made.model_copy(update={"status": status}))


def _state(made: NodeWorkload, present: NodeWorkload | None) -> State | None:
    part, served = made.spec.part, GRID.on_node(made)
    if isinstance(part, MachineOnNode):
        return _machine(part, present)
    if isinstance(part, MountOnNode):
        return MountState(size=part.size, used=part.holds_data)
    if served is None or served.state is None:
        return None
    # Of any other kind all is there, and has come to nothing yet.
    amounts = [name for name, field in served.state.model_fields.items() if field.annotation == Quantity | None]
    return served.state(**dict.fromkeys(amounts, 0))


def _machine(part: MachineOnNode, present: NodeWorkload | None) -> MachineState:
    """Its guest keeps what it was started with until it is restarted."""
    if part.run_policy is RunPolicy.HALTED:
        return MachineState(state="Stopped", mode="container", root_size=part.root_size)
    before = present.part(MachineOnNode) if present is not None else None
    state = present.state(MachineState) if present is not None else None
    runs = state.runs if state is not None and before is not None and before.restarted_at == part.restarted_at else None
    return MachineState(state="Running", mode="container", root_size=part.root_size, runs=runs or part.run)
