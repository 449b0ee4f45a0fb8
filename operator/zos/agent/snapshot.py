"""The last known NodeWorkloads on disk, so that a node that boots while the API server is away comes up as it was."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from zos.agent.workloads import read
from zos.api.nodeworkload import NodeWorkload
from zos.files import Durability, write

log = logging.getLogger("zos.agent")


class Snapshot:
    """One file, mode 0600 (environments of machines are in it; secrets only sealed)."""

    def __init__(self, state: Path, model: type[NodeWorkload]) -> None:
        self._model = model
        self._file = state / "workloads.json"
        self._written: str | None = None
        self._texts: dict[str, tuple[NodeWorkload, str]] = {}

    def cluster(self) -> str | None:
        """The cluster that was saved for; None: that is not known."""
        try:
            return str(json.loads(self._file.read_text())["cluster"]) or None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def load(self, cluster: str | None) -> dict[str, NodeWorkload] | None:
        """What was saved for that cluster; None: nothing usable."""
        try:
            saved = json.loads(self._file.read_text())
            if cluster is None or saved["cluster"] != cluster:
                return None
            return {workload.name: workload for workload in (read(raw, self._model) for raw in saved["workloads"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the saved workloads can't be used: %s", error)
            return None

    def save(self, cluster: str, workloads: Mapping[str, NodeWorkload]) -> None:
        """Writes only what differs from the last time. Without status: it is not what should be, but what was."""
        self._texts = {name: (workload, self._text(name, workload)) for name, workload in sorted(workloads.items())}
        entries = ", ".join(text for _, text in self._texts.values())
        text = f'{{"cluster": {json.dumps(cluster)}, "workloads": [{entries}]}}'
        if text == self._written:
            return
        try:
            write(self._file, text, Durability.DURABLE)
            self._written = text
        except OSError as error:
            log.warning("workloads can't be saved: %s", error)

    def _text(self, name: str, workload: NodeWorkload) -> str:
        """Of those that have changed it is made anew."""
        known, text = self._texts.get(name, (None, ""))
        return text if known is workload else json.dumps({"metadata": workload.metadata.wire(), "spec": workload.spec.wire()})
