"""The names in a pod template of KubeRay's objects, and what has to be text there (Kubernetes' API, core/v1).

For files that are checked without the schema that a cluster serves, which has the names and the types; the words of a
toleration are in no schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, one_of, reach
from jobs.cluster.network_reach import ray_groups
from jobs.cluster.ray_yaml import unknown_keys

_POD = (
    *("activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "containers", "dnsConfig", "dnsPolicy"),
    *("enableServiceLinks", "ephemeralContainers", "hostAliases", "hostIPC", "hostNetwork", "hostPID", "hostUsers"),
    *("hostname", "hostnameOverride", "imagePullSecrets", "initContainers", "nodeName", "nodeSelector", "os"),
    *("overhead", "preemptionPolicy", "priority", "priorityClassName", "readinessGates", "resourceClaims", "resources"),
    *("restartPolicy", "runtimeClassName", "schedulerName", "schedulingGates", "securityContext", "serviceAccount"),
    *("serviceAccountName", "setHostnameAsFQDN", "shareProcessNamespace", "subdomain", "tolerations", "volumes"),
    *("terminationGracePeriodSeconds", "topologySpreadConstraints", "workloadRef"),
)
_CONTAINER = (
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports"),
    *("readinessProbe", "resizePolicy", "resources", "restartPolicy", "restartPolicyRules", "securityContext"),
    *("startupProbe", "stdin", "stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "tty"),
    *("volumeDevices", "volumeMounts", "workingDir"),
)
_TOLERATION = ("effect", "key", "operator", "tolerationSeconds", "value")
_OPERATORS = frozenset({"Equal", "Exists"})
_EFFECTS = frozenset({"NoExecute", "NoSchedule", "PreferNoSchedule"})


def check_pod_names(value: dict[str, Any]) -> Iterator[Finding]:
    """Yield what Kubernetes does not know in the pod templates of a RayCluster or a RayJob, and what is no text."""
    for place, group, _ in ray_groups(value):
        for key in ("labels", "resources"):
            yield from _check_texts(at(place, key), group.get(key))
    cluster, options = _autoscaler(value)
    yield from _check_env(at(cluster, "env"), options.get("env"))
    for place, template in _templates(value):
        yield from unknown_keys(place, template, ("metadata", "spec"))
        yield from check_metadata(at(place, "metadata"), template.get("metadata"))
        where, pod = at(place, "spec"), mapping(template.get("spec"))
        yield from unknown_keys(where, pod, _POD)
        yield from _check_texts(at(where, "nodeSelector"), pod.get("nodeSelector"))
        for kind in ("initContainers", "containers"):
            for index, container in enumerate(map(mapping, listing(pod.get(kind)))):
                yield from unknown_keys(at(where, kind, index), container, _CONTAINER)
                yield from _check_env(at(where, kind, index, "env"), container.get("env"))


def check_metadata(place: str, metadata: Any) -> Iterator[Finding]:
    """Yield the labels and annotations that are no text: the API server refuses the object."""
    for kind in ("labels", "annotations"):
        yield from _check_texts(at(place, kind), mapping(metadata).get(kind))


def check_tolerations(value: dict[str, Any]) -> Iterator[Finding]:
    """Yield the tolerations in the pod templates of a RayCluster or a RayJob in words that Kubernetes does not know."""
    for place, template in _templates(value):
        for index, each in enumerate(map(mapping, listing(reach(template, "spec", "tolerations")))):
            where = at(place, "spec", "tolerations", index)
            yield from unknown_keys(where, each, _TOLERATION)
            yield from _check_texts(where, {key: each[key] for key in ("key", "value") if key in each})
            for key, known in (("operator", _OPERATORS), ("effect", _EFFECTS)):
                if key in each and not one_of(each[key], known):
                    said = f"is {each[key]!r}, and Kubernetes knows {', '.join(sorted(known))}"
                    yield Finding(at(where, key), "unknown_value", said)


def _autoscaler(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    keys = ("spec", *(("rayClusterSpec",) if value.get("kind") == "RayJob" else ()), "autoscalerOptions")
    return at("", *keys), mapping(reach(value, *keys))


def _templates(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, group, _ in ray_groups(value):
        yield at(place, "template"), mapping(group.get("template"))
    if value.get("kind") == "RayJob":
        yield "spec.submitterPodTemplate", mapping(reach(value, "spec", "submitterPodTemplate"))


def _check_env(place: str, env: Any) -> Iterator[Finding]:
    for index, variable in enumerate(map(mapping, listing(env))):
        yield from unknown_keys(at(place, index), variable, ("name", "value", "valueFrom"))
        yield from _check_texts(at(place, index), {key: variable[key] for key in ("name", "value") if key in variable})


def _check_texts(place: str, texts: Any) -> Iterator[Finding]:
    for key, text in mapping(texts).items():
        if not isinstance(text, str | None):
            yield Finding(
                at(place, str(key)), "wrong_type", f"{text!r} must be text, or the object is refused; quote it"
            )
