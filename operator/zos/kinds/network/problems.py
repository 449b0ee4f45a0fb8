"""What keeps a network from being whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zos.api.meta import Reason

#: Nodes that are named where many have the same to say.
_SHOWN = 3


@dataclass
class Problems:
    """What keeps the network from being whole, worst first when it is judged."""

    found: list[tuple[Reason, str]] = field(default_factory=list)

    def add(self, reason: Reason, message: str) -> None:
        self.found.append((reason, message))


def called(kind: str, names: Sequence[str]) -> str:
    """A grid's nodes are often alike: what is said of all is said once."""
    if len(names) == 1:
        return f"{kind} {names[0]}"
    shown, more = names[:_SHOWN], len(names) - _SHOWN
    return f"{kind}s {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
