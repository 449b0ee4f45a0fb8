"""How what outlives the agent is started where the agent's own programs are.

Under Kubernetes an agent runs from a copy of its image, one of several in the node's tree (`zos.programs.node.layout`); what it
leaves to the supervisor, whose root may be another version's, has to find its way back to that. Elsewhere there is one root.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from zos.programs.node.layout import enter

#: The copy that this agent runs from; empty: the machine's own root.
_ROOT = os.environ.get("ZOS_ROOT", "")


def within(argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` in the agent's root. It begins in `/` there, wherever it was started."""
    return [*(enter(_ROOT) if _ROOT else ()), *argv]
