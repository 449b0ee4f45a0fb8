"""A node's agent from its start to its end: whom it believes, what it says and when, what it never does."""

from __future__ import annotations

import asyncio
import base64
import copy
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PublicKey, SealedBox

from virtual import clock, virtual
from wholeagent import EPOCH, Home, main, refusing
from zos import __version__
from zos.api import names
from zos.api.core import Lease
from zos.api.gridnode import Endpoint, GridNode, NodeFeatures
from zos.api.nodeworkload import NodeWorkload
from zos.drivers.process import ProcessError
from zos.kinds.kind import Here, Kinds, OnNode, Report
from zos.kinds.network.part import NetworkState
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import MachineState
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.kube.client import path_of
from zos.plan.facts import ConnectedFact, DiskFact, Facts, ImageFact, ImageProblem, ShutFact, SilentFact, UnusedDiskFact
from zos.plan.items import Disk, Domain, File, Image
from zos.plan.lowered import Lowered
from zos.world.resolution import ready

KUBE_SYSTEM = "/api/v1/namespaces/kube-system"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


def without_beats(home: Home) -> list[str]:
    """Paths of what was written but heartbeats."""
    return [request.path for request in home.server.writes if "/leases" not in request.path]


def beats(home: Home) -> list[float]:
    """Seconds after the beginning at which a heartbeat was tried."""
    renewals = [request for request in home.written(Lease) if request.method == "PATCH"]
    return [round(float(request.body["spec"]["renewTime"]) - EPOCH - 1000, 1) for request in renewals]


# -- what it says of its node


@virtual
async def test_what_a_node_says_of_itself_is_said_once(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(600)
        status = home.gridnode().status
        assert (status.capacity.cpu, status.capacity.memory, status.capacity.storage) == (4, 8 * 2**30, 100 * 2**30)
        assert status.features == NodeFeatures(wireguard="kernel", accelerator="kvm")
        assert (status.agent_version, status.nameservers) == (__version__, ("9.9.9.9",))
        assert status.reported_endpoint == Endpoint(ipv4="8.8.4.4")
        assert status.sealing_key == home.keyring.sealing_key()
        assert len(status.prekeys) == 8
        assert set(status.prekeys) == home.keyring.publics()
        assert len(home.written(GridNode)) == 1
    async with home.agent():
        await asyncio.sleep(600)
    assert len(home.written(GridNode)) == 1, "a new agent says the same"


@virtual
async def test_a_lost_address_counts_when_three_looks_missed_it(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(30)
        home.links = ProcessError("ip: killed")
        await asyncio.sleep(600)
        assert home.gridnode().status.reported_endpoint == Endpoint(ipv4="8.8.4.4")
        home.links = [{"addr_info": [{"local": "8.8.4.4"}, {"local": "2a00:1450::8"}]}]
        await asyncio.sleep(6)  # it looks again soon where it could not
        assert home.gridnode().status.reported_endpoint == Endpoint(ipv4="8.8.4.4", ipv6="2a00:1450::8")
        home.links = []
        await asyncio.sleep(62)
        assert home.gridnode().status.reported_endpoint is not None
        await asyncio.sleep(9)
        assert home.gridnode().status.reported_endpoint is None


@virtual
async def test_a_node_status_that_is_refused_is_tried_less_and_less_often(home: Home) -> None:
    home.join()
    with refusing(home, 403, "no", "gridnodes"):
        async with home.agent():
            await asyncio.sleep(60)
            assert len(home.written(GridNode)) == 5  # after 0, 3, 9, 21 and 45 s
            assert home.metric("zos_agent_refused_statuses") == 1
            await asyncio.sleep(1500)
            assert len(home.written(GridNode)) == 5 + 6  # every five minutes at last
            with refusing(home, 503, "busy", "gridnodes"):
                before = len(home.written(GridNode))
                await asyncio.sleep(330)
                assert len(home.written(GridNode)) - before >= 99  # what may pass by itself: every three seconds
            with refusing(home, 200, "", "nothing"):
                await asyncio.sleep(10)
                assert home.gridnode().status.prekeys
                assert home.metric("zos_agent_refused_statuses") == 0


@virtual
async def test_a_held_key_is_replaced_and_one_that_nobody_names_is_deleted_in_time(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(5)
        taken = home.gridnode().status.prekeys[0]
        hold = {"uid": "u", "owner": "Network default/n", "listenPort": 52000, "publicKey": taken}
        home.edit_node("status", status={"holds": [hold]})
        await asyncio.sleep(5)
        published = home.gridnode().status.prekeys
        assert taken not in published
        assert len(set(published)) == 8
        await asyncio.sleep(1000)
        assert home.keyring.private(taken)
        home.edit_node("status", status={"holds": []})
        await asyncio.sleep(540)
        assert home.keyring.private(taken)
        home.edit_node("status", status={"holds": [hold]})  # a mistake that is taken back
        await asyncio.sleep(5)
        home.edit_node("status", status={"holds": []})
        await asyncio.sleep(540)
        assert home.keyring.private(taken)
        await asyncio.sleep(180)
        assert home.keyring.private(taken) is None
        assert home.gridnode().status.prekeys == published
        assert home.keyring.publics() == set(published)


@virtual
async def test_no_key_is_deleted_while_it_is_not_known_what_wireguard_runs_with(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(5)
    spare = home.keyring.create()
    home.node.blind[Disk] = "it does not answer"
    async with home.agent():
        await asyncio.sleep(720)
        assert home.keyring.private(spare)
        home.node.blind.clear()
        await asyncio.sleep(720)
        assert home.keyring.private(spare) is None


@virtual
async def test_a_node_that_is_deleted_and_made_anew_is_told_everything_again(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(5)
        before = home.gridnode().status
        home.ask("DELETE", path_of(GridNode, "", home.NAME), {})
        await asyncio.sleep(120)
        home.join()
        await asyncio.sleep(5)
        assert home.gridnode().status.capacity == before.capacity
        assert home.gridnode().status.sealing_key == before.sealing_key


# -- the heartbeat


@virtual
async def test_its_lease_is_renewed_every_ten_seconds_for_forty(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(35)
        lease = home.lease()
        assert lease is not None
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == ("n", 40)
        assert beats(home) == [0, 10, 20, 30]
    await asyncio.sleep(100)
    assert len(beats(home)) == 4


@virtual
async def test_a_heartbeat_that_fails_is_tried_again_soon(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.join()
    with refusing(home, 403, "no rights yet", "leases"):
        async with home.agent():
            await asyncio.sleep(28)
            assert beats(home) == [0, 1, 3, 7, 15, 25]
            home.server.refuses = lambda _: None
            await asyncio.sleep(20)
            assert beats(home)[-2:] == [35, 45]
            home.server.refuses = lambda r: (503, "away") if "/leases" in r.path and r.method == "PATCH" else None
            await asyncio.sleep(13)
            assert beats(home)[-4:] == [45, 55, 56, 58]
    told = [record for record in caplog.records if record.getMessage().startswith("heartbeat not written")]
    assert len(told) == 2


# -- whom it believes


@virtual
async def test_another_clusters_word_moves_nothing(home: Home) -> None:
    home.join()
    home.mount("a")
    async with home.agent():
        await asyncio.sleep(5)
    home.delete("a")
    home.mount("b")
    ours = home.server.objects[KUBE_SYSTEM]["metadata"]
    home.server.objects[KUBE_SYSTEM]["metadata"] = {**ours, "uid": "another"}
    home.server.requests.clear()
    async with home.agent():
        await asyncio.sleep(100)
        assert home.metric("zos_agent_foreign_cluster") == 1
        assert set(home.node.things) == {"disk/mount-uid-a"}
        assert home.ready("b") == ""
        assert home.workload("a") is not None
        assert without_beats(home) == []
        assert len(beats(home)) <= 1  # before anybody could know
        home.server.objects[KUBE_SYSTEM]["metadata"] = ours
        await asyncio.sleep(3)
        assert home.metric("zos_agent_foreign_cluster") == 0
        assert home.ready("b").startswith("True")
        assert home.workload("a") is None


@virtual
async def test_it_comes_up_by_what_is_on_disk_when_nobody_answers(home: Home) -> None:
    home.join()
    home.mount("a")
    home.machine("vm")
    async with home.agent():
        await asyncio.sleep(5)
        things = set(home.node.things)
    home.node.things = {"disk/mount-uid-gone": Disk(name="mount-uid-gone", size=1, format="btrfs", owner="gone")}
    home.client.away = True
    async with home.agent():
        await asyncio.sleep(4.5)
        assert len(home.node.things) == 1  # it may come in a moment
        await asyncio.sleep(1)
        assert set(home.node.things) == things | {"disk/mount-uid-gone"}
        home.edit("a", part={"zmount": {"size": "2Gi"}})
        home.connection.away = False
        await asyncio.sleep(5)
        assert home.node.things["disk/mount-uid-a"] == replace(home.node.things["disk/mount-uid-a"], size=2 * 2**30)  # type: ignore[type-var]
        assert home.ready("vm").startswith("True")


@virtual
async def test_without_anything_on_disk_it_waits_and_begins_at_once_when_it_may(home: Home) -> None:
    home.join()
    home.mount("a")
    home.client.away = True
    async with home.agent():
        await asyncio.sleep(100)
        assert (home.node.things, beats(home)) == ({}, [])
        home.connection.away = False
        await asyncio.sleep(4)  # the informer asks every two seconds
        assert home.ready("a").startswith("True")
        assert len(beats(home)) >= 1


@virtual
async def test_an_api_server_of_an_older_day_is_believed_and_told_how_things_stand(home: Home) -> None:
    home.join()
    home.mount("a")
    async with home.agent():
        await asyncio.sleep(0.1)
        backup, version = (
            copy.deepcopy(home.server.objects),
            max(int(one["metadata"]["resourceVersion"]) for one in home.server.objects.values()),
        )
        await asyncio.sleep(100)
        home.edit("a", part={"zmount": {"size": "2Gi"}})
        home.mount("b")
        await asyncio.sleep(20)
        assert home.ready("b").startswith("True")
        for path in home.server.objects.keys() - backup.keys():
            del home.server.objects[path]
        home.server.objects = backup
        for raw in home.server.objects.values():
            raw.pop("status", None)
        home.server.versions = itertools.count(version + 1)
        await asyncio.sleep(40)
        assert [entry.uid for entry in home.gridnode().status.quarantine] == ["uid-b"]
        assert len(home.gridnode().status.prekeys) == 8
        assert home.ready("a").startswith("False")  # a disk does not shrink, and that is said
        assert home.node.things.keys() == {"disk/mount-uid-a", "disk/mount-uid-b"}


# -- what it does


@virtual
async def test_a_workload_from_birth_to_death(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(5)
        home.mount("a")
        await asyncio.sleep(0.1)
        assert home.ready("a").startswith("True")
        assert len(home.written(NodeWorkload)) == 1  # ready at the first word
        home.edit("a", part={"zmount": {"size": "2Gi"}})
        await asyncio.sleep(0.1)
        mount = home.workload("a").state(MountState)  # type: ignore[union-attr]
        assert mount is not None
        assert mount.size == 2 * 2**30
        home.erase("a")
        await asyncio.sleep(0.1)
        assert (home.workload("a"), home.node.things) == (None, {})
        assert len(home.written(NodeWorkload)) == 3
        assert json.loads((home.settings.state / "owners.json").read_text()) == {}


@virtual
async def test_an_idle_node_passes_at_each_resync_and_writes_nothing(home: Home) -> None:
    home.join()
    for name in "abc":
        home.mount(name)
    home.machine("vm")
    async with home.agent():
        await asyncio.sleep(30)
        writes, passes = home.node.writes, home.metric("zos_agent_pass_seconds_count")
        said, rests = len(without_beats(home)), home.rests
        await asyncio.sleep(600)
        assert home.rests == rests + 10
        assert home.node.writes == writes
        assert len(without_beats(home)) == said
        assert passes is not None
        assert home.metric("zos_agent_pass_seconds_count") == passes + 10


@virtual
async def test_what_changes_behind_its_back_is_right_again_at_once_or_at_the_resync(home: Home) -> None:
    home.join()
    home.mount("a")
    home.mount("b")
    async with home.agent():
        await asyncio.sleep(5)
        assert home.metric("zos_agent_drift_healed_total", item="disk") is None
        home.node.lose("disk/mount-uid-a")
        await asyncio.sleep(0.1)
        assert "disk/mount-uid-a" in home.node.things
        assert home.metric("zos_agent_drift_healed_total", item="disk") == 1
        assert home.metric("zos_agent_operations_total", item="disk", verb="create", result="ok") == 3
        del home.node.things["disk/mount-uid-b"]  # and nobody tells
        home.ask("PATCH", path_of(NodeWorkload, home.namespace, "a") + "/status", {"status": {"conditions": []}})
        await asyncio.sleep(30)
        assert "disk/mount-uid-b" not in home.node.things
        assert home.ready("a") == ""
        await asyncio.sleep(30)
        assert "disk/mount-uid-b" in home.node.things
        assert home.ready("a").startswith("True")
        home.edit("a", part={"zmount": {"size": "2Gi"}})  # what somebody asked for is no drift
        await asyncio.sleep(1)
        assert home.metric("zos_agent_drift_healed_total", item="disk") == 2


@virtual
async def test_a_node_that_flaps_is_followed_no_more_than_four_times_a_second(home: Home) -> None:
    home.join()
    home.mount("a")
    async with home.agent():
        await asyncio.sleep(5)
        before = home.metric("zos_agent_pass_seconds_count") or 0
        for _ in range(3):
            home.node.stir()
            await asyncio.sleep(0.005)
        await asyncio.sleep(2)
        assert (home.metric("zos_agent_pass_seconds_count") or 0) - before <= 2  # news that come together count together
        before = home.metric("zos_agent_pass_seconds_count") or 0
        for _ in range(1000):
            home.node.stir()
            await asyncio.sleep(0.01)
        assert 50 < (home.metric("zos_agent_pass_seconds_count") or 0) - before < 70


@virtual
async def test_what_fails_is_counted_and_shown(home: Home) -> None:
    home.join()
    home.mount("good")
    home.mount("bad")
    home.machine("vm")
    home.node.faults["disk/mount-uid-bad"] = "no room"
    home.node.faults["image/oci://r/i:1"] = "not found"
    home.node.blind[Domain] = "libvirt is away"
    async with home.agent():
        await asyncio.sleep(0.5)
        assert home.metric("zos_agent_operations_total", item="disk", verb="create", result="failed") == 1
        assert home.metric("zos_agent_operations_total", item="image", verb="create", result="failed") == 1
        home.erase("good")
        home.node.faults["disk/mount-uid-good"] = "busy"
        await asyncio.sleep(0.1)
        assert home.metric("zos_agent_operations_total", item="disk", verb="remove", result="failed") == 1
        await asyncio.sleep(0.7)
        assert home.ready("bad") == "False Failed: no room"
        assert "libvirt is away" in home.ready("vm")
        assert home.ready("good").startswith("False DeletionBlocked")
        assert home.metric("zos_agent_workloads", state="ready") == 0
        assert home.metric("zos_agent_workloads", state="not ready") == 3
        assert home.metric("zos_agent_workloads", state="deleting") == 1
        assert home.metric("zos_agent_blind", driver="Domains") == 1
        assert home.metric("zos_agent_blind", driver="Disks") == 0
        home.node.faults.clear()
        home.node.blind.clear()
        await asyncio.sleep(60)
        assert home.metric("zos_agent_workloads", state="ready") == 2
        assert home.metric("zos_agent_blind", driver="Domains") == 0
        assert home.metric("zos_agent_quarantined") == 0
        assert home.metric("zos_agent_api_writes_total", kind="NodeWorkload", verb="merge", code="200") is not None
        home.delete("vm")
        await asyncio.sleep(1)
        assert home.metric("zos_agent_quarantined") == 1


@virtual
async def test_a_pass_wakes_by_itself_to_try_again(home: Home) -> None:
    home.join()
    home.mount("a")
    home.node.faults["disk/mount-uid-a"] = "no room"
    async with home.agent():
        await asyncio.sleep(0.5)
        home.node.faults.clear()
        await asyncio.sleep(1)  # not the minute of a resync
        assert home.ready("a").startswith("True")


# -- what stays behind


@virtual
async def test_what_stays_is_said_by_the_gridnode_before_it_is_let_go(home: Home) -> None:
    home.join()
    home.mount("released")
    home.mount("retained")
    async with home.agent():
        await asyncio.sleep(5)
        home.node.unused.clear()  # guests have had them
        home.node.stir()
        with refusing(home, 403, "not that", "gridnodes"):
            home.delete("released")
            home.erase("retained", retain=True)
            await asyncio.sleep(20)
            for name in ("released", "retained"):
                assert home.ready(name).startswith("False DeletionBlocked: the node keeps what it has of it")
                assert home.ready(name).endswith("not that")
        await asyncio.sleep(30)
        assert {entry.uid for entry in home.gridnode().status.quarantine} == {"uid-released", "uid-retained"}
        assert home.workload("released") is home.workload("retained") is None
        home.mount("last")
        await asyncio.sleep(5)
        home.ask("DELETE", path_of(GridNode, "", home.NAME), {})  # nobody is to be told any more
        home.delete("last")
        await asyncio.sleep(5)
        assert home.workload("last") is None
        assert set(home.node.things) == {f"disk/mount-uid-{name}" for name in ("released", "retained", "last")}
    home.join()
    async with home.agent():  # another one knows whose they are
        await asyncio.sleep(5)
        assert {(entry.kind, entry.name) for entry in home.gridnode().status.quarantine} == {
            ("ZMount", "released"), ("ZMount", "retained"), ("ZMount", "last"),
        }  # fmt: skip


@virtual
async def test_what_could_not_be_looked_at_stays_in_quarantine(home: Home) -> None:
    home.join()
    home.mount("a")
    home.mount("b")
    async with home.agent():
        await asyncio.sleep(5)
        home.delete("a")
        await asyncio.sleep(5)
    home.node.blind[Disk] = "it does not answer"
    async with home.agent():
        await asyncio.sleep(5)
        home.delete("b")
        await asyncio.sleep(100)
        assert [entry.uid for entry in home.gridnode().status.quarantine] == ["uid-a"]
        home.node.blind.clear()
        await asyncio.sleep(100)
        assert {entry.uid for entry in home.gridnode().status.quarantine} == {"uid-a", "uid-b"}


@virtual
async def test_an_order_for_what_lives_is_void_until_it_is_given_anew(home: Home) -> None:
    home.join()
    home.mount("a")
    discard = {"uid": "uid-a", "discard": True}
    async with home.agent():
        await asyncio.sleep(5)
        home.edit_node(spec={"quarantine": [discard]})
        await asyncio.sleep(5)
    async with home.agent():  # a new one knows it as well
        await asyncio.sleep(5)
        home.delete("a")
        await asyncio.sleep(100)
        assert "disk/mount-uid-a" in home.node.things
        home.edit_node(spec={"quarantine": []})
        await asyncio.sleep(1)
        home.edit_node(spec={"quarantine": [discard]})
        await asyncio.sleep(1)  # an order is heard at once
        assert home.node.things == {}
        assert home.gridnode().status.quarantine == ()


# -- what lowering may know


@virtual
async def test_secrets_are_opened_and_what_can_not_be_is_said_once(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    def sealed(value: str) -> list[dict[str, str]]:
        box = SealedBox(PublicKey(base64.b64decode(home.keyring.sealing_key())))
        return [{"name": "env/PASSWORD", "source": value, "value": base64.b64encode(box.encrypt(value.encode())).decode()}]

    home.join()
    home.machine("good", secrets=sealed("word"))
    home.machine("bad", secrets=[{"name": "env/PASSWORD", "source": "s", "value": "bm9uZQ=="}])
    async with home.agent():
        await asyncio.sleep(200)
        assert home.ready("good").startswith("True")
        assert "PASSWORD can't be opened with this node's key" in home.ready("bad")
        assert [item.name for item in home.node.things.values() if isinstance(item, Domain)] == [names.domain("uid-good")]
        assert any("PASSWORD=word" in item.content for item in home.node.things.values() if isinstance(item, File))
        assert len([one for one in caplog.records if one.getMessage().startswith("env/PASSWORD:")]) == 1
        home.edit("bad", secrets=sealed("other"))
        await asyncio.sleep(5)
        assert home.ready("bad").startswith("True")


@virtual
async def test_what_lowering_may_know(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fact from where it is known."""
    known: list[Facts] = []

    def lower(here: Here[MountOnNode]) -> Lowered:
        known.append(here.facts)
        return Lowered(tuple(Image(ref=ref, owner=here.name) for ref in ("oci://r/good:1", "oci://r/bad:1")))

    home.kinds = Kinds([replace(KINDS["ZMount"], node=OnNode(MountOnNode, MountState, lower, lambda *_: Report(ready())))])
    home.settings = replace(home.settings, egress_deny=("10.96.0.0/12",))
    home.node.faults["image/oci://r/bad:1"] = "not found"
    home.node.shut, home.node.silent = {"router": "a rule"}, {"w-1": frozenset("k")}
    home.node.things["disk/root-uid-x"] = Disk(name="root-uid-x", size=1, format="ext4")
    home.node.unused.add("root-uid-x")

    home.join()
    home.mount("a")
    async with home.agent():
        await asyncio.sleep(5)
        facts = known[-1]
        assert (facts.node, facts.nameservers, facts.connected()) == ("n", ("9.9.9.9",), ("192.168.7.0/24",))
        assert EPOCH + 1000 <= facts.now <= EPOCH + 1005
        assert facts.egress_deny == ("10.96.0.0/12",)
        assert {of: about for of, about in facts.known.items() if about} == {
            ConnectedFact: {"": ConnectedFact(("192.168.7.0/24",))},
            ShutFact: {"router": ShutFact("a rule")},
            SilentFact: {"w-1": SilentFact(frozenset("k"))},
            ImageFact: {"oci://r/good:1": facts.get(ImageFact, "oci://r/good:1")},
            ImageProblem: {"oci://r/bad:1": ImageProblem("not found")},
            UnusedDiskFact: {"root-uid-x": UnusedDiskFact()},
            DiskFact: {"root-uid-x": DiskFact(size=1)},
        }
        assert (facts.unknown, facts.secrets) == ({}, {})


@virtual
async def test_a_network_whose_key_is_lost_names_it(home: Home) -> None:
    home.join()
    network = {"ipRange": "10.20.0.0/16", "mtu": 1420, "subnet": "10.20.4.0/24", "wireguardAddress": "100.64.20.4",
               "listenPort": 52007}  # fmt: skip
    async with home.agent():
        await asyncio.sleep(5)
        key = home.gridnode().status.prekeys[0]
        home.make("Network", "net", network | {"publicKey": key})
        await asyncio.sleep(5)
        assert home.ready("net").startswith("True")
        home.delete("net")
        await asyncio.sleep(1000)
        assert key not in home.gridnode().status.prekeys
        assert home.keyring.private(key), "it is in use, whoever's it is"
        home.make("Network", "net", network | {"publicKey": key})
        await asyncio.sleep(5)
        home.keyring.forget(key)
        await asyncio.sleep(61)
        workload = home.workload("net")
        assert workload is not None
        assert workload.state(NetworkState) is not None
        assert workload.state(NetworkState).lost_key == key


@virtual
@pytest.mark.parametrize("blind", [Image, Domain])
async def test_what_nobody_could_look_at_is_not_known(home: Home, blind: type[Any]) -> None:
    home.join()
    home.machine("vm")
    async with home.agent():
        await asyncio.sleep(5)
        assert home.ready("vm").startswith("True")
    things = dict(home.node.things)
    home.node.blind[blind] = "it does not answer"
    async with home.agent():
        await asyncio.sleep(5)
        assert "it does not answer" in home.ready("vm")
        status = home.workload("vm").status  # type: ignore[union-attr]
        assert isinstance(status.state, MachineState)
        assert status.state.state == "Running"
        home.edit("vm", part={"zmachine": {"cpu": 3}})
        await asyncio.sleep(5)
        home.node.blind.clear()
        await asyncio.sleep(60)
        assert home.ready("vm").startswith("True")
    assert home.node.things.keys() == things.keys()
    assert sum(home.node.starts.values()) == 1


# -- the end


@virtual
async def test_leaving_disturbs_nothing_and_leaves_nobody_behind(home: Home) -> None:
    home.join()
    home.mount("a")
    home.machine("vm")
    home.node.delay = 30
    async with home.agent():
        await asyncio.sleep(5)
        before = clock()
    assert clock() < before + 1
    assert sorted(home.closed) == ["Disks", "Domains", "Images", "Networks", "Quick", "Services", "Systems"]
    assert home.node.watchers == []
    await asyncio.sleep(100)
    assert set(home.node.things) == {"disk/mount-uid-a"}  # the pull was called off
    assert home.watching == []
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_two_agents_never_share_a_state_directory(home: Home) -> None:
    home.join()
    async with home.agent():
        await asyncio.sleep(5)
        with pytest.raises(OSError, match="in use by the agent of node n"):
            await main.run(home.settings)
        await asyncio.sleep(20)
        assert beats(home) == [0, 10, 20]


@virtual
async def test_what_it_serves_is_what_it_counts_and_ends_with_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []

    class Runner:
        async def cleanup(self) -> None:
            served.append("ended")

    async def serve(address: str, healthy: Any, registry: Any, before: Any, waits_for: Any) -> tuple[Runner, int]:
        served.extend((address, healthy, registry, waits_for))
        return Runner(), 1

    monkeypatch.setattr(main, "serve", serve)
    home.settings = replace(home.settings, metrics="127.0.0.1:9", state=home.settings.state / "deep" / "er")

    home.join()
    async with home.agent():
        await asyncio.sleep(5)
        address, healthy, registry, lacking = served
        assert (address, healthy()) == ("127.0.0.1:9", None)
        assert lacking() is None
        assert registry is home.metrics.registry
        assert home.settings.state.stat().st_mode & 0o777 == 0o700
        hung = asyncio.get_running_loop().create_future()
        home.served[0].distrust = lambda: None
        monkeypatch.setattr("zos.agent.owners.Owners.learn", lambda *_: None)
        monkeypatch.setattr("zos.agent.converge.Converger.converge", lambda *_, **__: hung)
        await asyncio.sleep(60 + 290)
        assert healthy() is None
        await asyncio.sleep(20)
        assert "a pass has been running for 3" in healthy()
    assert served[-1] == "ended"
