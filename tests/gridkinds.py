"""The kinds of the tests' grids: the product's, and those that only the tests have, a line each here."""

from __future__ import annotations

from gridlib.kinds import with_kinds

#: Modules that have a ``KIND``, as ``hack/minigrid up --kinds`` takes them.
MODULES = ("ping",)
GRID = with_kinds(MODULES)
