"""What a model says about its CRD beside its fields: admission rules, printer columns, list keys.

Rules are CEL (https://kubernetes.io/docs/reference/using-api/cel/) and run in the API server, so `kubectl apply` refuses
what they refuse; messages name the field and the rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic.config import JsonDict

from zos.api.text import LABEL, REFERENCE


class Rule(NamedTuple):
    """A CEL expression over ``self`` (and ``oldSelf``: then it speaks of updates), and what to say when it is false.
    ``field`` is the path below ``self`` that the message is about."""

    rule: str
    message: str
    field: str | None = None


class Column(NamedTuple):
    """A column of ``kubectl get``. Priority 1 shows only with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


AGE = Column("Age", ".metadata.creationTimestamp", "date")
READY = Column("Ready", ".status.conditions[?(@.type=='Ready')].status")
REASON = Column("Reason", ".status.conditions[?(@.type=='Ready')].reason")


def rules(*checks: Rule, **extra: Any) -> JsonDict:
    """For ``json_schema_extra`` of a field or a model: its rules, and any further keywords of the schema."""
    validations: list[Any] = [
        {"rule": check.rule, "message": check.message} | ({"fieldPath": check.field} if check.field else {}) for check in checks
    ]
    return {"x-kubernetes-validations": validations, **extra}


def at_most(items: int, *checks: Rule) -> JsonDict:
    """For a list in a status: its bound is the API server's business, and no reason not to read what is there."""
    return {**(rules(*checks) if checks else {}), "maxItems": items}


def keyed(*keys: str, checks: tuple[Rule, ...] = ()) -> JsonDict:
    """For a list of objects with unique keys: duplicates are refused, and server-side apply merges by them."""
    base = rules(*checks) if checks else {}
    return {**base, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def ipv4(what: str) -> Rule:
    return Rule("isIP(self) && ip(self).family() == 4", f"{what} must be an IPv4 address like 198.51.100.7")


def ipv6(what: str) -> Rule:
    return Rule("isIP(self) && ip(self).family() == 6", f"{what} must be an IPv6 address like 2001:db8::7")


def unicast(what: str) -> Rule:
    return Rule(
        "!isIP(self) || ip(self).isGlobalUnicast()",
        f"{what} must be an address that others can send to, not a loopback, link-local, multicast or broadcast one",
    )


def each_cidr(what: str) -> JsonDict:
    """For a list of ranges of either family."""
    check = Rule(
        "self.all(c, isCIDR(c) && c == string(cidr(c).masked()))",
        f"{what} must be ranges like 192.168.0.0/16 or fd00::/8: their host bits must be zero",
    )
    return {**rules(check), "x-kubernetes-list-type": "set"}


def ipv4_range(what: str, example: str) -> tuple[Rule, Rule]:
    """An IPv4 CIDR whose host bits are zero."""
    return (
        Rule("isCIDR(self) && cidr(self).ip().family() == 4", f"{what} must be an IPv4 range like {example}"),
        Rule(
            "!isCIDR(self) || self == string(cidr(self).masked())",
            f"{what} must begin at its network address, like {example}: its host bits must be zero",
        ),
    )


def subrange(what: str) -> Rule:
    return Rule(
        "isCIDR(self) && cidr(self).ip().family() == 4 && cidr(self).prefixLength() == 24"
        " && self == string(cidr(self).masked())",
        f"{what} must be exactly a /24 like 10.20.5.0/24",
    )


def named(what: str) -> Rule:
    """The name of another object, which can't be there under what is no name."""
    return Rule(
        f"self.matches('{REFERENCE}')",
        f"{what} must be a name as objects have: lower-case letters, digits, '-' and '.', like web-1",
    )


def label(what: str) -> Rule:
    """The name of a namespace."""
    return Rule(
        f"self.matches('{LABEL}')", f"{what} must be a name as namespaces have: lower-case letters, digits and '-', like team-a"
    )


def no_control(what: str) -> Rule:
    """Characters that end a line, begin an escape sequence or cut a text short."""
    return Rule(r"!self.matches(r'\p{Cc}')", f"{what} must not have control characters, like a line's end")


def at_least(what: str, amount: str) -> Rule:
    return Rule(
        f"quantity(string(self)).compareTo(quantity('{amount}')) >= 0",
        f"{what} must be at least {amount}",
    )


def never_less(field: str, message: str) -> Rule:
    """For a whole object: a quantity of its spec that may be taken back to what the status says that there is of it, and not
    below. A status that comes to say more is no change of the spec; 0 stands for a default."""

    def size(of: str) -> str:
        return f"quantity(string({of}.{field}))"

    spec, status = "self.spec", "oldSelf.status"
    return Rule(
        f"!has({spec}.{field}) || {size(spec)}.compareTo(quantity('0')) == 0"
        f" || has(oldSelf.spec.{field}) && {size(spec)}.compareTo({size('oldSelf.spec')}) >= 0"
        f" || !has({status}) || !has({status}.{field}) || {size(spec)}.compareTo({size(status)}) >= 0",
        message,
        f".spec.{field}",
    )
