"""Whom the pods of a Ray cluster have to reach and be reached by, and which network policies beside them prevent it.

A pod that no policy selects is open in that direction. What a policy says of namespaces is taken to fit: manifests
seldom name their own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobs.cluster.documents import PATCH_OF
from jobs.cluster.findings import Finding, is_everybody, listing, mapping, number, reach
from jobs.cluster.network_reach import leads_out, opens_port, ray_groups, ray_labels, selects, submitter_labels

_GCS_PORT, _DASHBOARD_PORT, _API_PORT, _HTTPS_PORT = 6379, 8265, 6443, 443
_MAX_PORT = 65535
_WORKER_PORTS = {"min-worker-port": 10002, "max-worker-port": 19999}  # Ray's own
_FREE_PORTS = ("node-manager-port", "object-manager-port")
_CHOSEN_BY_LINUX = (32768, 60999)  # the ends of the range that a program gets a port from that asks for any
_PRIVATE = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
# Of the operator's own chart.
_OF_OPERATOR = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
_DIRECTIONS = (("Egress", "egress", "to", "no_way_out"), ("Ingress", "ingress", "from", "no_way_in"))


@dataclass(frozen=True, slots=True)
class _Party:
    """One end of a connection. `labels` is None for what is no pod of these manifests."""

    name: str
    labels: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Flow:
    """A connection that has to be possible, by TCP to each of `ports`, and what comes of it where it is not."""

    source: _Party
    target: _Party
    ports: tuple[int, ...]
    otherwise: str = ""


_OPERATOR, _API = _Party("KubeRay's operator"), _Party("Kubernetes' API server")


def check_traffic(value: dict[str, Any], beside: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield, for a NetworkPolicy, whom of the Ray clusters beside it it cuts off, together with the other policies."""
    if value.get("kind") != "NetworkPolicy":
        return
    policies = [each for each in beside if each.get("kind") == "NetworkPolicy" and reach(each, "spec")]
    clusters = [each for each in beside if PATCH_OF not in mapping(reach(each, "metadata", "annotations"))]
    pods = [ray_labels(each, group, role) for each in clusters for _, group, role in ray_groups(each)]
    flows = [flow for each in clusters for flow in _flows(each, clusters)]
    for kind, rules, peers, code in _DIRECTIONS:
        cut: dict[str, None] = {}  # a set that keeps its order
        for flow in flows:
            own, other = (flow.source, flow.target) if kind == "Egress" else (flow.target, flow.source)
            selecting = [each for each in policies if _is_for(each, kind, own)]
            port = _cut_port(flow, other, [rule for each in selecting for rule in _rules(each, rules)], peers, pods)
            if port is not None and selecting and _to_blame(selecting, other, pods) == value:
                cut[f"{flow.source.name} from {flow.target.name} (TCP port {port}{flow.otherwise})"] = None
        if cut:
            yield Finding(f"spec.{rules}", code, f"cuts off {', '.join(cut)}")


def _flows(value: dict[str, Any], clusters: list[dict[str, Any]]) -> Iterator[_Flow]:
    """What has to be possible for a RayCluster or a RayJob; nothing for other objects."""
    ends = []
    for _, group, role in ray_groups(value):
        name = "the head" if role == "head" else "the workers"
        ends.append((_Party(name, ray_labels(value, group, role)), role, mapping(group.get("rayStartParams"))))
    for source, role, _ in ends:
        for target, target_role, start in ends:
            if "worker" in (role, target_role):
                yield _Flow(source, target, _ports(start, target_role))
    for head in [end for end, role, _ in ends if role == "head"]:
        submitter = submitter_labels(value)
        if value["kind"] == "RayJob" and submitter is not None:
            yield _Flow(_Party("the submitter", submitter), head, (_DASHBOARD_PORT,))
        if value["kind"] == "RayJob" or any(reach(each, "spec", "clusterSelector") for each in clusters):
            yield _Flow(_OPERATOR, head, (_DASHBOARD_PORT,), ": it would not learn how the job is")
        spec = mapping(value.get("spec"))
        if mapping(spec.get("rayClusterSpec", spec)).get("enableInTreeAutoscaling") is True:
            at_443 = ": no worker would be started; where it answers on 443 itself, write a rule for its own address"
            yield _Flow(head, _API, (_API_PORT,), at_443)


def _ports(start: dict[str, Any], role: str) -> tuple[int, ...]:
    """Ports that pods of a group are reached at; of a range, its ends."""
    listed = [_port(each, 0) for each in str(start.get("worker-port-list") or "").split(",") if each]
    ports = [_port(start.get("port"), _GCS_PORT)] if role == "head" else []
    ports += listed or [_port(start.get(key), default) for key, default in _WORKER_PORTS.items()]
    ports += [_port(start.get(key), 0) for key in _FREE_PORTS]
    chosen = _CHOSEN_BY_LINUX if 0 in ports else ()
    return (*(port for port in ports if port), *chosen)


def _port(value: Any, default: int) -> int:
    """A port as `ray start` is told it; 0 lets Linux choose."""
    said = number(value, default)
    return int(said) if 0 <= said <= _MAX_PORT else default


def _is_for(policy: dict[str, Any], kind: str, party: _Party) -> bool:
    """Whether a policy selects the pods of a party and denies what it does not name in this direction."""
    spec = mapping(policy["spec"])
    types = listing(spec.get("policyTypes")) or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return kind in types and party.labels is not None and selects(mapping(spec.get("podSelector")), party.labels)


def _rules(policy: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [mapping(rule) for rule in listing(mapping(policy["spec"]).get(name))]


def _cut_port(
    flow: _Flow, other: _Party, rules: list[dict[str, Any]], peers: str, pods: list[dict[str, Any]]
) -> int | None:
    """The first port of a flow that no rule opens to its other end."""
    for port in flow.ports:
        if other is _API:
            is_open = any(_opens_api(rule) for rule in rules)
        else:
            is_open = any(opens_port(rule, port) and _names(rule, peers, other, pods) for rule in rules)
        if not is_open:
            return port
    return None


def _opens_api(rule: dict[str, Any]) -> bool:
    """The API server answers on 6443, or on 443: a rule that opens 443 to all is not for it, one for its address is."""
    blocks = [reach(peer, "ipBlock", "cidr") for peer in listing(rule.get("to"))]
    is_its_own = any(block is not None and not is_everybody(block) for block in blocks)
    return (opens_port(rule, _API_PORT) and leads_out(rule)) or (opens_port(rule, _HTTPS_PORT) and is_its_own)


def _names(rule: dict[str, Any], peers: str, other: _Party, pods: list[dict[str, Any]]) -> bool:
    """Whether the peers of a rule hold a party; no peers are everybody."""
    found = [mapping(each) for each in listing(rule.get(peers))]
    return not found or any(_is_peer(each, other, pods) for each in found)


def _is_peer(peer: dict[str, Any], other: _Party, pods: list[dict[str, Any]]) -> bool:
    if "ipBlock" in peer:
        return _holds_pods(reach(peer, "ipBlock", "cidr"))
    selector = mapping(peer.get("podSelector"))
    if other.labels is not None:
        return selects(selector, other.labels)
    # The operator may have other labels; a selector for pods of Ray is not for it.
    is_for_ray = any(selects(selector, labels) for labels in pods)
    return "namespaceSelector" in peer or selects(selector, _OF_OPERATOR) or not is_for_ray


def _holds_pods(cidr: Any) -> bool:
    """Whether a network may be that of pods: it has private addresses, and more than one."""
    try:
        network = ipaddress.ip_network(str(cidr), strict=False)
    except ValueError:
        return True  # said elsewhere
    same = [each for each in _PRIVATE if each.version == network.version]
    return network.num_addresses > 1 and any(network.overlaps(each) for each in same)


def _to_blame(selecting: list[dict[str, Any]], other: _Party, pods: list[dict[str, Any]]) -> dict[str, Any]:
    """Which of several policies for a pod lacks the rule: pods among each other are the widest one's, the rest not."""

    def width(policy: dict[str, Any]) -> int:
        return sum(selects(mapping(reach(policy, "spec", "podSelector")), labels) for labels in pods)

    return max(selecting, key=width) if other.labels is not None else min(selecting, key=width)
