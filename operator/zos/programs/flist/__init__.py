"""``python -m zos.programs.flist``: mounts an flist (rfs v2, https://github.com/threefoldtech/rfs), the tree of an image whose
contents are fetched block by block when they are first read, see ADR 0024. ``python -m zos.programs.flist.pack`` makes one.

A program like its neighbours: it imports nothing of the rest, and trusts neither the flist nor who serves its blocks.
"""
