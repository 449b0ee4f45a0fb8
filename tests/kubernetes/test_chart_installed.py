"""The chart, installed by Helm on a real API server. Nobody runs its pods here: that they are well is said by the test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver import ApiServer, free_port
from chart import CASES, CHART, NAMESPACE, container, helm, rendered
from zos.kinds.registry import KINDS
from zos.manifests import crd

_FARMS = "farms.zos.grid.tf"
_FOREIGN = {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}
_FARM = {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "Farm", "metadata": {"name": "freefarm"}, "spec": {}}


@contextmanager
def running(directory: Path) -> Iterator[ApiServer]:
    """Nothing is installed in it."""
    server = ApiServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with running(tmp_path / "server") as server:
        yield server


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One that is only asked what it would take."""
    with running(tmp_path_factory.mktemp("asked")) as server:
        server.kubectl("create", "namespace", NAMESPACE)
        yield server


def whole(kind: str, generation: int, replicas: int) -> dict[str, Any]:
    """The status of a workload all of whose pods are well."""
    if kind == "deployments":
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
        reasons = {"Available": "MinimumReplicasAvailable", "Progressing": "NewReplicaSetAvailable"}
        well = [{"type": type, "status": "True", "reason": reason} for type, reason in reasons.items()]
        return {"observedGeneration": generation, **counts, "conditions": well}
    names = ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberReady", "numberMisscheduled")
    return {"observedGeneration": generation, **dict.fromkeys(names, 0)}


@contextmanager
def pods_are_well(server: ApiServer) -> Iterator[None]:
    """As long as this lasts."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(0.2):
            for kind in ("deployments", "daemonsets"):
                found = server.kubectl("get", kind, "-n", NAMESPACE, "-o", "json", check=False)
                for one in json.loads(found or '{"items": []}')["items"]:
                    name, generation = one["metadata"]["name"], one["metadata"]["generation"]
                    if one.get("status", {}).get("observedGeneration") == generation:
                        continue
                    status = whole(kind, generation, one["spec"].get("replicas", 0))
                    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
                    server.kubectl("patch", kind, name, "-n", NAMESPACE, *patch, check=False)

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def run(server: ApiServer, *words: str) -> str:
    with pods_are_well(server):
        done = helm("--kubeconfig", server.kubeconfig, *words, "--namespace", NAMESPACE, "--wait", "--timeout", "60s")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(server: ApiServer, *words: str) -> str:
    return run(server, "install", "zos", str(CHART), "--create-namespace", *words)


def created(server: ApiServer, obj: object) -> dict[str, Any]:
    """Once the API server's policies have heard of the kind, which they do every few seconds."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return dict(json.loads(server.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(obj))))
        except RuntimeError as error:
            if "There can be a delay" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def as_account(server: ApiServer, name: str, path: Path) -> str:
    """A kubeconfig of one of the chart's accounts."""
    token = server.kubectl("create", "token", name, "-n", NAMESPACE).strip()
    config = json.loads(Path(server.kubeconfig).read_text())
    config["users"][0]["user"]["token"] = token
    path.write_text(json.dumps(config))
    return str(path)


def check(kubeconfig: str, seconds: float = 0) -> tuple[int, str]:
    """What the pod of ``helm test`` does."""
    command = [sys.executable, "-m", "zos.installcheck", "--kubeconfig", kubeconfig, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@contextmanager
def controller(server: ApiServer, kubeconfig: str) -> Iterator[subprocess.Popen[bytes]]:
    """One as the chart starts it: with the rights that the chart gives it, as a user whom nobody has heard of."""
    (found,) = (one for one in rendered() if one["kind"] == "Deployment")
    user = str(found["spec"]["template"]["spec"]["securityContext"]["runAsUser"])
    words = [word.replace("$(POD_NAME)", "zos-controller-a") for word in container(found)["args"]]
    words = [word.replace(":9441", f"127.0.0.1:{free_port()}") for word in words]
    with open(server.directory / "controller.log", "wb") as log:
        # It may read files wherever this checkout and its Python are.
        reads = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *reads, "--"]
        command += [sys.executable, "-m", "zos.controller", "--kubeconfig", kubeconfig, *words]
        bare = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**bare, "HOME": "/"})
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def names(server: ApiServer, kinds: str, *words: str) -> set[str]:
    """Without what every namespace has."""
    found = server.kubectl("get", kinds, "-o", "name", *words).split()
    return {name for name in found if name not in ("configmap/kube-root-ca.crt", "serviceaccount/default")}


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_all_of_it(asked: ApiServer, case: str) -> None:
    """Every optional part included. What others' operators bring is here in name only."""
    foreign = [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.monitoring.coreos.com"},
            "spec": {
                "group": "monitoring.coreos.com",
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [
                    {
                        "name": "v1",
                        "served": True,
                        "storage": True,
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                ],
            },
        }
        for kind, plural in _FOREIGN.items()
    ]
    manifests = rendered(*CASES[case])
    accounts = [one for one in manifests if one["kind"] == "ServiceAccount"]  # no pod is taken without its own
    asked.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([*foreign, *accounts]))
    crds = [f"crd/{one['metadata']['name']}" for one in foreign]
    asked.kubectl("wait", "--for=condition=Established", *crds)
    said = asked.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(manifests))
    assert said.count("serverside-applied") == len(manifests), said


def older(tmp_path: Path) -> str:
    """The chart of an older release, which had one kind in another form and another had not."""
    chart = tmp_path / "older"
    shutil.copytree(CHART, chart)
    (chart / "generated/crds/quotas.zos.grid.tf.yaml").unlink()
    path = chart / f"generated/crds/{_FARMS}.yaml"
    path.write_text(path.read_text().replace("Who owns public addresses", "Whose public addresses are"))
    return str(chart)


def farms(server: ApiServer) -> str:
    found = json.loads(server.kubectl("get", "crd", _FARMS, "-o", "json"))
    return str(found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"])


def uid(server: ApiServer, name: str) -> str:
    return str(json.loads(server.kubectl("get", name, "-o", "json"))["metadata"]["uid"])


def test_it_is_installed_upgraded_taken_away_and_installed_again(server: ApiServer, tmp_path: Path) -> None:
    run(server, "install", "zos", older(tmp_path), "--create-namespace")
    farm = created(server, _FARM)
    assert farm["metadata"]["finalizers"] == ["zos.grid.tf/controller"], "which the API server itself gives it"
    assert farms(server).startswith("Whose public addresses are")

    notes = run(server, "upgrade", "zos", str(CHART))
    assert farms(server).startswith("Who owns public addresses")
    assert "crd/quotas" in str(names(server, "crd")).replace("customresourcedefinition.apiextensions.k8s.io", "crd")
    _what_notes_say_is_right(server, notes)
    run(server, "rollback", "zos", "1")
    assert farms(server).startswith("Whose public addresses are")
    run(server, "rollback", "zos", "2")

    run(server, "uninstall", "zos")
    assert names(server, "crd") == {
        f"customresourcedefinition.apiextensions.k8s.io/{name.removesuffix('.yaml')}" for name in crd.files()
    }
    left = [
        *names(server, "clusterroles,clusterrolebindings"),
        *names(server, "validatingadmissionpolicies,validatingadmissionpolicybindings"),
        *names(server, "mutatingadmissionpolicies,mutatingadmissionpolicybindings"),
    ]
    assert not [name for name in left if "zos" in name]
    inside = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,pods,jobs"
    assert names(server, inside, "-n", NAMESPACE) == set()
    install(server)
    assert uid(server, "farm/freefarm") == farm["metadata"]["uid"]


def _what_notes_say_is_right(server: ApiServer, notes: str) -> None:
    """The manifests in them are taken by the API server."""
    texts = [text.split("EOF")[0] for text in notes.split("<<EOF\n")[1:]]
    said = "".join(
        server.kubectl("apply", "--dry-run=server", "-n", "default", "-f", "-", stdin=text.replace("\n     ", "\n"))
        for text in ("\n" + text for text in texts)
    )
    assert [line.split()[0] for line in said.splitlines()] == ["network.zos.grid.tf/first", "zmachine.zos.grid.tf/first"]


def test_whether_it_is_whole_is_told_with_what_to_do(server: ApiServer, tmp_path: Path) -> None:
    install(server)
    me = as_account(server, "zos-installcheck", tmp_path / "check")
    code, said = check(me)
    assert code == 1
    assert f"ok: all {len(KINDS.models)} kinds are served" in said
    assert "wrong: no controller has led yet: kubectl logs -n zos-system deployment/zos-controller" in said

    with controller(server, as_account(server, "zos-controller", tmp_path / "controller")):
        code, said = check(me, seconds=30)
        assert code == 0, said + (server.directory / "controller.log").read_text()
        assert "ok: zos-controller-a leads" in said
        assert "ok: no GridNode yet: kubectl label node NODE" in said
        created(server, {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "GridNode", "metadata": {"name": "n1"}, "spec": {}})
        server.kubectl("wait", "gridnode/n1", "--for=jsonpath={.status.nodeNamespace}", "--timeout=20s")
        code, said = check(me)
        assert code == 1
        assert "wrong: GridNode n1 is not Ready: Progressing, its agent has not reported yet" in said
        status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Succeeded", "message": ""}]}

    code, said = check(me)
    assert "wrong: nobody renews the Lease zos-controller" in said
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    server.kubectl("patch", "gridnode", "n1", *patch)
    server.kubectl("delete", "validatingadmissionpolicybinding", "agents-leases.zos.grid.tf")
    loose = ("--type=merge", "-p", json.dumps({"spec": {"validationActions": ["Audit"]}}))
    server.kubectl("patch", "validatingadmissionpolicybinding", "agents-gridnodes.zos.grid.tf", *loose)
    server.kubectl("delete", "crd", "quotas.zos.grid.tf")
    code, said = check(me)
    assert code == 1
    assert "ok: 1 GridNodes are Ready" in said
    assert "wrong: ValidatingAdmissionPolicyBinding agents-leases.zos.grid.tf is missing" in said
    assert "wrong: ValidatingAdmissionPolicyBinding agents-gridnodes.zos.grid.tf is not as this release has it" in said
    assert "wrong: the API server does not serve Quota" in said
    server.kubectl("delete", "clusterrolebinding", "zos-installcheck")
    code, said = check(me)
    assert (code, "wrong: may not look" in said) == (1, True)
