"""An object's deletion, step by step: what it waits for is said, and its shares are given back last."""

from __future__ import annotations

from collections.abc import Callable

from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, Key, Object, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.controller.claims import Claims
from zos.controller.farewell import Farewell, HeldBack, Word
from zos.controller.ledger import Ledger
from zos.controller.nodeworkloads import NodeWorkloads
from zos.controller.patience import Patience
from zos.controller.telling import Telling
from zos.controller.writing import every
from zos.world.resolution import Resolution, Verdict


class Deletion:
    """``again`` has an object looked at once more, after so many seconds."""

    def __init__(
        self,
        ledger: Ledger,
        claims: Claims,
        workloads: NodeWorkloads,
        farewell: Farewell,
        telling: Telling,
        patience: Patience,
        again: Callable[[Key, float], None],
    ) -> None:
        self._ledger = ledger
        self._claims = claims
        self._workloads = workloads
        self._farewell = farewell
        self._telling = telling
        self._patience = patience
        self._again = again

    async def go_on(self, obj: Object, resolution: Resolution) -> bool:
        """Does what can be done now. Whether nothing is left to wait for; else the object says for what."""
        workloads = self._workloads.of(obj)
        unsaid = [workload for workload in workloads if not (workload.deleting and workload.spec.unwanted)]
        word = await self._word(obj, resolution, unsaid)
        if resolution.waits_for and word is not Word.NONE:
            if surplus := self._claims.surplus(obj, resolution.claims):  # what was still being taken: nobody will use it
                await self._claims.release(obj, surplus)
            await self._blocked(obj, resolution, f"waits for {', '.join(resolution.waits_for)}")
            return False
        try:
            await every([self._farewell.part(workload, word) for workload in unsaid])
            if isinstance(obj, GridNode) and word is not Word.NONE:
                workloads += await self._farewell.leave_grid(obj, resolution.dismantled)
        except HeldBack as why:
            await self._blocked(obj, resolution, f"waits: {why}")
            return False
        if unread := self._workloads.unread(obj):
            words = "can't be read by this controller: upgrade it"
            await self._blocked(obj, resolution, f"{', '.join(map(str, unread))} {words}")
            return False
        gives_up = obj.metadata.annotations.get(ABANDON) == obj.uid and not isinstance(obj, GridNode)
        if workloads and not gives_up:
            verdict = self._farewell.waiting(obj, workloads)
            if (pause := self._patience.pause(obj, verdict)) > 0:
                self._again(obj.key, pause)
            else:
                await self._waits(obj, resolution, verdict)
            return False
        if word is not Word.NONE:  # else its shares stay until it is known that nothing of it is left on its node
            await every([w for pool in resolution.releases if (w := self._ledger.release(pool, obj.uid)) is not None])
            await self._claims.drop(self._claims.of(obj))
        return True

    async def _word(self, obj: Object, resolution: Resolution, unsaid: list[NodeWorkload]) -> Word:
        """What its user said: asked of the API server only where anything follows from it."""
        if unsaid or self._claims.of(obj) or resolution.waits_for or resolution.dismantled or resolution.releases:
            return await self._farewell.word(obj)
        return Word.ERASE

    async def _blocked(self, obj: Object, resolution: Resolution, why: str) -> None:
        await self._waits(obj, resolution, Verdict(False, Reason.DELETION_BLOCKED, why))

    async def _waits(self, obj: Object, resolution: Resolution, verdict: Verdict) -> None:
        """Says so; of a pool in one write with what it gives back, which that would undo."""
        status = self._telling.waits(obj, resolution, verdict)
        if status is None:
            return
        if obj.POOL is None:
            await self._telling.write(obj, status)
        elif (written := self._ledger.status(obj.key, status)) is not None:
            await written
