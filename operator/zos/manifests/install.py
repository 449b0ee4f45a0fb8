"""All that a cluster is given before anything of it runs: ``python -m zos.manifests.install [DIRECTORY]``.

Writes files for a chart or a repository, or prints them as one text for ``kubectl apply --server-side -f -``. The policies
of ``admission.yaml`` are about kinds, and the API server refuses them until it has heard of those: apply again soon after.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.manifests import crd
from zos.manifests.admission import admission_objects
from zos.manifests.rbac import Manifest, controller_objects


def files(kinds: Kinds = KINDS) -> dict[str, str]:
    """File name → content: every kind, who may do what, and what the API server itself does to objects."""
    return {
        **crd.files(kinds),
        "rights.yaml": _documents(controller_objects(kinds)),
        "admission.yaml": _documents(admission_objects(kinds)),
    }


def _documents(manifests: Iterable[Manifest]) -> str:
    return yaml.safe_dump_all(map(dict, manifests), sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str]) -> int:
    if not arguments:
        print("---\n".join(files().values()), end="")
        return 0
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text)
        print(directory / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
