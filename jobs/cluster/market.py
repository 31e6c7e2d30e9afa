"""Spot or on demand: what a node type asks for, what its label says, and that the head is never on spot."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, one_of, reach

_LABEL = "hdrfleet-market"
_MARKETS = frozenset({"spot", "on-demand"})
_CUTOFF = 0.85
# The labels by which nodes are told that Karpenter, GKE and EKS start as spot machines.
_SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
}
_TEMPLATES = ("LaunchTemplate", "sourceInstanceTemplate")
_HEAD_LOST = "a head that is taken back takes the driver and all workers with it"
# What keeps Karpenter and the cluster autoscaler from moving a pod to save a node.
KEPT = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def check_launcher_markets(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a node type of a prepared cluster file is labelled as what it is not, or the head is on spot."""
    head = prepared.get("head_node_type")
    for name, node_type in mapping(prepared.get("available_node_types")).items():
        place, node = at("available_node_types", name), mapping(mapping(node_type).get("node_config"))
        if name == head and is_spot(node):
            yield Finding(at(place, "node_config"), "head_on_spot", f"asks for a spot machine: {_HEAD_LOST}")
        is_known = not any(key in node for key in _TEMPLATES)
        yield from _check_label(place, mapping(node_type), is_spot(node) if is_known else None)


def check_group_market(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a worker group of KubeRay is labelled as what the nodes that it selects are not."""
    yield from _check_label(place, group, selects_spot(mapping(reach(group, "template", "spec"))))


def check_head_market(place: str, pod: dict[str, Any]) -> Iterator[Finding]:
    """Yield where the head's pod of KubeRay, at `place`, asks for a spot node."""
    if selects_spot(pod):
        yield Finding(at(place, "nodeSelector"), "head_on_spot", f"selects spot nodes: {_HEAD_LOST}")
    for where, term in _terms(at(place, "affinity", "nodeAffinity"), pod):
        for index, each in enumerate(map(mapping, listing(term.get("matchExpressions")))):
            spot, operator = _SPOT_LABELS.get(str(each.get("key"))), each.get("operator")
            if spot and (operator == "Exists" or (operator == "In" and spot in listing(each.get("values")))):
                yield Finding(
                    at(where, "matchExpressions", index), "head_on_spot", f"asks for spot nodes: {_HEAD_LOST}"
                )


def notes_on_head(template: dict[str, Any]) -> Iterator[str]:
    """Say what does not keep the head's pod where it is; clusters without scalers that move pods need none of it."""
    annotations = mapping(reach(template, "metadata", "annotations"))
    missing = [f'{key}: "{value}"' for key, value in KEPT.items() if str(annotations.get(key)).lower() != value]
    if missing:
        yield f"the head's pod may be moved to save a node, which ends its job; annotate it: {', '.join(missing)}"
    pod = mapping(template.get("spec"))
    if not mapping(pod.get("nodeSelector")).keys() & _SPOT_LABELS and not list(_terms("", pod)):
        yield "nothing keeps the head's pod off spot nodes; infra/kuberay/raycluster.yaml has a node affinity that does"


def is_spot(node_config: dict[str, Any]) -> bool:
    """Whether a node_config of AWS or Google asks for a machine that may be taken back."""
    scheduling = mapping(node_config.get("scheduling"))
    return (
        reach(node_config, "InstanceMarketOptions", "MarketType") == "spot"
        or str(scheduling.get("provisioningModel")).upper() == "SPOT"
        or str(scheduling.get("preemptible")).lower() == "true"
    )


def selects_spot_labels(selector: dict[str, Any]) -> bool:
    """Whether a nodeSelector names spot nodes, in the words of Karpenter, GKE or EKS."""
    return any(str(selector.get(key)).lower() == value.lower() for key, value in _SPOT_LABELS.items())


def selects_spot(pod: dict[str, Any]) -> bool | None:
    """Whether a pod selects spot nodes; None where its selector says nothing of it."""
    selector = mapping(pod.get("nodeSelector"))
    return selects_spot_labels(selector) if selector.keys() & _SPOT_LABELS else None


def _terms(place: str, pod: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The terms of a pod's node affinity, with their places."""
    affinity = mapping(reach(pod, "affinity", "nodeAffinity"))
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(listing(reach(affinity, required, "nodeSelectorTerms"))):
        yield at(place, required, "nodeSelectorTerms", index), mapping(term)
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(listing(affinity.get(preferred))):
        yield at(place, preferred, index, "preference"), mapping(mapping(term).get("preference"))


def _check_label(place: str, node_type: dict[str, Any], is_of_spot: bool | None) -> Iterator[Finding]:
    labels = mapping(node_type.get("labels"))
    for key in labels:
        if key != _LABEL and difflib.get_close_matches(str(key), [_LABEL], 1, _CUTOFF):
            yield Finding(at(place, "labels", str(key)), "unknown_key", f"no job asks for it; did you mean {_LABEL}?")
    if _LABEL not in labels:
        return
    where, said = at(place, "labels", _LABEL), labels[_LABEL]
    if not one_of(said, _MARKETS):
        yield Finding(where, "unknown_value", f"is {said!r}; write spot or on-demand")
    elif is_of_spot is not None and (said == "spot") is not is_of_spot:
        has = "spot" if is_of_spot else "on demand"
        yield Finding(
            where, "market", f"says {said}, and the machines are {has}: --fallback-label finds the wrong ones"
        )
