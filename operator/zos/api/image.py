"""Images as users name them, and what they are fetched with: fields of every kind that has one."""

from __future__ import annotations

from pydantic import Field
from pydantic.config import JsonDict

from zos.api.meta import Model
from zos.api.schema import Rule, named, rules

#: Characters of an image's name.
LONGEST = 1024

_FORMS = (
    "oci://[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[a-f0-9]{64})?",
    r"https://[^/#\s\p{Cc}]+/[^#\s\p{Cc}]+(#sha256:[a-f0-9]{64})?",
    r"file:///[^\s\p{Cc}]+",
)


def image_rules(what: str) -> JsonDict:
    """For the field called so."""
    check = Rule(
        f"self.matches(r'^({'|'.join(_FORMS)})$')",
        f"{what} must be oci://registry/repository:tag, https://…, also with #sha256:<checksum>, or file:///…",
    )
    return rules(check)


class PullSecret(Model):
    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("imagePullSecrets[].name")))
    """A Secret of the same namespace, of type ``kubernetes.io/dockerconfigjson``."""
