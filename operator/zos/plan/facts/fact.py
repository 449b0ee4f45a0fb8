"""What every fact has in common."""

from __future__ import annotations

from typing import ClassVar


class Fact:
    """Something that is known of the node, under a name. Subclasses are frozen dataclasses."""

    #: What people call it, where nobody being able to look means that it is not known. Empty: what was seen last counts.
    ABOUT: ClassVar[str] = ""


class Unknown(Exception):
    """A fact that nobody can tell for now, which is not the same as that there is none. The text is for the person who reads
    the condition."""
