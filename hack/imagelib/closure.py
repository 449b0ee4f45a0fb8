"""Which of the locked Python packages an image needs: those that its code imports, and what they need in turn.

``python -m imagelib.closure IMAGE`` prints that part of requirements.lock.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagelib.recipe import CHECKOUT, IMAGES, BuildError

_OURS = "zos"


def subset(roots: Sequence[str], checkout: Path = CHECKOUT) -> str:
    """The part of requirements.lock that ``roots`` need at run time. Raises BuildError."""
    locked = blocks((checkout / "requirements.lock").read_text())
    needed = closure(distributions(imported(checkout / "operator", roots), checkout))
    if missing := sorted(needed - locked.keys()):
        raise BuildError(f"requirements.lock has no {', '.join(missing)}: lock what pyproject.toml asks for anew")
    return "\n".join(locked[name] for name in sorted(needed)) + "\n"


def blocks(lock: str) -> dict[str, str]:
    """By canonical name: the lines of each package in a file as pip-compile writes it."""
    found = re.finditer(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    return {canonicalize_name(one[1]): _hashed(one[0]) for one in found}


def _hashed(text: str) -> str:
    return "\n".join(line for line in text.rstrip().split("\n") if not line.lstrip().startswith("#"))


def imported(operator: Path, roots: Sequence[str]) -> set[str]:
    """Top-level names of what is neither ours nor the standard library's, and is imported by ``roots`` or by what of ours they
    import, wherever in a module that stands."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name for root in roots for name in _below(operator, root)]
    while waiting:
        module = waiting.pop()
        path = _file(operator, module)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in _imports(ast.parse(path.read_text())):
            if name.partition(".")[0] == _OURS:
                words = name.split(".")
                waiting += [".".join(words[:end]) for end in range(1, len(words) + 1)]
            else:
                found.add(name.partition(".")[0])
    return found - sys.stdlib_module_names


def _below(operator: Path, root: str) -> Iterator[str]:
    folder = operator / root.replace(".", "/")
    yield root
    for path in sorted(folder.rglob("*.py")):
        yield ".".join(path.relative_to(operator).with_suffix("").parts).removesuffix(".__init__")


def _file(operator: Path, module: str) -> Path | None:
    place = operator / module.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


def _imports(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            yield from (name for child in node.orelse for name in _imports(child))
        case _:
            yield from (name for child in ast.iter_child_nodes(node) for name in _imports(child))


def distributions(names: Iterable[str], checkout: Path = CHECKOUT) -> set[str]:
    """Which packages bring these names, of pyproject.toml's dependencies and what those need. Raises BuildError for a name that
    none of them brings."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    asked = closure(Requirement(line).name for line in project["dependencies"])
    bring = importlib.metadata.packages_distributions()
    found: set[str] = set()
    for name in names:
        brought = {canonicalize_name(one) for one in bring.get(name, ())} & asked
        if not brought:
            raise BuildError(f"{name} is imported, and no dependency of pyproject.toml brings it: name the one that does there")
        found |= brought
    return found


def closure(names: Iterable[str]) -> set[str]:
    """With all that they need here, by what is installed. Canonical names."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), "") for name in names]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), one) for one in ("", *requirement.extras)]
    return found


if __name__ == "__main__":
    try:
        print(subset(IMAGES[sys.argv[1]].roots), end="")
    except BuildError as error:
        sys.exit(f"closure: {error}")
