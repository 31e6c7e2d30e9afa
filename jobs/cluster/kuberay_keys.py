"""The names of KubeRay's own fields (API v1), for files that are checked without the schema that a cluster serves.

Taken from KubeRay's CustomResourceDefinitions. They say whether a field is there at all, not what it may hold; what
Kubernetes defines below them (pod templates, resources) is left to `--crd`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping
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
