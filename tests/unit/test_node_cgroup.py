"""Which control group is beside those of all pods (`zos.programs.node.cgroup`)."""

from __future__ import annotations

import pytest

from zos.programs.node.cgroup import pod_of

SLICE = "kubepods.slice/kubepods-pod8a.slice/cri-67.scope"
POD = "kubepods/burstable/pod8a/67"


@pytest.mark.parametrize(
    ("line", "hybrid", "found"),
    [
        (f"0::/{SLICE}", False, (".", SLICE, "")),
        (f"0::/node/{POD}", True, ("unified", f"node/{POD}", "node")),
        (f"4:memory:/{POD}", True, ("memory", POD, "")),
        (f"7:cpu,cpuacct:/a/b/{POD}", True, ("cpu,cpuacct", f"a/b/{POD}", "a/b")),
        (f"3:cpuacct,cpu:/{POD}", True, ("cpu", POD, "")),
        (f"1:name=systemd:/{POD}", True, ("systemd", POD, "")),
        (f"9:rdma:/{POD}", True, None),
        ("4:memory:/user.slice/session-1.scope", True, None),
        ("0::/", False, None),
    ],
)  # fmt: skip
def test_it_is_where_the_kubelet_has_its_own(line: str, hybrid: bool, found: tuple[str, str, str] | None) -> None:
    assert pod_of(line, hybrid, {"memory", "cpu,cpuacct", "cpu", "systemd"}.__contains__) == found
