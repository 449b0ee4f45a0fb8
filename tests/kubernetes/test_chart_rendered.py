"""What Helm makes of the chart, and what it says of values that are wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import pytest
import yaml

from chart import CASES, CHART, GOLDEN, NAMESPACE, OLDEST, Manifest, container, helm, rendered, told
from zos.api.names import CONTROLLER_NAMESPACE
from zos.manifests import crd
from zos.manifests.admission import admission_objects
from zos.manifests.rbac import GRID_READER, controller_objects

_COMMON = ("app.kubernetes.io/", "helm.sh/chart")
_SOURCES = {
    **{name: yaml.safe_load(text) for name, text in crd.files().items()},
    **{f"{one['kind']} {one['metadata']['name']}": dict(one) for one in (*controller_objects(), *admission_objects())},
}


def called(one: Manifest) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def by_name(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    found = [*manifests]
    assert len({called(one) for one in found}) == len(found), "nothing is there twice"
    return {called(one): one for one in found}


def plain(one: Manifest) -> Manifest:
    """Without what the chart adds to what is generated."""
    meta = {key: value for key, value in one["metadata"].items() if key != "annotations"}
    meta["labels"] = {key: value for key, value in meta["labels"].items() if not key.startswith(_COMMON)}
    return {**one, "metadata": {key: value for key, value in meta.items() if value}}


def shown(one: Manifest) -> Manifest:
    """As it is in a snapshot: of what is reviewed elsewhere only what the chart adds."""
    if called(one) in _SOURCES or one["kind"] == "CustomResourceDefinition":
        return {key: one[key] for key in ("apiVersion", "kind", "metadata")}
    if one["kind"] == "PrometheusRule":
        return {**one, "spec": "alerts/zos.yaml"}
    if one["metadata"]["name"] == "zos-dashboard":
        return {**one, "data": [*one["data"]]}
    return one


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_was_reviewed(case: str) -> None:
    found = yaml.safe_dump_all(map(shown, rendered(*CASES[case])), sort_keys=False, width=120, allow_unicode=True)
    path = GOLDEN / f"{case}.rendered.yml"
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_against_it(case: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--namespace", NAMESPACE, *CASES[case])
    assert done.returncode == 0, done.stdout + done.stderr


def test_kinds_rights_and_policies_are_those_that_are_applied_without_helm() -> None:
    """To the last field: above all, no label of one role, by which rights are aggregated, is another's."""
    found = by_name(rendered())
    for name, wanted in _SOURCES.items():
        if wanted["kind"] == "Namespace":
            continue
        assert plain(found[called(wanted)]) == yaml.safe_load(yaml.safe_dump(wanted)), name


def test_what_a_cluster_does_not_know_it_is_not_given() -> None:
    now, before = by_name(rendered()), by_name(rendered(version=OLDEST))
    assert now.keys() - before.keys() == {
        f"{kind} finalizers.zos.grid.tf" for kind in ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
    }
    assert before.keys() <= now.keys()


def test_parts_can_be_left_out() -> None:
    every = by_name(rendered()).keys()
    assert every - by_name(rendered(*told("crds.enabled", False))).keys() == {
        f"CustomResourceDefinition {name.removesuffix('.yaml')}" for name in crd.files()
    }
    assert every - by_name(rendered(*told("rbac.gridReaders", False))).keys() == {f"ClusterRoleBinding {GRID_READER}"}
    assert every - by_name(rendered(*told("controller.replicas", 1))).keys() == {"PodDisruptionBudget zos-controller"}
    assert every - by_name(rendered(*told("controller.networkPolicy.enabled", False))).keys() == {
        "NetworkPolicy zos-controller"
    }


def test_kinds_are_kept_unless_somebody_says_otherwise() -> None:
    kept = [one["metadata"].get("annotations") for one in rendered() if one["kind"] == "CustomResourceDefinition"]
    assert kept == [{"helm.sh/resource-policy": "keep"}] * len(crd.files())
    gone = [one["metadata"] for one in rendered(*told("crds.keep", False)) if one["kind"] == "CustomResourceDefinition"]
    assert not [meta for meta in gone if "annotations" in meta]


def test_every_object_has_the_labels_that_are_asked_for() -> None:
    found = rendered(*CASES["everything"])
    assert not [called(one) for one in found if one["metadata"].get("labels", {}).get("team") != "grid"]
    pods = [one["spec"]["template"] for one in found if "template" in one.get("spec", {})]
    assert pods
    assert not [pod for pod in pods if pod["metadata"]["labels"]["team"] != "grid"]


def test_pods_run_as_accounts_that_are_there() -> None:
    found = by_name(rendered())
    pods = [one["spec"]["template"]["spec"] for one in found.values() if "template" in one.get("spec", {})]
    pods += [one["spec"] for one in found.values() if one["kind"] == "Pod"]
    assert len(pods) == 4
    assert {f"ServiceAccount {pod['serviceAccountName']}" for pod in pods} <= found.keys()


def test_whoever_selects_pods_selects_those_alone() -> None:
    found = rendered(*CASES["pools"], *told("monitoring.serviceMonitor.enabled", True))
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in found if one["kind"] in _WORKLOADS
    }
    for one in found:
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        wanted = selector.get("matchLabels", selector) if one["kind"] != "ServiceMonitor" else None
        if wanted is None or one["kind"] not in (*_WORKLOADS, "PodDisruptionBudget", "NetworkPolicy", "Service"):
            continue
        selected = {name for name, labels in pods.items() if wanted.items() <= labels.items()}
        name = one["metadata"]["name"].removesuffix("-metrics")
        assert selected == {pod for pod in pods if pod == name or (one["kind"] == "Service" and pod.startswith(f"{name}-"))}


_WORKLOADS = ("Deployment", "DaemonSet")


def test_nothing_but_agents_and_the_controller_has_a_token_and_nothing_but_nodes_pods_privileges() -> None:
    for one in rendered():
        if one["kind"] not in _WORKLOADS:
            continue
        pod, of_node = one["spec"]["template"]["spec"], one["kind"] == "DaemonSet"
        security = container(one)["securityContext"]
        assert pod.get("automountServiceAccountToken", True) is not one["metadata"]["name"].startswith("zos-runtime")
        assert (security.get("privileged", False), pod.get("hostPID", False), pod.get("hostNetwork", False)) == (of_node,) * 3
        if not of_node:
            assert security == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65532)


def test_an_image_of_its_own_is_the_runtimes_alone() -> None:
    def images(*words: str) -> dict[str, str]:
        found = [one for one in rendered(*words) if one["kind"] in _WORKLOADS]
        return {one["metadata"]["labels"]["app.kubernetes.io/component"]: container(one)["image"] for one in found}

    digest = f"sha256:{'a' * 64}"
    assert images() == {"controller": "zos-controller:0.3.0", "agent": "zos-node:0.3.0", "runtime": "zos-node:0.3.0"}
    own = images(*told("images.node.repository", "r/n"), *told("images.node.tag", "2"), *told("images.runtime.tag", "1"))
    assert (own["agent"], own["runtime"]) == ("r/n:2", "r/n:1")
    own = images(*told("images.node.digest", digest), *told("images.runtime.repository", "r/runtime"))
    assert (own["agent"], own["runtime"]) == (f"zos-node@{digest}", "r/runtime:0.3.0")
    assert images(*told("images.node.tag", "2"), *told("images.node.digest", digest))["runtime"] == f"zos-node:2@{digest}"


@pytest.mark.parametrize(
    ("value", "wrong", "named"),
    [
        ("images.controller.repository", "", "/images/controller/repository"),
        ("images.node.repository", "https://r/n", "/images/node/repository"),
        ("images.node.tag", "a b", "/images/node/tag"),
        ("images.runtime.digest", "sha256:1", "/images/runtime/digest"),
        ("images.node.pullPolicy", "Sometimes", "/images/node/pullPolicy"),
        ("images.agent", {}, "'agent'"),
        ("imagePullSecrets", ["mine"], "/imagePullSecrets/0"),
        ("commonLabels", {"a": "b c"}, "/commonLabels/a"),
        ("commonLabels", {"a b": "c"}, "'a b'"),
        ("commonLabels", {"app.kubernetes.io/name": "c"}, "'app.kubernetes.io/name'"),
        ("crds.keep", "yes", "/crds/keep"),
        ("rbac.gridReaders", 1, "/rbac/gridReaders"),
        ("controller.replica", 3, "'replica'"),
        ("controller.replicas", "2", "/controller/replicas"),
        ("controller.replicas", 10, "/controller/replicas"),
        ("controller.logLevel", "debug", "/controller/logLevel"),
        ("controller.resync", 1, "/controller/resync"),
        ("controller.resources.requests.memory", "1 GB", "/controller/resources/requests/memory"),
        ("controller.resources.request", {}, "'request'"),
        ("controller.affinity.nodes", {}, "'nodes'"),
        ("controller.tolerations", [{"operator": "Any"}], "/controller/tolerations/0/operator"),
        ("controller.topologySpreadConstraints", [{"maxSkew": 1}], "/controller/topologySpreadConstraints/0"),
        ("controller.priorityClassName", "Very High", "/controller/priorityClassName"),
        ("controller.networkPolicy.apiServerPorts", [], "/controller/networkPolicy/apiServerPorts"),
        ("controller.networkPolicy.apiServerPorts", [70000], "/controller/networkPolicy/apiServerPorts/0"),
        ("grid.farm", "Free Farm", "/grid/farm"),
        ("grid.publicInterface", "a-name-of-sixteen", "/grid/publicInterface"),
        ("grid.gatewayDomain", "localhost", "/grid/gatewayDomain"),
        ("node.accelerator", "xen", "/node/accelerator"),
        ("node.metrics.port", 443, "/node/metrics/port"),
        ("node.insecureRegistries", ["http://r:5000"], "/node/insecureRegistries/0"),
        ("node.registryAuth", "a/b", "/node/registryAuth"),
        ("node.imageDirs", ["images"], "/node/imageDirs/0"),
        ("node.imageDirs", ["/var/lib/zos/shared/../keys"], "/node/imageDirs/0"),
        ("node.imageDirs", ["/var/lib/zos/images"], "/node/imageDirs/0"),
        ("node.imageNetworks", ["10.0.0.1"], "/node/imageNetworks/0"),
        ("node.imageSize", "20 GiB", "/node/imageSize"),
        ("node.egressDeny", ["10.0.0.0/33"], "/node/egressDeny/0"),
        ("node.egressDeny", ["fd00::/129"], "/node/egressDeny/0"),
        ("node.startParallel", -1, "/node/startParallel"),
        ("node.heartbeat", 0, "/node/heartbeat"),
        ("node.lease", 10, "node.lease"),
        ("node.updateStrategy.type", "Recreate", "/node/updateStrategy/type"),
        ("node.updateStrategy.rollingUpdate.maxSurge", 1, "/node/updateStrategy/rollingUpdate/maxSurge"),
        ("runtime.logLevel", "INFO", "'logLevel'"),
        ("pools", [{"nodeSelector": {}}], "/pools/0"),
        ("pools", [{"name": "a", "nodes": 3}], "'nodes'"),
        ("pools", [{"name": "A"}], "/pools/0/name"),
        ("pools", [{"name": "a", "offer": {"cpu": 1.5}}], "/pools/0/offer/cpu"),
        ("pools", [{"name": "a", "offer": {"memory": 8}}], "/pools/0/offer/memory"),
        ("pools", [{"name": "a", "offer": {"disk": "1Ti"}}], "'disk'"),
        ("pools", [{"name": "a"}, {"name": "a"}], "pools: two of them are called a"),
        ("pools", [{"name": "a"}, {"name": "b", "nodeSelector": {"x": "y"}}], "pools: a and b"),
        (
            "pools",
            [{"name": "a", "nodeSelector": {"x": "y"}}, {"name": "b", "nodeSelector": {"x": "y", "z": "w"}}],
            "pools: a and b",
        ),
        ("monitoring.serviceMonitor.interval", "often", "/monitoring/serviceMonitor/interval"),
        ("monitoring.prometheusRules", {}, "'prometheusRules'"),
        ("monitoring.dashboard.labels", {"a": 1}, "/monitoring/dashboard/labels/a"),
        ("everything", True, "'everything'"),
    ],
)
def test_a_value_that_is_wrong_is_named(value: str, wrong: object, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        rendered(*told(value, wrong))


def test_it_is_for_one_namespace() -> None:
    assert NAMESPACE == CONTROLLER_NAMESPACE
    done = helm("template", "zos", str(CHART), "--namespace", "default")
    assert done.returncode != 0
    assert "for the namespace zos-system" in done.stderr
    assert "not for default: add --namespace zos-system" in done.stderr
