"""What an agent remembers beside its drivers: whose it is, for whom things were made, and that it is alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zos.agent.cluster import Cluster
from zos.agent.lock import alone
from zos.agent.owners import Owners
from zos.agent.snapshot import Snapshot
from zos.api.meta import Meta
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import QuarantinedNic
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode
from zos.plan.ownership import Origin

OWNER = Owner(kind="ZMount", namespace="default", name="data", uid="uid-data")
ORIGIN = Origin(**dict(OWNER))


def workload(name: str, owner: Owner = OWNER) -> NodeWorkload:
    return KINDS.workload(metadata=Meta(name=name), spec=KINDS.workload.asking(owner, MountOnNode(size=1)))


class Server:
    """A cluster that tells who it is."""

    def __init__(self, uid: str) -> None:
        self.uid = uid

    async def get(self, *_: Any) -> dict[str, Any]:
        return {"metadata": {"uid": self.uid}}


def cluster(state: Path, uid: str) -> Cluster:
    return Cluster(Server(uid), state, lambda: 0.0, Snapshot(state, KINDS.workload).cluster)  # type: ignore[arg-type]


async def test_a_node_belongs_to_the_first_cluster_that_answers(tmp_path: Path) -> None:
    assert await cluster(tmp_path, "one").ours()
    assert (tmp_path / "cluster-uid").read_text() == "one\n"
    other = cluster(tmp_path, "two")
    assert not await other.ours()
    assert other.foreign == "two"


@pytest.mark.parametrize("content", [None, "", "\n"])
async def test_a_lost_binding_is_found_again_beside_what_was_saved(tmp_path: Path, content: str | None) -> None:
    Snapshot(tmp_path, KINDS.workload).save("one", {"w": workload("w")})
    if content is not None:
        (tmp_path / "cluster-uid").write_text(content)
    assert not await cluster(tmp_path, "two").ours()
    assert await cluster(tmp_path, "one").ours()
    assert (tmp_path / "cluster-uid").read_text() == "one\n"


async def test_an_empty_binding_with_nothing_beside_it_is_said_rightly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cluster-uid").write_text("")
    unsure = cluster(tmp_path, "one")
    assert not await unsure.ours()
    assert unsure.foreign == "one"
    (told,) = [record.getMessage() for record in caplog.records]
    assert "is empty" in told
    assert "write one into the file" in told
    assert "remove" not in told
    (tmp_path / "cluster-uid").write_text("one")
    assert await unsure.ours()
    assert unsure.foreign is None


def test_owners_are_remembered_as_long_as_anything_is_left(tmp_path: Path) -> None:
    owners = Owners(tmp_path)
    owners.learn({"a": workload("a"), "b": workload("b", OWNER.model_copy(update={"uid": "uid-b"}))})
    again = Owners(tmp_path)
    assert again.known == owners.known == {"a": ORIGIN, "b": ORIGIN.model_copy(update={"uid": "uid-b"})}
    again.learn({})
    again.forget({"a", "stranger"})
    assert Owners(tmp_path).known == {"a": ORIGIN}
    again.learn({"x": workload("x", Owner(kind="", namespace="", name="", uid=""))})  # one that can't be read says nothing
    assert Owners(tmp_path).known == {"a": ORIGIN}


def test_addresses_are_remembered_with_their_owner(tmp_path: Path) -> None:
    nic = {"networkUid": "uid-net", "mac": "02:00:00:00:00:01", "ip": "10.20.2.2", "prefixlen": 24}
    nic |= {"gateway": "10.20.2.1", "mtu": 1420, "ipRange": "10.20.0.0/16"}
    public = {"interface": "br0", "mac": "02:00:00:00:00:02", "ipv4": "203.0.113.18/28", "gateway": "203.0.113.17"}
    machine = {"hostname": "web", "image": "oci://r/i:t", "cpu": 1, "memory": 1, "rootSize": 1, "nics": [nic]}
    owner = {"kind": "ZMachine", "namespace": "default", "name": "web", "uid": "uid-web"}
    spec = {"owner": owner, "part": {"zmachine": machine | {"publicNic": public}}}
    Owners(tmp_path).learn({"w": KINDS.workload.model_validate({"metadata": {"name": "w"}, "spec": spec})})
    assert Owners(tmp_path).known["w"].nics == (
        QuarantinedNic(mac="02:00:00:00:00:01", network_uid="uid-net", ipv4="10.20.2.2"),
        QuarantinedNic(mac="02:00:00:00:00:02", ipv4="203.0.113.18"),
    )
    (tmp_path / "owners.json").write_text(json.dumps({"w": owner}))  # as an older agent wrote it
    assert Owners(tmp_path).known["w"].nics == ()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": 1}', b'{"a": {"kind": "x"}}'])
def test_what_was_remembered_and_can_not_be_read_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "owners.json").write_bytes(content)
    owners = Owners(tmp_path)
    assert owners.known == {}
    owners.learn({"a": workload("a")})
    assert json.loads((tmp_path / "owners.json").read_text())["a"]["uid"] == "uid-data"


def test_the_second_agent_on_a_state_directory_says_who_has_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from zos.agent.lock import alone\n"
        "with alone(Path(sys.argv[1]), 'n1'): print('got it', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "got it\n"
        with pytest.raises(OSError, match=f"in use by the agent of node n1, process {first.pid} on "), alone(tmp_path, "n1"):
            pass
        first.kill()
    with alone(tmp_path, "n1"):  # a dead one holds nothing
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()
