"""The page for who is stuck knows every word that objects say."""

from __future__ import annotations

import re
from pathlib import Path

from zos.api.meta import EVENT_REASONS, Reason

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def test_every_reason_is_explained() -> None:
    """But for what events tell of how far it is: the reference has those."""
    assert {reason for reason in Reason if f"`{reason}`" not in PAGE} <= {Reason.SUCCEEDED, *EVENT_REASONS}


def test_every_further_condition_is_explained() -> None:
    types: set[str] = set()
    for file in (ROOT / "operator" / "zos").rglob("*.py"):
        text = file.read_text()
        types |= set(re.findall(r"Condition\(\s*type=\"(\w+)\"", text))
        for name in re.findall(r"Condition\(\s*type=([A-Z_]+),", text):
            types |= set(re.findall(rf"^{name} = \"(\w+)\"", _sources(), re.MULTILINE))
    assert types >= {"RestartRequired", "EgressBlocked", "MeshBlocked", "EndpointConflict"}
    assert {name for name in types if f"| `{name}` |" not in PAGE} <= {"Ready"}


def _sources() -> str:
    return "\n".join(file.read_text() for file in (ROOT / "operator" / "zos" / "api").glob("*.py"))
