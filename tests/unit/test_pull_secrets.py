"""The credentials of a machine's image: which are taken of a tenant's Secrets, and what is said of those that won't do."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cases import world_of
from zos.api.core import Secret
from zos.api.zmachine import ZMachine
from zos.world import pullsecrets
from zos.world.resolution import SecretValue, Verdict

TYPE = "kubernetes.io/dockerconfigjson"
OURS = {"auth": base64.b64encode(b"ours:opensesame").decode()}


def secret(name: str, auths: Any, *, type: str = TYPE, key: str = ".dockerconfigjson", version: str = "7") -> Secret:
    text = auths if isinstance(auths, str) else json.dumps({"auths": auths})
    about = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": version}
    return Secret.model_validate({"metadata": about, "type": type, "data": {key: base64.b64encode(text.encode()).decode()}})


def found(image: str, *secrets: Secret, names: tuple[str, ...] = ("pull",)) -> tuple[SecretValue, ...] | Verdict:
    machine = ZMachine.model_validate(
        {
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"image": image, "network": {"name": "net"}, "imagePullSecrets": [{"name": name} for name in names]},
        }
    )
    world = world_of([*secrets])
    return pullsecrets.find(machine, image, machine.spec.image_pull_secrets, world.reader(machine.key))


def auths(value: tuple[SecretValue, ...] | Verdict) -> dict[str, Any]:
    assert not isinstance(value, Verdict), value
    return dict(json.loads(value[0].value)["auths"]) if value else {}


@pytest.mark.parametrize(
    ("entries", "image", "taken"),
    [
        ({"r.example": OURS, "s.example": {"auth": "eA=="}}, "oci://r.example/app:1", {"r.example": OURS}),
        ({"r.example": {"auth": "eA=="}, "r.example/team": OURS}, "oci://r.example/team/app", {"r.example/team": OURS}),
        ({"https://index.docker.io/v1/": OURS}, "oci://docker.io/library/nginx:1", {"docker.io": OURS}),
        ({"https://r.example:5000/v2/": OURS}, "oci://r.example:5000/app@sha256:" + "0" * 64, {"r.example:5000": OURS}),
        ({"r.example": {"username": "ours", "password": "opensesame"}}, "oci://r.example/app", {"r.example": OURS}),
        ({"r.example": {"username": "\ud800", "password": "x"}}, "oci://r.example/app", {"r.example": {"auth": "Pzp4"}}),
        ({"r.example": {**OURS, "email": "x", "credsStore": "y"}}, "oci://r.example/app", {"r.example": OURS}),
        ({"r.example": {"auth": 7}, "r.ex\nample": OURS, "r.example/x": []}, "oci://r.example/x/app", {}),
        ({"s.example": OURS}, "oci://r.example/app:1", {}),
        ({"r.example": OURS}, "https://r.example/app.tar", {}),
    ],
)
def test_only_the_nearest_entry_for_the_registry_is_taken(entries: Any, image: str, taken: Any) -> None:
    assert auths(found(image, secret("pull", entries))) == taken


def test_the_first_secret_wins_and_what_it_is_called_tells_nothing_of_it() -> None:
    one, two = secret("one", {"r.example": OURS}), secret("two", {"r.example": {"auth": "eA=="}})
    value = found("oci://r.example/app", one, two, names=("one", "two"))
    assert auths(value) == {"r.example": OURS}
    assert isinstance(value, tuple)
    later = found("oci://r.example/app", secret("one", {"r.example": OURS}, version="8"), two, names=("one", "two"))
    assert isinstance(later, tuple)
    assert value[0].name.startswith("image/")
    assert len(value[0].name) == len("image/") + 32, "who may call his entries as he likes can't have another's name"
    assert value[0].name != later[0].name, "a changed Secret is shown to the registry anew"
    assert OURS["auth"] not in repr(value)


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ([], "Secret pull (imagePullSecrets) does not exist: make it in this namespace"),
        ([secret("pull", {}, type="Opaque")], "is not of type kubernetes.io/dockerconfigjson"),
        ([secret("pull", {}, key="config.json")], "is not of type kubernetes.io/dockerconfigjson with a key .dockerconfigjson"),
        ([secret("pull", "no json")], "is no docker configuration"),
        ([secret("pull", '{"auths": []}')], "is no docker configuration"),
        ([secret("pull", '{"auths": {' + " " * 2**18 + "}}")], "of at most 256 KiB"),
    ],
)
def test_a_secret_that_will_not_do_waits_and_says_why(secrets: list[Secret], words: str) -> None:
    verdict = found("oci://r.example/app", *secrets)
    assert isinstance(verdict, Verdict)
    assert words in verdict.message
