"""Machines for the end-to-end tests: made, read and watched as a user does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness import IMAGE, Grid, obj, until
from zos.api import names

NETWORK = "private"


@dataclass
class Guests:
    """Machines in one namespace, all in one network on node n1 unless said otherwise."""

    grid: Grid
    namespace: str

    def network(self, *nodes: str) -> None:
        wanted = [{"name": name} for name in nodes or ("n1",)]
        self.grid.apply(self.namespace, obj("Network", NETWORK, ipRange="10.20.0.0/16", nodes=wanted))

    def spec(self, name: str, script: str | None, **more: Any) -> dict[str, Any]:
        """``script`` runs in the image's shell; None: the image's own entrypoint."""
        spec = {"image": IMAGE, "memory": "256Mi", "nodeName": "n1", "network": {"name": NETWORK}} | more
        if script is not None:
            spec["entrypoint"] = ["sh", "-c", script]
        return obj("ZMachine", name, **spec)

    def apply(self, name: str, script: str | None = None, **more: Any) -> None:
        self.grid.apply(self.namespace, self.spec(name, script, **more))

    def ready(self, *names: str, seconds: float = 180) -> None:
        self.grid.ready(self.namespace, *(f"zmachine/{name}" for name in names), seconds=seconds)

    def status(self, name: str) -> dict[str, Any]:
        return (self.grid.get("zmachine", name, self.namespace) or {}).get("status", {})

    def delete(self, kind: str, name: str) -> None:
        self.grid.kubectl("delete", kind, name, "-n", self.namespace, "--timeout=90s")

    def console(self, name: str) -> str:
        status = self.status(name)
        if not status.get("console"):
            return ""
        return self.grid.run(status["nodeName"], "cat", status["console"], check=False).replace("\r\n", "\n")

    def prints(self, name: str, words: str, seconds: float = 120) -> str:
        """Waits until the machine's console has ``words`` (a regular expression, lines by ^ and $)."""

        def look() -> str | None:
            text = self.console(name)
            assert re.search(words, text, re.MULTILINE), text[-2000:]
            return text

        return str(until(look, seconds, f"{name} prints {words!r}"))

    def says(self, name: str, words: str, reason: str = "", seconds: float = 80) -> dict[str, Any]:
        return self.grid.says(self.namespace, "zmachine", name, words, reason, seconds)

    def qemu(self, name: str) -> int:
        """The process of a machine's guest, as its node sees it."""
        uid = (self.grid.get("zmachine", name, self.namespace) or {})["metadata"]["uid"]
        node = self.status(name)["nodeName"]
        for pid in self.grid.run(node, "sh", "-c", "for f in /run/libvirt/qemu/zos-*.pid; do echo $(cat $f); done").split():
            if uid in self.grid.run(node, "cat", f"/proc/{pid}/cmdline", check=False):
                return int(pid)
        raise AssertionError(f"no guest of {name}")

    def virtiofsd(self, name: str) -> int:
        """The process that shares a machine's image with it, as its node sees it."""
        uid = (self.grid.get("zmachine", name, self.namespace) or {})["metadata"]["uid"]
        found = self.grid.run(
            self.status(name)["nodeName"], "sh", "-c", f"cat /run/libvirt/qemu/*-{names.domain(uid)}-fs0-fs.pid"
        )
        return int(found)

    # -- a machine that pings another, ten times a second

    def pinging(self, name: str, address: str) -> None:
        """Makes one, and waits until it is answered."""
        script = f"until ping -c1 -W1 {address} >/dev/null; do sleep 1; done; exec ping -i 0.1 {address}"
        self.apply(name, script)
        self.ready(name)
        self.prints(name, "seq=20 ttl")

    def answered(self, name: str) -> list[int]:
        """The numbers of its pings that were."""
        return [int(number) for number in re.findall(r"seq=(\d+) ttl", self.console(name))]

    def unanswered(self, name: str) -> list[int]:
        """Those between the first and the last answer that were not."""
        found = set(self.answered(name))
        return sorted(set(range(min(found), max(found))) - found)

    def goes_on_pinging(self, name: str) -> None:
        last = max(self.answered(name))
        until(lambda: max(self.answered(name)) > last + 20, 30, f"{name} goes on pinging")
