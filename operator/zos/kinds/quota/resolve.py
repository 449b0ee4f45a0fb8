"""Quota: sums up what the namespaces hold that it selects. (It is `zos.world.quotas` that refuses what would be too much.)"""

from __future__ import annotations

from zos.api.core import Namespace
from zos.api.meta import Reason
from zos.api.quota import Amounts, Limits, Quota, QuotaStatus, Used
from zos.world import quotas
from zos.world.reader import Reader
from zos.world.resolution import Resolution, Verdict, ready, waiting

INDEXES = quotas.INDEXES
#: So many namespaces are told of in the status.
_SHOWN = 512
#: So many are named that hold more than they may.
_NAMED = 5


def resolve(quota: Quota, world: Reader) -> Resolution:
    if quota.deleting:
        return Resolution(verdict=waiting(Reason.DELETING, "its limits do not hold any more"))
    selected = [name for name, labels in world.views(Namespace, _labelled) if quota.spec.namespaces.matches(labels)]
    found = {name: quotas.held(world, name) for name in sorted(selected)}
    used = [Used(namespace=name, used=amounts) for name, amounts in found.items() if amounts != Amounts()]
    hard = Limits.model_validate({name: getattr(quota.spec, name) for name in Limits.model_fields})
    return Resolution(
        verdict=_judge(hard, used),
        status=QuotaStatus(matching=len(selected), hard=hard, used=tuple(used[:_SHOWN])),
    )


def _judge(hard: Limits, used: list[Used]) -> Verdict:
    said = []
    above = [f"{one.namespace} ({', '.join(words)})" for one in used if (words := [*hard.above(one.used)])]
    if above:
        more = f" and {len(above) - _NAMED} more" if len(above) > _NAMED else ""
        said.append(f"held beyond it, and left to whom it is held by: {', '.join(above[:_NAMED])}{more}")
    if len(used) > _SHOWN:
        said.append(f"of {len(used)} namespaces that hold something {_SHOWN} are shown")
    return ready("; ".join(said))


def _labelled(namespace: Namespace) -> tuple[str, dict[str, str]]:
    return namespace.name, quotas.labels_of(namespace)
