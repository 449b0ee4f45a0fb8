"""Kinds beside the product's own: modules that have a ``KIND`` each.

``python -m gridlib.kinds controller|agent MODULE[,MODULE…] ARGUMENT…`` is the program of that name, with these.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterable

from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS


def with_kinds(modules: Iterable[str]) -> Kinds:
    """The product's and these. Raises ImportError, AttributeError, ValueError."""
    return KINDS.plus(*(importlib.import_module(name).KIND for name in modules))


def main() -> int:
    program, modules, *arguments = sys.argv[1:]
    kinds = with_kinds(modules.split(","))
    if program == "agent":
        from zos.agent.main import main as agent

        return agent(arguments, kinds)
    from zos.controller.__main__ import main as controller

    sys.argv[1:] = arguments
    asyncio.run(controller(kinds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
