"""Which credentials are for an image in a registry, by what they are called (containers-auth.json(5))."""

from __future__ import annotations

from collections.abc import Container

#: What the credentials that an object's image is fetched with are called among its secrets: this, and where they are from, as a
#: digest.
PULL = "image/"


def nearest(names: Container[str], reference: str) -> str | None:
    """Of names like ``registry.example/team``: that of the repository of ``registry.example/team/app:1``, else of the nearest
    namespace above, else of the registry. None: none is for it."""
    head, slash, last = reference.partition("@")[0].rpartition("/")
    name = f"{head}{slash}{last.partition(':')[0]}"
    while name:
        if name in names:
            return name
        name = name.rpartition("/")[0]
    return None
