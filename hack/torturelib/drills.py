"""The drills of docs/backup.md on a cluster, as they are written there."""

from __future__ import annotations

from torturelib.chaos import Action

ACTIONS: tuple[Action, ...] = ()
