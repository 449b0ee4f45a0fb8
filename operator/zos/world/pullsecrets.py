"""The credentials that an object's image is fetched with: of all that its Secrets hold, the one entry for that registry."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from zos.api.core import Secret
from zos.api.credentials import PULL, nearest
from zos.api.image import PullSecret
from zos.api.meta import Object, Reason
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import SecretValue, Verdict, waiting

INDEXES = (Indexes(Secret),)

_TYPE = "kubernetes.io/dockerconfigjson"
_KEY = ".dockerconfigjson"
#: Bytes of a Secret's value, and characters of one entry's credentials.
_LARGEST, _LONGEST = 2**18, 2**14
_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[a-z0-9._/-]{1,255})?")
_SCHEME = "oci://"


def find(obj: Object, image: str, secrets: tuple[PullSecret, ...], world: Reader) -> tuple[SecretValue, ...] | Verdict:
    """At most one value, or why there is none (yet). Where no Secret of those that ``obj`` names has an entry for the registry,
    the image is fetched as by anybody."""
    if not image.startswith(_SCHEME):
        return ()
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for asked in secrets:
        seen = world.view(Secret, obj.namespace, asked.name, _version)
        if seen is None:
            message = f"Secret {asked.name} (imagePullSecrets) does not exist: make it in this namespace"
            return waiting(Reason.DEPENDENCY_NOT_READY, message)
        uid, version, kind, size = seen
        if kind != _TYPE or size is None:
            how = "kubectl create secret docker-registry makes one"
            message = f"Secret {asked.name} (imagePullSecrets) is not of type {_TYPE} with a key {_KEY}: {how}"
            return waiting(Reason.INVALID_SPEC, message)
        entries = world.untracked.view(Secret, obj.namespace, asked.name, _entries) if size <= _LARGEST else None
        if entries is None:
            message = f"key {_KEY} of Secret {asked.name} (imagePullSecrets) is no docker configuration of at most 256 KiB"
            return waiting(Reason.INVALID_SPEC, message)
        for registry, entry in entries.items():
            found.setdefault(registry, (f"{uid}/{version}", entry))
    name = nearest(found, image.removeprefix(_SCHEME))
    if name is None:
        return ()
    whose, entry = found[name]
    source = f"{whose}/{name}"
    # Of where they are from, not of what they are: this may be read by everybody. Long enough that nobody finds a name of
    # an entry that gives him another's.
    access = hashlib.sha256(source.encode()).hexdigest()[:32]
    return (SecretValue(PULL + access, source, json.dumps({"auths": {name: entry}})),)


def _version(secret: Secret) -> tuple[str, str, str, int | None]:
    return secret.uid, secret.metadata.resource_version, secret.type, secret.size(_KEY)


def _entries(secret: Secret) -> dict[str, dict[str, str]] | None:
    """By registry or repository, as an image names it. What is not understood is passed over. None: it is none."""
    try:
        auths = json.loads(secret.text(_KEY) or "")["auths"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(auths, dict):
        return None
    found: dict[str, dict[str, str]] = {}
    for name, entry in auths.items():
        plain = _plain(str(name))
        if _NAME.fullmatch(plain) and isinstance(entry, dict) and (taken := _taken(entry)):
            found.setdefault(plain, taken)
    return found


def _plain(name: str) -> str:
    """Docker writes registries as addresses of their API."""
    name = re.sub(r"^https?://", "", name)
    name = re.sub(r"/v[12]/?$", "", name).rstrip("/")
    return "docker.io" if name in ("index.docker.io", "registry-1.docker.io") else name


def _taken(entry: Mapping[str, Any]) -> dict[str, str]:
    """``auth``, made of user name and password where those are given, and ``identitytoken``."""
    user, password, auth, token = (entry.get(key) for key in ("username", "password", "auth", "identitytoken"))
    if not auth and isinstance(user, str) and isinstance(password, str):
        auth = base64.b64encode(f"{user}:{password}".encode(errors="replace")).decode()  # JSON may have half a character
    told = {"auth": auth, "identitytoken": token}
    return {key: text for key, text in told.items() if isinstance(text, str) and 0 < len(text) <= _LONGEST}
