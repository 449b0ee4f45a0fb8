"""``python -m zos.programs.flist.check FILE [--directory DIR]…``: whether an flist can be mounted. Says the hosts of its
routes, or why not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zos.programs.flist.catalogue import BadFlist, Catalogue
from zos.programs.flist.sources import Web, source


def main() -> None:
    words = argparse.ArgumentParser(prog="zos.programs.flist.check")
    words.add_argument("file", type=Path)
    words.add_argument("--directory", type=Path, action="append", default=[])
    told = words.parse_args()
    try:
        catalogue = Catalogue(told.file)
        sources = [source(route, tuple(told.directory)) for route in catalogue.routes]
    except BadFlist as error:
        sys.exit(str(error))
    for host in dict.fromkeys(one.host for one in sources if isinstance(one, Web)):
        print(host)


if __name__ == "__main__":
    main()
