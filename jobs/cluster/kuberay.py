"""KubeRay's objects: what its operator accepts and hdrfleet does not want."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.entrypoint import check_entrypoint, lacks_device
from jobs.cluster.entrypoint_words import check_words
from jobs.cluster.findings import Finding, at, listing, mapping, number, one_of, reach
from jobs.cluster.images import check_ray_version
from jobs.cluster.kuberay_token import check_redis, check_token, check_token_in_pod
from jobs.cluster.market import check_group_market, check_head_market, notes_on_head
from jobs.cluster.market_order import check_group_order
from jobs.cluster.pod_parts import check_mounts, check_ray_folder
from jobs.cluster.pods import check_pod, check_resources, check_security, gpus_of
from jobs.cluster.preemption import check_group
from jobs.cluster.ray_accelerators import check_group_accelerators

_PUBLIC = frozenset({"LoadBalancer", "NodePort"})
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
_QUEUE = "kueue.x-k8s.io/queue-name"


def check_ray_object(value: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with a RayCluster or a RayJob."""
    spec = mapping(value.get("spec"))
    if spec.get("suspend") is True and not mapping(reach(value, "metadata", "labels")).get(_QUEUE):
        yield Finding("spec.suspend", "suspended", f"is true, and without the label {_QUEUE} nobody ever takes it back")
    if value.get("kind") == "RayCluster":
        yield from check_cluster_spec("spec", spec)
        return
    yield from _check_job(value, spec)
    if "clusterSelector" not in spec:
        yield from check_cluster_spec("spec.rayClusterSpec", mapping(spec.get("rayClusterSpec")))


def notes_on_ray_object(value: dict[str, Any]) -> Iterator[str]:
    """Say what of a RayCluster or a RayJob is a matter of opinion, or of the cluster that it is for."""
    spec = mapping(value.get("spec"))
    cluster = spec if value.get("kind") == "RayCluster" else mapping(spec.get("rayClusterSpec"))
    if cluster:
        yield from notes_on_head(mapping(reach(cluster, "headGroupSpec", "template")))
    place = "spec" if value.get("kind") == "RayCluster" else "spec.rayClusterSpec"
    for index, group in enumerate(map(mapping, listing(cluster.get("workerGroupSpecs")))):
        lowest = number(group.get("minReplicas"))
        if lowest > 0 and gpus_of(mapping(reach(group, "template", "spec"))):
            where = at(place, "workerGroupSpecs", index, "minReplicas")
            yield f"{where}: is {lowest:g}: so many pods with GPUs are there, and cost, whether or not there is work"
    if lacks_device(spec):
        yield (
            "spec.entrypoint has no --device: in a new cluster the driver may choose its processor before the "
            "autoscaler has said which GPUs it can start"
        )


def _check_job(value: dict[str, Any], spec: dict[str, Any]) -> Iterator[Finding]:
    if not spec.get("entrypoint"):
        yield Finding("spec.entrypoint", "missing_key", "a job needs a command")
    yield from check_entrypoint(spec)
    yield from check_words(spec)
    if number(spec.get("backoffLimit")) < 1 and "clusterSelector" not in spec:
        yield Finding(
            "spec.backoffLimit", "no_retry", "is 0: a driver that dies is not started again, though it could go on"
        )
    if spec.get("shutdownAfterJobFinishes") is not True and "clusterSelector" not in spec:
        suspends = (
            " Kueue cannot suspend the job either." if _QUEUE in mapping(reach(value, "metadata", "labels")) else ""
        )
        yield Finding(
            "spec.shutdownAfterJobFinishes", "cluster_stays", f"is not true: the cluster stays, and costs.{suspends}"
        )
    submitter = mapping(reach(spec, "submitterPodTemplate", "spec"))
    place = "spec.submitterPodTemplate.spec"
    if submitter:
        yield from check_pod(place, submitter)
        yield from check_token_in_pod(place, submitter)
    elif spec.get("submissionMode", "K8sJobMode") == "K8sJobMode":
        yield Finding(place, "root_user", "is not set: KubeRay's own submitter has no security context")


def check_cluster_spec(place: str, spec: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the RayCluster spec at `place`."""
    yield from check_ray_version(at(place, "rayVersion"), spec.get("rayVersion"))
    yield from check_token(place, spec)
    yield from check_redis(place, spec)
    yield from _check_autoscaler(place, spec)
    head, is_scaled = mapping(spec.get("headGroupSpec")), spec.get("enableInTreeAutoscaling") is True
    yield from _check_head(at(place, "headGroupSpec"), head)
    yield from check_ray_folder(at(place, "headGroupSpec"), head, is_brought=is_scaled)
    groups = listing(spec.get("workerGroupSpecs"))
    yield from _check_group_names(at(place, "workerGroupSpecs"), groups)
    yield from check_group_order(at(place, "workerGroupSpecs"), groups)
    usable = 0
    for index, group in enumerate(groups):
        where = at(place, "workerGroupSpecs", index)
        faults = list(_check_gpus(where, mapping(group)))
        yield from faults
        yield from _check_group(where, mapping(group))
        yield from check_group(where, mapping(group))
        yield from check_ray_folder(where, mapping(group), is_brought=False)
        yield from check_group_market(where, mapping(group))
        yield from check_group_accelerators(where, mapping(group))
        pod = mapping(reach(group, "template", "spec"))
        usable += not faults and gpus_of(pod) >= 1 and number(group.get("maxReplicas")) >= 1
    if not usable:
        yield Finding(
            at(place, "workerGroupSpecs"),
            "gpu_unsatisfiable",
            "no group can start a pod with a GPU, and each worker asks for one",
        )


def _check_group_names(place: str, groups: list[Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, group in enumerate(map(mapping, groups)):
        name = str(group.get("groupName") or "")
        if not name:
            yield Finding(at(place, index, "groupName"), "missing_key", "KubeRay needs it")
        elif name in seen:
            yield Finding(
                at(place, index, "groupName"),
                "not_unique",
                f"{name} is another group's, too: KubeRay mixes them up",
            )
        seen.add(name)


def _check_autoscaler(place: str, spec: dict[str, Any]) -> Iterator[Finding]:
    options = mapping(spec.get("autoscalerOptions"))
    where = at(place, "autoscalerOptions")
    if spec.get("enableInTreeAutoscaling") is not True:
        yield Finding(at(place, "enableInTreeAutoscaling"), "no_autoscaler", "is not true: workers neither come nor go")
        return
    if options.get("version") != "v2":
        yield Finding(at(where, "version"), "autoscaler_v1", "is not 'v2': v1 does not come down again")
    # KubeRay's own limits stand where the file has none; a security context of its own it has not.
    yield from check_security(
        at(where, "securityContext"), mapping(options.get("securityContext")), _pod_security(spec)
    )
    pod = mapping(reach(spec, "headGroupSpec", "template", "spec"))  # the autoscaler runs in it
    yield from check_mounts(at(where, "volumeMounts"), options.get("volumeMounts"), pod)
    if "resources" in options:
        yield from check_resources(at(where, "resources"), mapping(options["resources"]))


def _pod_security(spec: dict[str, Any]) -> dict[str, Any]:
    return mapping(reach(spec, "headGroupSpec", "template", "spec", "securityContext"))


def _check_head(place: str, head: dict[str, Any]) -> Iterator[Finding]:
    pod = mapping(reach(head, "template", "spec"))
    yield from check_pod(at(place, "template", "spec"), pod, needs_api=True)
    yield from check_head_market(at(place, "template", "spec"), pod)
    yield from _check_restart(at(place, "template", "spec"), pod)
    for name in ("serviceType", "enableIngress"):
        if one_of(head.get(name), _PUBLIC) or head.get(name) is True:
            yield Finding(at(place, name), "public_port", "opens the dashboard and the Jobs API beyond the cluster")
    if one_of(reach(head, "headService", "spec", "type"), _PUBLIC):
        yield Finding(at(place, "headService", "spec", "type"), "public_port", "opens the head beyond the cluster")
    if reach(head, "headService", "spec", "externalIPs"):
        yield Finding(
            at(place, "headService", "spec", "externalIPs"), "public_port", "opens the head beyond the cluster"
        )
    if gpus_of(pod) > 0 or number(reach(head, "rayStartParams", "num-gpus")) > 0:
        yield Finding(at(place, "rayStartParams", "num-gpus"), "head_gpu", "the head offers a GPU; only workers should")
    if str(reach(head, "rayStartParams", "num-cpus")) != "0":
        yield Finding(
            at(place, "rayStartParams", "num-cpus"), "head_cpu", 'is not "0": work is placed beside the control plane'
        )


def _check_restart(place: str, pod: dict[str, Any]) -> Iterator[Finding]:
    if pod.get("restartPolicy", "Never") != "Never":
        yield Finding(at(place, "restartPolicy"), "restart_policy", "must be Never or left out with autoscaler v2")


def _check_group(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    pod = mapping(reach(group, "template", "spec"))
    yield from check_pod(at(place, "template", "spec"), pod)
    yield from _check_restart(at(place, "template", "spec"), pod)
    lowest, highest = number(group.get("minReplicas")), number(group.get("maxReplicas"))
    if not lowest <= number(group.get("replicas"), lowest) <= highest:
        yield Finding(at(place, "replicas"), "max_workers", "minReplicas, replicas and maxReplicas do not ascend")


def _check_gpus(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    """What Ray is told to offer must be what Kubernetes gives the pod."""
    has = gpus_of(mapping(reach(group, "template", "spec")))
    if not has and any(str(name).startswith("accelerator_type:") for name in mapping(group.get("resources"))):
        yield Finding(
            at(place, "resources"), "gpu_unsatisfiable", "promises a GPU, and the pod is limited to none: give it one"
        )
    for keys in (("rayStartParams", "num-gpus"), ("resources", "GPU")):
        told = reach(group, *keys)
        if told is not None and number(told, -1) != has:
            yield Finding(
                at(place, *keys),
                "gpu_unsatisfiable",
                f"Ray offers {told} GPU, and the pod is limited to {has:g}: set both to the same number",
            )
    start = mapping(group.get("rayStartParams"))
    if mapping(group.get("resources")) and any(key in start for key in _RESOURCE_PARAMS):
        yield Finding(
            at(place, "rayStartParams"),
            "kuberay_refuses",
            "names resources, and so does `resources` of the group: write all of them there",
        )
