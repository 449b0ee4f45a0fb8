"""What drivers know of the node, gathered for lowering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zos.drivers import Driver, Knowing
from zos.plan.facts import Fact, Known


def known(drivers: Iterable[Driver]) -> Known:
    """Facts from all drivers that have any."""
    found: dict[type[Fact], Mapping[str, Any]] = {}
    for driver in drivers:
        if isinstance(driver, Knowing):
            found |= driver.facts()
    return found


def unseen(blind: Mapping[Driver, str]) -> dict[type[Fact], str]:
    """Of what nobody could look, and why; given the drivers that could not. Of a fact that nobody misses so, what was seen last
    goes on being true."""
    knowing = ((driver, why) for driver, why in blind.items() if isinstance(driver, Knowing))
    return {fact: why for driver, why in knowing for fact in driver.FACTS if fact.ABOUT}
