"""Network policies and the pods of Ray clusters that lie beside them: who is selected, and what they can still reach.

Policies add up: a pod may do what any policy that selects it lets it do. So a policy is looked at together with the
other manifests of its folder, as they are applied together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster.documents import documents_in
from jobs.cluster.findings import Finding, at, listing, mapping, number, one_of, reach

_POLICY = "NetworkPolicy"
_CLUSTERS = frozenset({"RayCluster", "RayJob"})
_NEEDED = (("UDP", 53, "names cannot be looked up"), ("TCP", 443, "neither object storage nor the cloud is reached"))
# Labels that KubeRay puts on the pods itself.
_OF_KUBERAY = {"app.kubernetes.io/created-by": "kuberay-operator", "app.kubernetes.io/name": "kuberay"}


def manifests_beside(documents: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The objects of a file, and those of the other YAML files of its folder, as far as these can be read."""
    found = list(documents)
    if not any(one_of(each.get("kind"), _CLUSTERS | {_POLICY}) for each in documents):
        return found
    found += [each for _, each in documents_in(folder) if isinstance(each, dict) and each not in documents]
    return found


def check_reach(value: dict[str, Any], beside: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield where an object and those beside it do not fit: a policy for no pod, a pod that no policy is for."""
    ray_pods = [labels for each in beside for _, labels in _pods(each)]
    other_pods = [labels for each in beside for labels in _pods_of_others(each)]
    policies = [each for each in beside if each.get("kind") == _POLICY and isinstance(reach(each, "spec"), dict)]
    if value.get("kind") == _POLICY:
        selector = mapping(reach(value, "spec", "podSelector"))
        is_for_ray = any(selects(selector, labels) for labels in ray_pods)
        if ray_pods and not is_for_ray and not any(selects(selector, labels) for labels in other_pods):
            yield Finding("spec.podSelector", "open_network", "selects no pod of what lies beside it")
        if is_for_ray or not ray_pods:
            yield from _check_way_out(value, policies)
    elif policies:
        for place, labels in _pods(value):
            if not any(selects(mapping(each["spec"].get("podSelector")), labels) for each in policies):
                yield Finding(
                    place, "open_network", "no NetworkPolicy beside it selects these pods: they are open to all"
                )


def _check_way_out(value: dict[str, Any], policies: list[dict[str, Any]]) -> Iterator[Finding]:
    """What is selected by this policy has to get out, by it or by another that selects the same pods and more."""
    spec = mapping(value.get("spec"))
    own = mapping(reach(spec, "podSelector", "matchLabels"))
    if "Egress" not in listing(spec.get("policyTypes")):
        return
    wider = [each for each in policies if selects(mapping(each["spec"].get("podSelector")), own)]
    rules = [mapping(rule) for each in [value, *wider] for rule in listing(mapping(each["spec"]).get("egress"))]
    for protocol, port, otherwise in _NEEDED:
        if not any(opens_port(rule, port, protocol) and leads_out(rule) for rule in rules):
            yield Finding("spec.egress", "no_way_out", f"lets nothing out to {protocol} port {port}: {otherwise}")


def leads_out(rule: dict[str, Any]) -> bool:
    """Whether a rule leads to more than pods of the same namespace."""
    peers = [mapping(each) for each in listing(rule.get("to"))]
    return not peers or any("ipBlock" in each or "namespaceSelector" in each for each in peers)


def opens_port(rule: dict[str, Any], wanted: int, protocol: str = "TCP") -> bool:
    """Whether a rule lets through to a port; a port by name may be any."""
    ports = [mapping(each) for each in listing(rule.get("ports"))]
    if not ports:
        return True
    for each in ports:
        first = each.get("port")
        if each.get("protocol", "TCP") != protocol:
            continue
        if not isinstance(first, int) or first <= wanted <= number(each.get("endPort"), first):
            return True
    return False


def selects(selector: dict[str, Any], labels: dict[str, Any]) -> bool:
    """Whether a selector takes pods with these labels."""
    if any(labels.get(key) != value for key, value in mapping(selector.get("matchLabels")).items()):
        return False
    for each in map(mapping, listing(selector.get("matchExpressions"))):
        key, values = str(each.get("key")), listing(each.get("values"))
        is_met = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not is_met.get(str(each.get("operator")), True):
            return False
    return True


def _pods_of_others(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The labels of pods that other kinds make (Deployment, StatefulSet), or that stand by themselves."""
    if value.get("kind") == "Pod":
        yield mapping(reach(value, "metadata", "labels"))
    if isinstance(labels := reach(value, "spec", "template", "metadata", "labels"), dict):
        yield labels


def _pods(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each kind of pod of a RayCluster or a RayJob has its labels, and what they are."""
    if value.get("kind") == "RayJob" and (labels := submitter_labels(value)) is not None:
        yield "spec.submitterPodTemplate.metadata.labels", labels
    for where, group, role in ray_groups(value):
        yield at(where, "template", "metadata", "labels"), ray_labels(value, group, role)


def submitter_labels(job: dict[str, Any]) -> dict[str, Any] | None:
    """The labels of the pod that submits a RayJob; None where the job says nothing of it."""
    template = mapping(reach(job, "spec", "submitterPodTemplate"))
    return mapping(reach(template, "metadata", "labels")) if template else None


def ray_groups(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The head (`head`) and the groups of workers (`worker`) of a RayCluster or a RayJob, with their places."""
    if not one_of(value.get("kind"), _CLUSTERS):
        return
    place, cluster = "spec", mapping(value.get("spec"))
    if value["kind"] == "RayJob":
        place, cluster = "spec.rayClusterSpec", mapping(cluster.get("rayClusterSpec"))
    groups = [(at(place, "headGroupSpec"), mapping(cluster.get("headGroupSpec")), "head")]
    for index, group in enumerate(listing(cluster.get("workerGroupSpecs"))):
        groups.append((at(place, "workerGroupSpecs", index), mapping(group), "worker"))
    yield from (each for each in groups if each[1])


def ray_labels(value: dict[str, Any], group: dict[str, Any], role: str) -> dict[str, Any]:
    """The labels of the pods of a group of the RayCluster or RayJob `value`, those of KubeRay included."""
    own = mapping(reach(group, "template", "metadata", "labels"))
    by_kuberay = {**_OF_KUBERAY, "ray.io/is-ray-node": "yes", "ray.io/node-type": role}
    by_kuberay["ray.io/cluster"] = str(reach(value, "metadata", "name"))
    return {**by_kuberay, **own}
