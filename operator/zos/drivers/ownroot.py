"""How what outlives the agent is started where the agent's own programs are.

Under Kubernetes an agent runs from a copy of its image, one of several in the node's tree (`zos.programs.node.layout`); what it
leaves to the supervisor, whose root may be another version's, has to find its way back to that. Elsewhere there is one root.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from zos.programs.node.layout import enter

#: The copy that this agent runs from; empty: the machine's own root.
_ROOT = os.environ.get("ZOS_ROOT", "")


def script(argv: Sequence[str], root: str | None = None) -> str:
    """The words for sh(1) that run ``argv`` in the agent's root, or in another ``root``, in the directory where it is called:
    the way into a root leads to the top of it. What is not of an image is at the same place in all roots."""
    root = _ROOT if root is None else root
    if not root:
        return shlex.join(argv)
    return f'{shlex.join(enter(root))} /usr/bin/env --chdir="$PWD" {shlex.join(argv)}'
