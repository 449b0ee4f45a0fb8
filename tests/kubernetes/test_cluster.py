"""The cluster that a minigrid with kubelets is, before anything of the product is on it: what the product's pods count on."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from cluster import PAUSE, Cluster
from gridlib import archives
from gridlib.kubelet import LABEL
from gridlib.layout import CONTROL_PLANE, REGISTRY_PORT
from gridlib.tools import KubeletTools, program
from harness import sh, until

#: Leaves the pod for a control group beside all pods', in the node's own mounts. (Its parent is the pod's shim for as long as
#: there is one, then the node's first process.)
ESCAPE = """
for top in /sys/fs/cgroup/GROUP /sys/fs/cgroup/*/GROUP; do
  [ -e "$top/cgroup.procs" ] || continue
  mkdir -p "$top/beside" && echo $$ >"$top/beside/cgroup.procs" || exit 1
done
setsid sleep SECONDS </dev/null >/dev/null 2>&1 &
"""


def container(pod: dict[str, Any]) -> tuple[str, int]:
    """Which one runs, and how often it was started again."""
    status = pod["status"]["containerStatuses"][0]
    return status["containerID"], status["restartCount"]


def escape(cluster: Cluster, namespace: str, node: str, seconds: str) -> int:
    """Gives the process that has left its pod on the node."""
    script = ESCAPE.replace("GROUP", cluster.host(node).group).replace("SECONDS", seconds)
    pod = cluster.pods(namespace)[node]["metadata"]["name"]
    cluster.kubectl("exec", "-n", namespace, pod, "--", "/bin/busybox", "nsenter", "-t", "1", "-m", "sh", "-c", script)
    return int(until(lambda: cluster.run(node, "pgrep", "-fx", f"sleep {seconds}", check=False).strip(), 5))


def of(cluster: Cluster, node: str, pid: int) -> tuple[str, str]:
    """Its parent and when it began. Raises AssertionError when it has ended."""
    fields = cluster.run(node, "cat", f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[1], fields[19]


def test_pods_run_and_are_reached(cluster: Cluster, namespace: str) -> None:
    cluster.run_everywhere(namespace, "pause", args=["/bin/sh", "-c", "echo it runs; exec sleep 1000"])
    pods = cluster.pods(namespace)
    assert pods.keys() == {"n1", "n2"}
    for pod in pods.values():
        name = pod["metadata"]["name"]
        assert "it runs" in cluster.kubectl("logs", "-n", namespace, name)
        # The API server at the address that every pod knows.
        cluster.kubectl("exec", "-n", namespace, name, "--", "/bin/busybox", "nc", "-w", "5", "10.96.0.1", "443", input="")


def test_nodes_are_the_grids_and_tell_where_they_are_reached(cluster: Cluster) -> None:
    for name, address in (("n1", "198.51.100.11,2001:db8:0:1::b"), ("n2", "198.51.100.12,2001:db8:0:1::c")):
        node = cluster.ask(f"/api/v1/nodes/{name}")
        assert node is not None
        assert node["metadata"]["labels"][LABEL] == "true"
        assert node["metadata"]["annotations"]["zos.grid.tf/endpoint"] == address


def test_a_kubelet_has_no_more_rights_than_a_kubelet(cluster: Cluster, namespace: str) -> None:
    def as_n1(*words: str) -> str:
        config = cluster.root / "hosts/n1/etc/kubeconfig"
        return cluster.run("cp", program("kubectl"), "--kubeconfig", str(config), *words, check=False)

    assert "n1" in as_n1("get", "node", "n1")
    for words in (
        ("get", "secrets", "-A"),
        ("label", "node", "n1", f"{LABEL}=no", "--overwrite"),
        ("label", "node", "n2", "any=thing"),
        ("create", "token", "default", "-n", namespace),
    ):
        assert "forbidden" in as_n1(*words).lower(), words
    for path in ("pods", "run/default/any/main"):
        said = cluster.run(
            "laptop", "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", f"https://198.51.100.11:10250/{path}"
        )
        assert said == "401"


def test_an_image_is_there_and_another_is_pulled_from_the_grids_registry(cluster: Cluster, namespace: str) -> None:
    pause = KubeletTools.find().pause
    image = archives.read(pause)
    for node in ("n1", "n2"):
        listed = sh(*cluster.kubelet_host(node).containerd("images", "list")).splitlines()
        assert [line.split()[2] for line in listed if line.startswith(f"{PAUSE} ")] == [image.digest]
    pulled = f"{CONTROL_PLANE}:{REGISTRY_PORT}/tests/pause:1"
    cluster.run(
        "cp", "skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci-archive:{pause}:{image.tag}", f"docker://{pulled}"
    )
    cluster.kubectl("run", "pulled", "-n", namespace, f"--image={pulled}", "--restart=Never", "--image-pull-policy=Always")
    cluster.kubectl("wait", "pod/pulled", "-n", namespace, "--for=condition=Ready", "--timeout=30s")


def test_what_has_left_its_pod_outlives_it_and_is_reaped(cluster: Cluster, namespace: str) -> None:
    cluster.run_everywhere(namespace, "pause")
    pid = escape(cluster, namespace, "n1", "100001")
    _, began = of(cluster, "n1", pid)
    old = cluster.pods(namespace)["n1"]["metadata"]["name"]
    cluster.kubectl("delete", "pod", old, "-n", namespace, "--timeout=30s")
    cluster.kubectl("rollout", "status", "daemonset/pause", "-n", namespace, "--timeout=30s")
    assert cluster.pods(namespace)["n1"]["metadata"]["name"] != old
    until(lambda: of(cluster, "n1", pid) == ("1", began), 10, "the node's first process has it")
    cluster.run("n1", "kill", str(pid))
    until(lambda: not cluster.run("n1", "sh", "-c", f"ls -d /proc/{pid} 2>/dev/null", check=False), 5, "it is reaped")


def test_kubelet_and_containerd_are_killed_and_nothing_else_is(cluster: Cluster, namespace: str) -> None:
    cluster.run_everywhere(namespace, "pause")
    pid = escape(cluster, namespace, "n1", "100002")
    before = of(cluster, "n1", pid), container(cluster.pods(namespace)["n1"])
    for service in ("kubelet", "containerd"):
        cluster.service_returns("n1", service, cluster.kill("n1", service))
    killed = time.time()

    def told() -> bool:
        """By the kubelet that runs now, of the containers that the containerd has which runs now."""
        lease = cluster.ask("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1")
        assert lease is not None
        return cluster.node_ready("n1") == "True" and lease["spec"]["renewTime"] > time.strftime(
            "%FT%T", time.gmtime(killed + 3)
        )

    until(told, 40, "n1 is Ready again")
    pod = cluster.pods(namespace)["n1"]
    assert "0" in cluster.kubectl("exec", "-n", namespace, pod["metadata"]["name"], "--", "/bin/busybox", "id")
    assert (of(cluster, "n1", pid), container(pod)) == before
    cluster.run("n1", "kill", str(pid))


@pytest.mark.timeout(120)
def test_a_node_that_crashed_comes_back_and_the_other_notices_nothing(cluster: Cluster, namespace: str) -> None:
    cluster.run_everywhere(namespace, "pause")
    first = cluster.host("n1").pid()
    before = {node: container(pod) for node, pod in cluster.pods(namespace).items()}
    os.kill(first, 9)
    until(lambda: cluster.node_ready("n1") != "True", 30, "the crash is noticed")
    cluster.minigrid("up")
    assert cluster.node_ready("n1") == "True"
    assert cluster.host("n1").pid() != first
    until(lambda: container(cluster.pods(namespace)["n1"])[1] == before["n1"][1] + 1, 30, "its pod runs again")
    assert container(cluster.pods(namespace)["n2"]) == before["n2"]
    assert json.loads(cluster.kubectl("get", "daemonset", "pause", "-n", namespace, "-o", "json"))["status"]["numberReady"] == 2
