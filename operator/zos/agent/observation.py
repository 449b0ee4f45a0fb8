"""What the drivers see, kept between passes: a driver is asked again only when something about it may have changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from zos.drivers import Driver, DriverError, Remembering
from zos.plan.diff import Observed
from zos.plan.items import Item

log = logging.getLogger("zos.agent")

_FIRST_RETRY = 1.0
_LAST_RETRY = 30.0


class Observation:
    """``clock`` gives seconds, any origin. A driver that does not answer within ``patience`` seconds counts as one that can't
    look; ``answered`` hears when it does after all, and what it says then is taken."""

    def __init__(
        self, drivers: Sequence[Driver], clock: Callable[[], float], patience: float, answered: Callable[[], None]
    ) -> None:
        self._drivers = drivers
        self._clock = clock
        self._patience = patience
        self._answered = answered
        self._looking: dict[Driver, asyncio.Task[None]] = {}
        self._seen: dict[Driver, Mapping[str, Observed]] = {}
        self._stale: set[Driver] = set(drivers)
        self._asked: dict[Driver, Mapping[str, Item]] = {}  # what was wanted when a driver looked last
        self._errors: dict[Driver, tuple[str, int, float | None]] = {}  # error, tries, when to look again

    @property
    def stale(self) -> bool:
        return bool(self._stale)

    @property
    def complete(self) -> bool:
        """Every driver could be asked: what is not seen is not there."""
        return not self._errors and len(self._seen) == len(self._drivers)

    @property
    def blind(self) -> Mapping[Driver, str]:
        """Drivers of which it is not known what they have, and why: they could not look, or have not yet."""
        return {driver: "not looked at yet" for driver in self._drivers if driver not in self._seen} | dict(self.errors)

    @property
    def errors(self) -> Mapping[Driver, str]:
        """Drivers whose subsystem can't be seen, and why."""
        return {driver: error for driver, (error, _, _) in self._errors.items()}

    def mark(self, driver: Driver) -> None:
        self._stale.add(driver)

    def mark_all(self) -> None:
        for driver in self._drivers:
            if isinstance(driver, Remembering):
                driver.distrust()
        self._stale.update(self._drivers)

    def retry_at(self) -> float | None:
        return min((at for _, _, at in self._errors.values() if at is not None), default=None)

    def seen(self) -> dict[str, Observed]:
        """Everything of ours on the node. Of drivers that can't look: what they saw last."""
        return {key: thing for seen in self._seen.values() for key, thing in seen.items()}

    def compare(self, wanted: Iterable[Item]) -> None:
        """A driver that looked with other wishes in mind looks again: some can tell right from wrong only that way, and those
        that know facts know them of what is wanted only."""
        for item in wanted:
            for driver in self._drivers:
                if isinstance(item, driver.ITEMS) and driver in self._seen:
                    asked = self._asked[driver].get(item.key)
                    if asked != item and (driver.SLOW or item.key in self._seen[driver]):
                        self._stale.add(driver)

    async def refresh(self, wanted: Iterable[Item]) -> None:
        """Asks the stale drivers, in parallel; those that have not answered yet aren't asked again."""
        now = self._clock()
        due = [driver for driver in self._drivers if driver not in self._looking and self._is_due(driver, now)]
        self._stale.difference_update(due)  # before looking: a change that comes meanwhile marks it again
        items = list(wanted) if due else []
        await asyncio.gather(*(self._look(driver, [i for i in items if isinstance(i, driver.ITEMS)]) for driver in due))

    async def close(self, seconds: float) -> None:
        """Calls off what has not answered yet, and leaves behind what can't be called off in that time."""
        for look in self._looking.values():
            look.cancel()
        if self._looking:
            await asyncio.wait(self._looking.values(), timeout=seconds)

    def _is_due(self, driver: Driver, now: float) -> bool:
        again = self._errors[driver][2] if driver in self._errors else None
        return driver in self._stale or (again is not None and again <= now)

    async def _look(self, driver: Driver, items: Sequence[Item]) -> None:
        look = self._looking[driver] = asyncio.create_task(self._ask(driver, items), name=f"look {type(driver).__name__}")
        try:
            await asyncio.wait([look], timeout=self._patience)
        finally:
            if look.done():
                del self._looking[driver]
            else:
                look.add_done_callback(lambda _: self._late(driver))
        if look.done():
            look.result()
            return
        part = type(driver).__name__.removesuffix("Driver").lower()
        said = f"the {part} driver has not answered for {self._patience:g} s, and is waited for"
        log.warning("%s can't be seen: %s", type(driver).__name__, said)
        self._errors[driver] = (said, self._errors[driver][1] if driver in self._errors else 0, None)

    def _late(self, driver: Driver) -> None:
        del self._looking[driver]
        self._answered()

    async def _ask(self, driver: Driver, items: Sequence[Item]) -> None:
        try:
            self._seen[driver] = await driver.observe(items)
            self._asked[driver] = {item.key: item for item in items}
            if self._errors.pop(driver, None) is not None:
                log.info("%s can be seen again", type(driver).__name__)
        except Exception as error:  # a subsystem that is away, or a driver's bug: its items wait, the others go on
            before = self._errors.get(driver)
            tries = before[1] + 1 if before is not None else 1
            expected = isinstance(error, (DriverError, OSError))
            said = str(error) if isinstance(error, DriverError) else f"{type(error).__name__}: {error}"
            if before is None or before[0] != said:
                log.warning("%s can't be seen: %s", type(driver).__name__, said, exc_info=not expected)
            delay = min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(tries - 1, 10))
            self._errors[driver] = (said, tries, self._clock() + delay)
