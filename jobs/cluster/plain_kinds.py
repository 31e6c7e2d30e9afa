"""Kubernetes' own kinds that come with hdrfleet: their structure, and what they open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, holds, is_everybody, listing, mapping, one_of, reach
from jobs.cluster.network_reach import opens_port
from jobs.cluster.ray_yaml import unknown_keys

_PUBLIC = frozenset({"LoadBalancer", "NodePort"})
_TOP = ("apiVersion", "kind", "metadata")
_PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"})
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9](?:-?[a-z0-9])*")
_MAX_PORT = 65535
_PEER = ("ipBlock", "namespaceSelector", "podSelector")
_SELECTOR = ("matchLabels", "matchExpressions")

# Where what runs on a node of AWS, Google Cloud or Azure gets the node's credentials, by HTTP on port 80 (IPv6: AWS,
# Google Cloud).
_METADATA = ("169.254.169.254", "fd00:ec2::254", "fd20:ce::254")
_METADATA_PORT = 80
_GIVES_RIGHTS = "to the nodes' metadata service too, and so are the rights of the node"


def check_plain_object(value: dict[str, Any]) -> Iterator[Finding] | None:
    """Yield what is wrong with an object; None for a kind that is not known here."""
    check = _CHECKS.get(str(value.get("kind")))
    return None if check is None else check(value)


def _check_network_policy(value: dict[str, Any]) -> Iterator[Finding]:
    spec = mapping(value.get("spec"))
    yield from unknown_keys("", value, (*_TOP, "spec"))
    yield from unknown_keys("spec", spec, ("podSelector", "policyTypes", "ingress", "egress"))
    if not isinstance(spec.get("podSelector"), dict):
        yield Finding("spec.podSelector", "missing_key", "says which pods the policy is for")
    yield from unknown_keys("spec.podSelector", mapping(spec.get("podSelector")), _SELECTOR)
    types = listing(spec.get("policyTypes"))
    for kind in ("Ingress", "Egress"):
        if kind not in types:
            yield Finding(
                "spec.policyTypes", "open_network", f"does not hold {kind}: nothing is denied in that direction"
            )
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(listing(spec.get(direction))):
            yield from _check_rule(at("spec", direction, index), mapping(rule), peers)


def _check_rule(place: str, rule: dict[str, Any], peers: str) -> Iterator[Finding]:
    yield from unknown_keys(place, rule, (peers, "ports"))
    if peers == "from" and not rule.get("from"):
        yield Finding(
            at(place, "from"), "open_network", "is empty, which means everybody, outside the cluster included"
        )
    for index, peer in enumerate(listing(rule.get(peers))):
        where = at(place, peers, index)
        yield from unknown_keys(where, mapping(peer), _PEER)
        yield from unknown_keys(at(where, "ipBlock"), mapping(mapping(peer).get("ipBlock")), ("cidr", "except"))
        for name in ("podSelector", "namespaceSelector"):
            yield from unknown_keys(at(where, name), mapping(mapping(peer).get(name)), _SELECTOR)
        if peers == "from" and is_everybody(reach(peer, "ipBlock", "cidr")):
            yield Finding(at(where, "ipBlock", "cidr"), "open_network", "lets the whole world in")
        if peers == "from" and mapping(peer).get("namespaceSelector") == {} and "podSelector" not in peer:
            yield Finding(at(where, "namespaceSelector"), "open_network", "lets in every pod of every namespace")
    for index, port in enumerate(listing(rule.get("ports"))):
        yield from _check_port(at(place, "ports", index), mapping(port))
    if peers == "to" and opens_port(rule, _METADATA_PORT):
        yield from _check_metadata(place, rule)


def _check_metadata(place: str, rule: dict[str, Any]) -> Iterator[Finding]:
    """A wide way out that also leads to the node's own rights; one that names a single address is meant."""
    if not rule.get("to"):
        yield Finding(at(place, "to"), "metadata_service", "is empty, which means everywhere, " + _GIVES_RIGHTS)
    for index, peer in enumerate(listing(rule.get("to"))):
        block = mapping(mapping(peer).get("ipBlock"))
        if str(block.get("cidr")).endswith(("/32", "/128")):
            continue
        for address in _METADATA:
            if holds(block.get("cidr"), address) and not any(
                holds(each, address) for each in listing(block.get("except"))
            ):
                yield Finding(
                    at(place, "to", index, "ipBlock", "except"),
                    "metadata_service",
                    f"does not hold {address}: the rule is open " + _GIVES_RIGHTS,
                )


def _check_port(place: str, port: dict[str, Any]) -> Iterator[Finding]:
    yield from unknown_keys(place, port, ("protocol", "port", "endPort"))
    first, last = port.get("port"), port.get("endPort")
    if not one_of(port.get("protocol", "TCP"), _PROTOCOLS):
        yield Finding(at(place, "protocol"), "unknown_value", f"is {port['protocol']!r}; write TCP, UDP or SCTP")
    if isinstance(first, str):
        if first.isdigit():
            yield Finding(at(place, "port"), "wrong_type", f"{first!r} is a name, not a number; take off the quotes")
        elif not _PORT_NAME.fullmatch(first):
            yield Finding(
                at(place, "port"), "unknown_value", f"{first!r} is no name of a port (a-z, 0-9, -; 15 at most)"
            )
    elif first is not None and not _is_port(first):
        yield Finding(at(place, "port"), "unknown_value", f"{first!r} is no port; write 1 to 65535")
    if last is not None and not (_is_port(last) and _is_port(first) and first <= last):
        yield Finding(at(place, "endPort"), "unknown_value", f"{last!r} is no port at or above `port`, a number")


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_PORT


def _check_service_account(value: dict[str, Any]) -> Iterator[Finding]:
    yield from unknown_keys("", value, (*_TOP, "automountServiceAccountToken", "imagePullSecrets", "secrets"))
    if value.get("automountServiceAccountToken") is not False:
        yield Finding(
            "automountServiceAccountToken",
            "api_token",
            "is not false: every pod of this account gets a key to Kubernetes' API",
        )


def _check_service(value: dict[str, Any]) -> Iterator[Finding]:
    if one_of(reach(value, "spec", "type"), _PUBLIC):
        yield Finding(
            "spec.type", "public_port", "opens the service beyond the cluster; use ClusterIP and port-forward"
        )
    if reach(value, "spec", "externalIPs"):
        yield Finding("spec.externalIPs", "public_port", "opens the service beyond the cluster; use port-forward")


def _check_ingress(_: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("spec", "public_port", "opens a service beyond the cluster; use port-forward")


def _check_secret(value: dict[str, Any]) -> Iterator[Finding]:
    for name in ("data", "stringData"):
        if value.get(name):
            yield Finding(name, "secret", "secrets stand in the file; make them with kubectl create secret")


_CHECKS: dict[str, Callable[[dict[str, Any]], Iterator[Finding]]] = {
    "NetworkPolicy": _check_network_policy,
    "ServiceAccount": _check_service_account,
    "Service": _check_service,
    "Ingress": _check_ingress,
    "Secret": _check_secret,
}
