"""Which namespaces are meant, by their labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zos.api.meta import Model
from zos.api.text import LabelValue


class LabelExpression(Model):
    """metav1.LabelSelectorRequirement."""

    key: str = Field(min_length=1, max_length=317)
    """The label."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label must stand to ``values``. ``NotIn`` holds for namespaces without the label, too."""

    values: tuple[LabelValue, ...] = Field(default=(), max_length=64)
    """For ``In`` and ``NotIn``; the other two take none."""


class NamespaceSelector(Model):
    """metav1.LabelSelector over namespaces. Empty: every namespace."""

    match_labels: dict[str, LabelValue] = Field(default_factory=dict, max_length=64)
    """Labels that a namespace must have, with these values. Absent: no such demand."""

    match_expressions: tuple[LabelExpression, ...] = Field(default=(), max_length=64)
    """Further demands on its labels; all must hold."""

    def matches(self, labels: dict[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            _holds(expression, labels) for expression in self.match_expressions
        )


def _holds(expression: LabelExpression, labels: dict[str, str]) -> bool:
    value = labels.get(expression.key)
    if expression.operator == "In":
        return value in expression.values
    if expression.operator == "NotIn":
        return value not in expression.values
    if expression.operator == "Exists":
        return value is not None
    return value is None  # DoesNotExist, the last one that admission lets through
