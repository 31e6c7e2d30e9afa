"""The names of KubeRay's own fields (API v1), for files that are checked without the schema that a cluster serves.

Taken from KubeRay's CustomResourceDefinitions. They say whether a field is there at all, not what it may hold; what
Kubernetes defines below them is left to `--crd`, but for the names in pod templates (`pod_keys`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, reach
from jobs.cluster.ray_yaml import unknown_keys

CLUSTER = (
    *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
    *("headServiceAnnotations", "historyServerOptions", "managedBy", "networkPolicy", "rayVersion", "suspend"),
    *("tlsOptions", "upgradeStrategy", "workerGroupSpecs"),
)
BELOW_CLUSTER = {
    "authOptions": ("enableK8sTokenAuth", "mode", "secretName"),
    "autoscalerOptions": (
        *("args", "command", "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources"),
        *("securityContext", "upscalingMode", "version", "volumeMounts"),
    ),
    "headGroupSpec": (
        *("enableIngress", "headService", "ingressOptions", "labels", "rayStartParams", "resources", "serviceType"),
        "template",
    ),
    "gcsFaultToleranceOptions": (
        *("backend", "externalStorageNamespace", "redisAddress", "redisPassword", "redisUsername", "storage"),
    ),
}
WORKER_GROUP = (
    *("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "priority"),
    *("rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template"),
)
JOB = (
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
    *("preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode"),
    *("submitterConfig", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
)
# Of `ray start`; a test compares them with Ray's.
START_PARAMS = (
    *("address", "autoscaling-config", "block", "cgroup-path", "dashboard-agent-grpc-port", "dashboard-host", "head"),
    *("dashboard-agent-listen-port", "dashboard-port", "disable-usage-stats", "enable-object-reconstruction", "labels"),
    *("enable-resource-isolation", "include-dashboard", "include-log-monitor", "labels-file", "log-color", "log-style"),
    *("max-worker-port", "memory", "metrics-export-port", "min-worker-port", "no-monitor", "no-redirect-output"),
    *("node-ip-address", "node-manager-port", "node-name", "num-cpus", "num-gpus", "object-manager-port"),
    *("object-spilling-directory", "object-store-memory", "plasma-directory", "port", "proxy-server-url"),
    *("ray-client-server-port", "ray-debugger-external", "redis-password", "redis-shard-ports", "redis-username"),
    *("resources", "runtime-env-agent-port", "system-config", "system-reserved-cpu", "system-reserved-memory"),
    *("temp-dir", "tracing-startup-hook", "v", "verbose", "worker-port-list"),
)
_KUEUE = {
    "labels": ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class", "kueue.x-k8s.io/max-exec-time-seconds"),
    "annotations": ("kueue.x-k8s.io/elastic-job", "kueue.x-k8s.io/elastic-job-scale-up-strategy"),
}
_KUEUE_CUTOFF = 0.85
_API = "ray.io/v1"


def check_names(value: dict[str, Any]) -> Iterator[Finding]:
    """Yield the fields of a RayCluster or a RayJob that KubeRay does not know; nothing for another version of its API.

    The API server would drop them without a word.
    """
    if value.get("apiVersion") != _API:
        return
    spec = mapping(value.get("spec"))
    if value.get("kind") == "RayCluster":
        yield from _check_cluster("spec", spec)
        return
    yield from unknown_keys("spec", spec, JOB)
    yield from _check_cluster("spec.rayClusterSpec", mapping(spec.get("rayClusterSpec")))


def _check_cluster(place: str, spec: dict[str, Any]) -> Iterator[Finding]:
    yield from unknown_keys(place, spec, CLUSTER)
    for name, known in BELOW_CLUSTER.items():
        yield from unknown_keys(at(place, name), mapping(spec.get(name)), known)
    for index, group in enumerate(listing(spec.get("workerGroupSpecs"))):
        yield from unknown_keys(at(place, "workerGroupSpecs", index), mapping(group), WORKER_GROUP)


def check_free_names(value: dict[str, Any]) -> Iterator[Finding]:
    """Yield misspelt names where a schema takes any: parameters of `ray start`, and what Kueue reads."""
    for kind, known in _KUEUE.items():
        for key in mapping(reach(value, "metadata", kind)):
            near = difflib.get_close_matches(str(key), known, 1, _KUEUE_CUTOFF)
            if near and key not in known:
                yield Finding(
                    at("metadata", kind, str(key)), "unknown_key", f"Kueue does not read it; did you mean {near[0]}?"
                )
    spec, place = mapping(value.get("spec")), "spec"
    if value.get("kind") == "RayJob":
        spec, place = mapping(spec.get("rayClusterSpec")), "spec.rayClusterSpec"
    groups = [(at(place, "headGroupSpec"), mapping(spec.get("headGroupSpec")))]
    for index, group in enumerate(listing(spec.get("workerGroupSpecs"))):
        groups.append((at(place, "workerGroupSpecs", index), mapping(group)))
    for where, group in groups:
        params = mapping(group.get("rayStartParams"))
        yield from unknown_keys(at(where, "rayStartParams"), params, START_PARAMS)
        for name, param in params.items():
            if not isinstance(param, str):
                yield Finding(at(where, "rayStartParams", str(name)), "wrong_type", f"{param!r} must be text; quote it")
