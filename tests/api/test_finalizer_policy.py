"""The policy by which the API server gives objects the controller's finalizer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from apiserver import ApiServer
from zos.api.meta import API_VERSION, CONTROLLER_FINALIZER
from zos.manifests.admission import finalizing


@pytest.fixture
def policy(apiserver: ApiServer) -> Iterator[None]:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(finalizing())})
    apiserver.kubectl("create", "namespace", "finalizers")
    apiserver.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    yield
    apiserver.kubectl("delete", "-f", "-", stdin=text)
    # It goes on for a moment after its end, and what it then gives a finalizer to would never go: others use this server too.
    deadline = time.monotonic() + 20
    while created(apiserver, "after", dry_run=True):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(0.5)


def created(apiserver: ApiServer, name: str, *finalizers: str, dry_run: bool = False) -> list[str]:
    meta = {"name": name, "namespace": "finalizers"} | ({"finalizers": list(finalizers)} if finalizers else {})
    body = {"apiVersion": API_VERSION, "kind": "ZMount", "metadata": meta, "spec": {"size": "1Gi"}}
    how = ["--dry-run=server"] if dry_run else []
    out = apiserver.kubectl("create", "-f", "-", "-o", "json", *how, stdin=json.dumps(body))
    return json.loads(out)["metadata"].get("finalizers", [])


def finalizers(apiserver: ApiServer, name: str) -> list[str]:
    out = apiserver.kubectl("get", "zmount", name, "-n", "finalizers", "-o", "json")
    return list(json.loads(out)["metadata"].get("finalizers", []))


def test_a_new_object_has_it_from_the_start_and_keeps_those_of_others(apiserver: ApiServer, policy: None) -> None:
    deadline = time.monotonic() + 20
    number = 0
    found: list[str] = []
    while not found:  # a policy takes a moment to be known everywhere, and its part of the server to know the kind
        assert time.monotonic() < deadline
        number += 1
        try:
            found = created(apiserver, f"d{number}")
        except RuntimeError as refusal:
            if "There can be a delay" not in str(refusal):
                raise
        time.sleep(0.2)
    assert found == [CONTROLLER_FINALIZER]
    assert created(apiserver, "others", "example.com/mine") == ["example.com/mine", CONTROLLER_FINALIZER]
    assert created(apiserver, "ours", CONTROLLER_FINALIZER) == [CONTROLLER_FINALIZER]
    bare = ("--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    apiserver.kubectl("patch", "zmount", "ours", "-n", "finalizers", *bare)
    assert finalizers(apiserver, "ours") == [CONTROLLER_FINALIZER], "it is not to be had without, as long as it lives"
    apiserver.kubectl("delete", "zmounts", "--all", "-n", "finalizers", "--wait=false")
    for name in (f"d{number}", "others", "ours"):
        apiserver.kubectl("patch", "zmount", name, "-n", "finalizers", *bare)
    assert apiserver.kubectl("get", "zmounts", "-n", "finalizers", "-o", "name") == ""
