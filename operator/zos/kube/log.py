"""Structured logs: one JSON object a line on stderr, with the fields that a caller passes in ``extra``."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from zos.api.meta import Key, Object

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """``fixed`` fields (the node, the identity) are in every line."""

    def __init__(self, fixed: dict[str, str]) -> None:
        super().__init__()
        self._fixed = fixed

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fixed,
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(level: str = "INFO", **fixed: str) -> None:
    """Sends everything to stderr; libraries only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(fixed))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("zos").setLevel(level.upper())
    # Its refusals while the API server is away are told once by the informer, not at every attempt by kopf.
    logging.getLogger("kopf").setLevel(logging.CRITICAL)


def about(key: Key, obj: Object | None = None) -> dict[str, object]:
    """The fields of a record (``extra``) that say which object it is about."""
    found: dict[str, object] = {"kind": key.kind, "namespace": key.namespace, "object": key.name}
    return found | ({"generation": obj.metadata.generation} if obj is not None else {})
