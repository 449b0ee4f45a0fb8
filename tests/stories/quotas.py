"""What administrators say of how much a namespace may hold, and of how often a node's processors are promised."""

from __future__ import annotations

import json
import re

from harness import Grid, obj, until


def says_of_node(grid: Grid, name: str, **spec: object) -> None:
    grid.kubectl("patch", "gridnode", name, "--type=merge", "-p", json.dumps({"spec": spec}))


def are_kept_and_processors_promised(grid: Grid, namespace: str) -> None:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    grid.apply("", obj("Quota", namespace, namespaces=selector, storage="100Mi"))
    try:
        for name in ("first", "second"):
            grid.apply(namespace, obj("ZMount", name, size="64Mi"))
            if name == "first":
                grid.ready(namespace, "zmount/first")
        words = f"storage: 64Mi of 100Mi used, 64Mi asked (Quota {namespace})"
        grid.says(namespace, "zmount", "second", words, "QuotaExceeded")
        used = [{"namespace": namespace, "used": {"cpu": 0, "machines": 0, "memory": "0", "publicIPv4": 0, "storage": "64Mi"}}]
        until(lambda: (grid.get("quota", namespace) or {})["status"].get("used") == used, 10)
        grid.kubectl("delete", "zmount", "first", "-n", namespace, "--timeout=60s")
        grid.ready(namespace, "zmount/second", seconds=30)
        before = (grid.get("gridnode", "n2") or {})["status"]["usage"]["cpu"]
        offered = int(re.sub(".*/", "", before))
        says_of_node(grid, "n2", cpuOvercommitPercent=300)
        until(lambda: (grid.get("gridnode", "n2") or {})["status"]["usage"]["cpu"].endswith(f"/{3 * offered}"), 10)
    finally:
        says_of_node(grid, "n2", cpuOvercommitPercent=None)
        grid.kubectl("delete", "quota.zos.grid.tf", namespace, "--timeout=30s")
