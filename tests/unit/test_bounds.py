"""What one party writes and another reads: bounded where it enters, read leniently, and never taken for something else."""

from __future__ import annotations

import base64
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

import cases
from cases import world_of
from fixpoint import resolve as resolved
from fixpoint import settle
from zos.agent.nodestatus import ours
from zos.agent.surroundings import nameservers
from zos.api import names
from zos.api.core import NoText, Secret
from zos.api.gridnode import GridNode, GridNodeStatus
from zos.api.meta import Condition, Reason
from zos.api.names import NODE_PREFIX
from zos.api.zmachine import EnvSource, EnvVar, SecretKeyRef, ZMachine
from zos.kinds.gridnode.resolve import resolve
from zos.kinds.network.topology import Member, endpoint
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import MachineState
from zos.manifests.crd import crd
from zos.world.conditions import conditions
from zos.world.resolution import waiting

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def test_every_text_and_every_list_is_bounded() -> None:
    def unbounded(node: dict[str, Any], path: str) -> Iterator[str]:
        if node.get("type") == "array" and "maxItems" not in node:
            yield path
        if node.get("type") == "string" and "maxLength" not in node and "enum" not in node:
            yield path
        for name, child in node.get("properties", {}).items():
            yield from unbounded(child, f"{path}.{name}")
        for name, child in (("[]", node.get("items")), ("{}", node.get("additionalProperties"))):
            if isinstance(child, dict):
                yield from unbounded(child, path + name)

    found = []
    for model in KINDS.models:
        properties = crd(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            found += [f"{model.KIND}: {path}" for path in unbounded(properties.get(part, {}), part)]
    assert found == []


def node(spec: dict[str, Any] | None = None, **status: Any) -> GridNode:
    return GridNode.model_validate({"metadata": {"name": "n", "uid": "u"}, "spec": spec or {}, "status": status})


def test_what_was_there_before_admission_looked_goes_no_further() -> None:
    status = node(prekeys=[KEY, f"{KEY}\nPostUp = x", "", "two words"], nameservers=["198.51.100.1", "x\ny"]).status
    assert status.prekeys == (KEY,)
    assert status.nameservers == ("198.51.100.1",)


def test_the_words_of_a_newer_peer_are_read_as_neutral_ones() -> None:
    condition = Condition.model_validate({"type": "Ready", "status": "Perhaps", "reason": "Tunneled"})
    assert condition.status == "Unknown"
    assert Reason.read(condition.reason) is Reason.OTHER
    assert Reason.read("Failed") is Reason.FAILED
    assert node(features={"accelerator": "hvf", "wireguard": "hardware"}).status.features.accelerator == ""
    owner = {"kind": "ZMachine", "namespace": "d", "name": "m", "uid": "u"}
    status = {"machine": {"state": "Migrating", "mode": "micro", "accelerator": "hvf", "restarts": 3}}
    state = KINDS.workload.model_validate({"metadata": {"name": "w"}, "spec": {"owner": owner}, "status": status}).state(
        MachineState
    )
    assert state is not None
    assert (state.state, state.mode, state.accelerator, state.restarts) == ("Pending", None, None, 3)


def test_a_message_is_cut_to_what_admission_takes() -> None:
    long = "x" * 100_000
    found = conditions(
        waiting(Reason.FAILED, long), (Condition(type="Further", status="True", reason="R", message=long),), (), 1, ""
    )
    assert {len(condition.message) for condition in found} == {4096}
    again = conditions(
        waiting(Reason.FAILED, long), (Condition(type="Further", status="True", reason="R", message=long),), found, 1, "later"
    )
    assert again == found


def test_an_offer_caps_what_a_node_says_of_itself() -> None:
    told = {"cpu": 64, "memory": "1Ei", "storage": "10Gi"}
    assert node(capacity=told).offered.cpu == 64
    offering = node(
        {"offer": {"cpu": 4, "memory": "8Gi", "storage": "1Ti"}}, capacity=told, holds=[{"uid": "a", "owner": "o", "cpu": 3}]
    )
    assert (offering.offered.cpu, offering.offered.memory, offering.offered.storage) == (4, 8 * 2**30, 10 * 2**30)
    assert offering.unheld.cpu == 1
    assert node({"offer": {"cpu": 0}}, capacity=told).unheld.cpu == 0


def test_what_is_summed_up_of_what_an_agent_says_can_be_written_down() -> None:
    most = [{"uid": f"u{number}", "cpu": 2**31 - 1, "memory": "9999999999999999999Ei", "storage": "8Ei"} for number in range(3)]
    thief = node(capacity={"cpu": 4, "memory": "8Gi", "storage": "1Ti"}, quarantine=most)
    world = world_of(())
    world.put(thief)
    found = resolve(thief, world.reader(thief.key)).status
    assert isinstance(found, GridNodeStatus)
    schema = crd(GridNode)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    for part in ("allocated", "free"):
        for name, value in found.wire()[part].items():
            form = schema[part]["properties"][name]
            assert re.search(form["pattern"], value) if "pattern" in form else form["minimum"] <= value <= form["maximum"]
    assert GridNodeStatus.model_validate(found.wire()) == found, "it would be written again and again"


def test_a_node_that_says_much_of_a_machine_leaves_room_for_how_it_stands() -> None:
    said = tuple(Condition(type=f"Further{number}", status="True", reason="R") for number in range(16))
    found = conditions(waiting(Reason.FAILED, ""), said, (), 1, "")
    assert [condition.type for condition in found[:3]] == ["Ready", "Stalled", "Further0"]
    assert len(found) == 16


def test_where_a_node_is_reached_is_written_in_the_form_that_statuses_take() -> None:
    member = Member("n", "10.20.2.0/24", KEY, 52000, None, "2001:DB8::7")
    assert endpoint(member, member) == "[2001:db8::7]:52000"


def secret(**data: bytes) -> Secret:
    values = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return Secret.model_validate({"metadata": {"name": "s"}, "data": values})


def test_a_key_of_a_secret_is_text_or_says_why_not() -> None:
    found = secret(plain="zwölf".encode(), empty=b"", latin=b"\xe4", nul=b"a\0b")
    assert found.read("plain") == found.text("plain") == "zwölf"
    assert found.read("empty") == found.text("empty") == ""
    assert found.read("none") is NoText.ABSENT
    assert found.read("latin") is found.read("nul") is NoText.BINARY
    assert found.text("latin") is found.text("nul") is found.text("none") is None
    assert Secret.model_validate({"metadata": {"name": "s"}, "data": {"k": None}}).read("k") == ""
    assert Secret.model_validate({"metadata": {"name": "s"}, "data": {"k": "!"}}).read("k") is NoText.BINARY


@pytest.mark.parametrize(
    ("size", "count", "words"),
    [
        (2**17 - 1 - len("V0="), 4, ""),
        (2**17 - len("V0="), 1, f"env V0 has {2**17 - 3} bytes, and {2**17 - 4} is the most"),
        (2**17 - 100, 5, f"{5 * (2**17 - 100) + 5} bytes together"),
        (1000 * 1024, 256, "env V0 has 1024000 bytes"),
        (100 * 1024, 256, f"{256 * 100 * 1024 + 5} bytes together"),
    ],
)
def test_variables_of_a_machine_are_bounded_before_they_are_gathered(size: int, count: int, words: str) -> None:
    """A Secret that is named often costs its tenant once: it must not cost the controller as often."""
    objects, _ = cases.load(Path(__file__).parent.parent / "golden" / "vanished.yaml")
    world = cases.world_of(objects)
    settle(world, ("Farm", "GridNode", "Network", "Contract", "PublicIP", "ZMount", "ZMachine"))
    machine, password = world.peek(ZMachine.key_of("default", "web")), world.peek(Secret.key_of("default", "password"))
    assert isinstance(machine, ZMachine)
    assert isinstance(password, Secret)
    world.put(password.model_copy(update={"data": {"value": base64.b64encode(b"x" * size).decode()}}))
    source = EnvSource(secret_key_ref=SecretKeyRef(name="password", key="value"))
    env = (EnvVar(name="PLAIN", value="hello"), *(EnvVar(name=f"V{number}", value_from=source) for number in range(count)))
    machine = machine.model_copy(update={"spec": machine.spec.model_copy(update={"env": env})})
    world.put(machine)
    tracemalloc.start()
    found = resolved(machine, world)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    verdict, values = found.verdict, [len(value.value) for workload in found.workloads or () for value in workload.secrets]
    del found
    assert tracemalloc.get_traced_memory()[0] < 2**18, "the world remembers what was read"
    tracemalloc.stop()
    assert values == ([] if words else [size] * count)
    assert words in verdict.message
    assert (verdict.reason is Reason.INVALID_SPEC) is bool(words)


@given(st.binary(max_size=64))
def test_no_bytes_of_a_secret_raise(value: bytes) -> None:
    found = secret(k=value).read("k")
    assert found is NoText.BINARY or found == value.decode()


@pytest.mark.parametrize("name", ["n1", "a.b", "x" * 253, "zos-node-", "1"])
def test_the_namespace_of_every_node_is_known_by_its_beginning(name: str) -> None:
    """By it the admission policies tell agents."""
    assert names.node_namespace(name).startswith(NODE_PREFIX)


def test_an_agents_fields_are_known_in_one_place() -> None:
    full = node(
        **{to_camel(name): value for name, value in {"prekeys": [KEY], "free": {"cpu": 1}, "agent_version": "1"}.items()}
    )
    assert ours(full).keys() <= {to_camel(field) for field in GridNodeStatus.AGENTS}
    assert set(GridNodeStatus.model_fields) >= GridNodeStatus.AGENTS


def test_name_servers_that_admission_takes(tmp_path: Any) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "".join(f"nameserver {one}\n" for one in ("fe80::1%eth0", "2001:db8::1%eth0", "198.51.100.1%x", "2001:db8::53"))
    )
    assert nameservers((file,)) == ("2001:db8::53",)
    file.write_text("".join(f"nameserver 198.51.100.{n}\n" for n in range(1, 20)))
    assert len(nameservers((file,))) == 8
