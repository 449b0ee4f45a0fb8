"""Nothing is Current (kstatus) for a change that its nodes were not told or have not carried out, whoever is slow."""

from __future__ import annotations

import pytest

from slowgrid import MODELS, life, too_early
from wholegrid import Grid
from zos.api.meta import Key
from zos.api.zmachine import ZMachine
from zos.kube.client import Raw


def current(raw: Raw) -> bool:
    """As kstatus and ``kubectl wait`` judge it."""
    status = raw.get("status", {})
    conditions = {found["type"]: found for found in status.get("conditions", ())}
    generation = raw["metadata"]["generation"]
    if any(conditions.get(kind, {}).get("status") == "True" for kind in ("Reconciling", "Stalled")):
        return False
    ready = conditions.get("Ready", {})
    return ready.get("status") == "True" and generation == status.get("observedGeneration") == ready.get("observedGeneration")


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_current_before_it_is_done(seed: int) -> None:
    seen: list[str] = []
    counted = dict.fromkeys(MODELS, 0)
    had: dict[Key, set[str]] = {}

    def look(grid: Grid, key: Key, raw: Raw | None) -> None:
        if key.kind == ZMachine.KIND and raw is not None:
            has = {name for name in ("nodeName", "ip") if raw.get("status", {}).get(name)}
            if had.setdefault(key, set()) - has:
                seen.append(f"{key} had {had[key]} and shows {has}")
            had[key] = has
        if key.kind in MODELS and raw is not None and current(raw) and "deletionTimestamp" not in raw["metadata"]:
            counted[key.kind] += 1
            if why := too_early(grid, MODELS[key.kind].model_validate(raw)):
                seen.append(f"{key}: {why}")

    grid = await life(seed, look)
    assert seen == []
    assert all(counted.values()), counted
    assert had[ZMachine.key_of("default", "web")] == {"nodeName", "ip"}
    for model in MODELS.values():
        for obj in grid.of(model):
            raw = grid.raw(model, obj.namespace, obj.name)
            assert raw is not None
            assert current(raw), (obj.key, raw["status"]["conditions"])
