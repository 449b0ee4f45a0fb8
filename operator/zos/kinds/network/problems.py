"""What keeps a network from being whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from zos.api.meta import Reason


@dataclass
class Problems:
    """What keeps the network from being whole, worst first when it is judged."""

    found: list[tuple[Reason, str]] = field(default_factory=list)

    def add(self, reason: Reason, message: str) -> None:
        self.found.append((reason, message))
