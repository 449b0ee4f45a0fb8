"""The files beside a WireGuard interface: what brings it back as it was, with the agent or without.

``conf`` is for wg(8), ``setup`` for ip(8), ``calls`` for the launcher; the card says whose the interface is, whether it is as
the files say, and where peers without an endpoint were heard from last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zos.drivers.wgtext import Live, callable_peers, configuration, setup, with_endpoints
from zos.files import Durability, write
from zos.plan.items import WireGuard

Card = Mapping[str, Any]


class Files:
    """Of one interface. Who writes them, one at a time, is the driver's affair."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.conf = directory / "conf"
        self.setup = directory / "setup"
        #: Made by the launcher when the interface is up.
        self.up = directory / "up"

    def card(self) -> Card:
        """Raises FileNotFoundError or NotADirectoryError where there is none, ValueError for one that can't be read."""
        found = json.loads((self._directory / "card").read_text())
        if not isinstance(found, dict):
            raise ValueError("no card")
        return found

    def write(self, item: WireGuard, private: str, learned: Mapping[str, str], *, done: bool) -> None:
        """``done`` says that the interface is as the files say; until then it counts as wrong."""
        self._write("conf", configuration(item, private, learned))
        self._write("setup", setup(item))
        self._write("calls", "".join(f"{peer.public_key} {peer.keepalive}\n" for peer in callable_peers(item, learned)))
        card = {
            "netns": item.netns,
            "owner": item.owner,
            "port": item.listen_port,
            "digest": digest(item) if done else "",
            "public_key": item.public_key,
            "item": {
                "peers": [[p.public_key, p.endpoint, list(p.allowed_ips), p.keepalive] for p in item.peers],
            },
            "learned": dict(sorted(learned.items())),
        }
        self._write("card", json.dumps(card))

    def learned(self, item: WireGuard, live: Live | None) -> dict[str, str]:
        """Where peers without an endpoint were heard from, now or before."""
        try:
            saved: dict[str, str] = dict(self.card()["learned"])
        except (OSError, ValueError, KeyError, TypeError):
            saved = {}
        heard = {**saved, **(live.endpoints if live is not None else {})}
        return {
            peer.public_key: heard[peer.public_key] for peer in item.peers if peer.endpoint is None and peer.public_key in heard
        }

    def to_learn(self) -> frozenset[str]:
        """Public keys of the peers without an endpoint; none of an interface that is not as it should be. Raises as `card`, or
        KeyError, TypeError."""
        card = self.card()
        return frozenset(key for key, endpoint, _, _ in card["item"]["peers"] if endpoint is None and card["digest"])

    def learn(self, endpoints: Mapping[str, str]) -> None:
        """Keeps where they were heard from. Raises as `to_learn`."""
        card = self.card()
        heard = {**card["learned"], **endpoints}
        if heard == card["learned"]:
            return
        self._write("conf", with_endpoints(self.conf.read_text(), heard))
        callable_ = [
            (key, keepalive) for key, place, _, keepalive in card["item"]["peers"] if place is not None or key in heard
        ]
        self._write("calls", "".join(f"{key} {keepalive}\n" for key, keepalive in callable_))
        self._write("card", json.dumps({**card, "learned": heard}))

    def _write(self, name: str, text: str) -> None:
        write(self._directory / name, text, Durability.VOLATILE)


def digest(item: WireGuard) -> str:
    parts = (item.netns, item.name, item.public_key, item.listen_port, item.mtu, item.addresses, item.routes, item.peers)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
