"""Values become text of manifests: whatever a value reads like there, it stays what it is, or it is refused with its name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from chart import CHART, NAMESPACE, TESTED, Manifest, helm, rendered, told

#: What YAML takes for something else than text, though each is a name that Kubernetes allows.
_LIKE_SOMETHING_ELSE = ("1", "007", "1e3", "0x1f", "1.5", "true", "null", "no", "2026-01-01")


def strings(one: object, path: str = "") -> Iterator[tuple[str, object]]:
    """What has to be a string wherever Kubernetes has it: values of labels, names."""
    if isinstance(one, dict):
        for key, value in one.items():
            if key in ("labels", "matchLabels", "annotations", "nodeSelector") and isinstance(value, dict):
                yield from ((f"{path}.{key}.{name}", text) for name, text in value.items())
            elif key in ("name", "priorityClassName", "secretName", "serviceAccountName", "namespace", "image"):
                yield f"{path}.{key}", value
            else:
                yield from strings(value, f"{path}.{key}")
    elif isinstance(one, list):
        for index, value in enumerate(one):
            yield from strings(value, f"{path}.{index}")


def otherwise(found: list[Manifest]) -> list[str]:
    """Where something else than a string is."""
    workloads = [one for one in found if one["kind"] != "CustomResourceDefinition"]
    workloads += [{"metadata": one["metadata"]} for one in found if one["kind"] == "CustomResourceDefinition"]
    return [path for one in workloads for path, value in strings(one) if not isinstance(value, str | dict)]


@pytest.mark.parametrize("name", _LIKE_SOMETHING_ELSE)
def test_a_name_that_reads_like_a_number_stays_a_name(name: str) -> None:
    values = (
        *told("controller.priorityClassName", name), *told("node.priorityClassName", name),
        *told("runtime.priorityClassName", name), *told("node.registryAuth", name), *told("commonLabels.team", name),
        *told("node.extraLabels.team", name), *told("controller.podAnnotations.team", name), *told("grid.farm", name),
        *told("imagePullSecrets", [{"name": name}]), *told("images.node.repository", "1"), *told("images.node.tag", name),
        *told("monitoring.serviceMonitor.enabled", True), *told("monitoring.serviceMonitor.labels.team", name),
        *told("pools", [{"name": name.replace(".", "-"), "nodeSelector": {"pool": name}}]),
    )  # fmt: skip
    done = helm("template", name, str(CHART), "--namespace", NAMESPACE, *TESTED, *values)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert not otherwise(found)
    pools = [one["metadata"]["labels"]["zos.grid.tf/pool"] for one in found if one["kind"] == "DaemonSet"]
    assert pools == [name.replace(".", "-")] * 2
    assert {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in found} == {name}


#: Paths of values, each with what it is called in what Helm says.
_EMPTY = (
    "images.runtime", "images.node.pullPolicy", "commonLabels", "crds", "rbac", "controller", "controller.replicas",
    "controller.networkPolicy", "grid", "node", "node.metrics", "node.metrics.port", "node.heartbeat", "node.lease",
    "node.logLevel", "node.updateStrategy", "runtime", "runtime.resources", "pools", "monitoring", "monitoring.dashboard",
)  # fmt: skip


@pytest.mark.parametrize("value", _EMPTY)
def test_a_key_that_nothing_stands_behind_is_named(value: str) -> None:
    """As it is left when all lines below it were made comments: Helm takes that for a default that is to go."""
    with pytest.raises(ValueError, match=re.escape(f"missing property '{value.rsplit('.', 1)[-1]}'")):
        rendered(*told(value, None))
