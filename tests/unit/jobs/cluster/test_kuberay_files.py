"""Broken copies of the manifests for Kubernetes: each fault is found, at its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import KUBERAY, Break, appended, documents, found_in_copy, set_to, without

from jobs.cluster.kubernetes import merge
from jobs.cluster.plain_kinds import check_plain_object
from jobs.cluster.validate import validate_file

CLUSTER = KUBERAY / "raycluster.yaml"
JOB = KUBERAY / "rayjob.yaml"
POLICY = KUBERAY / "network-policy.yaml"
ACCOUNTS = KUBERAY / "service-accounts.yaml"
PATCH = KUBERAY / "gcs-fault-tolerance.yaml"

HEAD = ("headGroupSpec", "template", "spec")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
HEAD_TERMS = (*HEAD, "affinity", "nodeAffinity", _REQUIRED, "nodeSelectorTerms")
TERMS = f"affinity.nodeAffinity.{_REQUIRED}.nodeSelectorTerms"
GROUP = ("workerGroupSpecs", 0)
WORKER = (*GROUP, "template", "spec")
CONTAINER = (*WORKER, "containers", 0)
SUBMITTER = ("spec", "submitterPodTemplate", "spec", "containers", 0)
W = "workerGroupSpecs[0].template.spec"
C = f"{W}.containers[0]"
GPU = "nvidia.com/gpu"

IN_SPEC: dict[str, tuple[list[Break], tuple[str, str]]] = {
    "wrong key": ([set_to(True, "enableInTreeAutoScaling")], ("enableInTreeAutoScaling", "unknown_key")),
    "groups under a wrong key": (
        [set_to([], "workerGroupSpec")],
        ("workerGroupSpec", "unknown_key"),
    ),
    "parameters of the head under a wrong key": (
        [set_to({"num-cpus": "0"}, "headGroupSpec", "rayStartParms")],
        ("headGroupSpec.rayStartParms", "unknown_key"),
    ),
    "parameters of a group under a wrong key": (
        [set_to({}, *GROUP, "rayStartParms")],
        ("workerGroupSpecs[0].rayStartParms", "unknown_key"),
    ),
    "wrong key of the autoscaler": (
        [set_to(60, "autoscalerOptions", "idleTimeoutSecond")],
        ("autoscalerOptions.idleTimeoutSecond", "unknown_key"),
    ),
    "wrong key of the token": ([set_to("x", "authOptions", "secret")], ("authOptions.secret", "unknown_key")),
    "wrong key of the head": (
        [set_to("ClusterIP", "headGroupSpec", "servicetype")],
        ("headGroupSpec.servicetype", "unknown_key"),
    ),
    "wrong key of a group": ([set_to(3, *GROUP, "maxReplica")], ("workerGroupSpecs[0].maxReplica", "unknown_key")),
    "addresses from outside": (
        [set_to({"spec": {"externalIPs": ["203.0.113.5"]}}, "headGroupSpec", "headService")],
        ("headGroupSpec.headService.spec.externalIPs", "public_port"),
    ),
    "no token": ([set_to({"mode": "disabled"}, "authOptions")], ("authOptions.mode", "no_token")),
    "token not said": ([without("authOptions")], ("authOptions.mode", "no_token")),
    "token that the head does without": (
        [appended({"name": "RAY_AUTH_MODE", "value": "disabled"}, *HEAD, "containers", 0, "env")],
        ("headGroupSpec.template.spec.containers[0].env[1]", "no_token"),
    ),
    "token that workers do without": (
        [appended({"name": "RAY_AUTH_MODE", "value": ""}, *CONTAINER, "env")],
        (f"{C}.env[1]", "no_token"),
    ),
    "token that a first container does without": (
        [set_to([{"name": "x", "env": [{"name": "RAY_AUTH_MODE"}]}], *WORKER, "initContainers")],
        (f"{W}.initContainers[0].env[0]", "no_token"),
    ),
    "token that the autoscaler does without": (
        [appended({"name": "RAY_AUTH_MODE", "value": "disabled"}, "autoscalerOptions", "env")],
        ("autoscalerOptions.env[2]", "no_token"),
    ),
    "token that may be anything": (
        [appended({"name": "RAY_AUTH_MODE", "valueFrom": {"configMapKeyRef": {"name": "x"}}}, *CONTAINER, "env")],
        (f"{C}.env[1]", "no_token"),
    ),
    "token of one's own": (
        [appended({"name": "RAY_AUTH_TOKEN", "value": "abc"}, *CONTAINER, "env")],
        (f"{C}.env[1]", "no_token"),
    ),
    "token of one's own for the autoscaler": (
        [appended({"name": "RAY_AUTH_TOKEN", "value": "abc"}, "autoscalerOptions", "env")],
        ("autoscalerOptions.env[2]", "no_token"),
    ),
    "another Ray": ([set_to("2.9.0", "rayVersion")], ("rayVersion", "ray_version")),
    "Ray not said": ([without("rayVersion")], ("rayVersion", "ray_version")),
    "no autoscaler": ([set_to(False, "enableInTreeAutoscaling")], ("enableInTreeAutoscaling", "no_autoscaler")),
    "autoscaler v1": ([set_to("v1", "autoscalerOptions", "version")], ("autoscalerOptions.version", "autoscaler_v1")),
    "autoscaler with rights": (
        [without("autoscalerOptions", "securityContext")],
        ("autoscalerOptions.securityContext.capabilities.drop", "privileged"),
    ),
    "autoscaler without limits": (
        [without("autoscalerOptions", "resources", "limits")],
        ("autoscalerOptions.resources.limits.memory", "no_limit"),
    ),
    "public service": (
        [set_to("LoadBalancer", "headGroupSpec", "serviceType")],
        ("headGroupSpec.serviceType", "public_port"),
    ),
    "node port": ([set_to("NodePort", "headGroupSpec", "serviceType")], ("headGroupSpec.serviceType", "public_port")),
    "ingress": ([set_to(True, "headGroupSpec", "enableIngress")], ("headGroupSpec.enableIngress", "public_port")),
    "public service by another way": (
        [set_to({"spec": {"type": "LoadBalancer"}}, "headGroupSpec", "headService")],
        ("headGroupSpec.headService.spec.type", "public_port"),
    ),
    "head with CPUs": (
        [without("headGroupSpec", "rayStartParams", "num-cpus")],
        ("headGroupSpec.rayStartParams.num-cpus", "head_cpu"),
    ),
    "head with a GPU": (
        [set_to("1", "headGroupSpec", "rayStartParams", "num-gpus")],
        ("headGroupSpec.rayStartParams.num-gpus", "head_gpu"),
    ),
    "spot pods without an agent": (
        [without(*CONTAINER, "lifecycle")],
        (f"{C}.lifecycle.preStop", "no_node_agent"),
    ),
    "GKE's spot pods without an agent": (
        [set_to({"cloud.google.com/gke-spot": "true"}, *WORKER, "nodeSelector"), without(*CONTAINER, "lifecycle")],
        (f"{C}.lifecycle.preStop", "no_node_agent"),
    ),
    "spot pods whose agent waits for a notice": (
        [set_to(["hdrfleet", "node-agent", "--grace", "85s"], *CONTAINER, "lifecycle", "preStop", "exec", "command")],
        (f"{C}.lifecycle.preStop", "no_node_agent"),
    ),
    "agent that is killed on its way": (
        [set_to(85, *WORKER, "terminationGracePeriodSeconds")],
        (f"{W}.terminationGracePeriodSeconds", "no_node_agent"),
    ),
    "agent within Kubernetes' own grace": (
        [without(*WORKER, "terminationGracePeriodSeconds")],
        (f"{W}.terminationGracePeriodSeconds", "no_node_agent"),
    ),
    "head on spot": (
        [set_to({"karpenter.sh/capacity-type": "spot"}, *HEAD, "nodeSelector")],
        ("headGroupSpec.template.spec.nodeSelector", "head_on_spot"),
    ),
    "head on GKE's spot": (
        [set_to({"cloud.google.com/gke-spot": "true"}, *HEAD, "nodeSelector")],
        ("headGroupSpec.template.spec.nodeSelector", "head_on_spot"),
    ),
    "head that asks for spot": (
        [set_to("In", *HEAD_TERMS, 0, "matchExpressions", 0, "operator")],
        (f"headGroupSpec.template.spec.{TERMS}[0].matchExpressions[0]", "head_on_spot"),
    ),
    "group labelled as what it is not": (
        [set_to("on-demand", *GROUP, "labels", "hdrfleet-market")],
        ("workerGroupSpecs[0].labels.hdrfleet-market", "market"),
    ),
    "group on demand labelled as spot": (
        [set_to("spot", "workerGroupSpecs", 2, "labels", "hdrfleet-market")],
        ("workerGroupSpecs[2].labels.hdrfleet-market", "market"),
    ),
    "group labelled under a wrong key": (
        [set_to("spot", *GROUP, "labels", "hdrflet-market")],
        ("workerGroupSpecs[0].labels.hdrflet-market", "unknown_key"),
    ),
    "two groups of one name": (
        [set_to("gpu-l4-spot", "workerGroupSpecs", 1, "groupName")],
        ("workerGroupSpecs[1].groupName", "not_unique"),
    ),
    "group without a name": ([without(*GROUP, "groupName")], ("workerGroupSpecs[0].groupName", "missing_key")),
    "no place for Ray's sessions": (
        [without(*CONTAINER, "volumeMounts", 0)],
        (f"{C}.volumeMounts", "no_volume"),
    ),
    "sessions where nothing can be written": (
        [set_to(True, *CONTAINER, "volumeMounts", 0, "readOnly")],
        (f"{C}.volumeMounts", "no_volume"),
    ),
    "sessions in a secret": (
        [set_to({"name": "tmp", "secret": {"secretName": "x"}}, *WORKER, "volumes", 0)],
        (f"{C}.volumeMounts", "no_volume"),
    ),
    "sessions below what can be written": (
        [appended({"name": "home", "mountPath": "/tmp/ray", "readOnly": True}, *CONTAINER, "volumeMounts")],
        (f"{C}.volumeMounts", "no_volume"),
    ),
    "sessions elsewhere": (
        [set_to({"temp-dir": "/scratch/ray"}, *GROUP, "rayStartParams")],
        (f"{C}.volumeMounts", "no_volume"),
    ),
    "sessions elsewhere by a variable": (
        [appended({"name": "RAY_TMPDIR", "value": "/scratch"}, *CONTAINER, "env")],
        (f"{C}.volumeMounts", "no_volume"),
    ),
    "no place for the sessions of a head without an autoscaler": (
        [set_to(False, "enableInTreeAutoscaling"), set_to([], *HEAD, "containers", 0, "volumeMounts")],
        ("headGroupSpec.template.spec.containers[0].volumeMounts", "no_volume"),
    ),
    "on demand before spot": (
        [set_to(21, "workerGroupSpecs", 2, "priority")],
        ("workerGroupSpecs[2].priority", "market"),
    ),
    "mount of a volume that is not there": (
        [set_to("hom", *WORKER, "volumes", 1, "name")],
        (f"{C}.volumeMounts[1].name", "no_volume"),
    ),
    "mount of the autoscaler that is not there": (
        [set_to("temp", "autoscalerOptions", "volumeMounts", 0, "name")],
        ("autoscalerOptions.volumeMounts[0].name", "no_volume"),
    ),
    "more asked for than allowed": (
        [set_to("70", *CONTAINER, "resources", "requests", "cpu")],
        (f"{C}.resources.requests.cpu", "above_limit"),
    ),
    "more memory asked for than allowed": (
        [set_to("27000Mi", *CONTAINER, "resources", "requests", "memory")],
        (f"{C}.resources.requests.memory", "above_limit"),
    ),
    "what is no quantity": (
        [set_to("26GiB", *CONTAINER, "resources", "limits", "memory")],
        (f"{C}.resources.limits.memory", "wrong_type"),
    ),
    "misspelt parameter of the head": (
        [set_to("0.0.0.0", "headGroupSpec", "rayStartParams", "dashbord-host")],
        ("headGroupSpec.rayStartParams.dashbord-host", "unknown_key"),
    ),
    "misspelt parameter of a group": (
        [set_to("1", *GROUP, "rayStartParams", "num-gpu")],
        ("workerGroupSpecs[0].rayStartParams.num-gpu", "unknown_key"),
    ),
    "parameter that is no text": (
        [set_to(0, "headGroupSpec", "rayStartParams", "num-gpus")],
        ("headGroupSpec.rayStartParams.num-gpus", "wrong_type"),
    ),
    "host network": ([set_to(True, *WORKER, "hostNetwork")], (f"{W}.hostNetwork", "host_access")),
    "host folder": (
        [appended({"name": "x", "hostPath": {"path": "/"}}, *HEAD, "volumes")],
        ("headGroupSpec.template.spec.volumes[2].hostPath", "host_access"),
    ),
    "host port": (
        [set_to(8265, *HEAD, "containers", 0, "ports", 1, "hostPort")],
        ("headGroupSpec.template.spec.containers[0].ports[1].hostPort", "public_port"),
    ),
    "root": ([set_to(0, *WORKER, "securityContext", "runAsUser")], (f"{C}.securityContext.runAsNonRoot", "root_user")),
    "root by silence": (
        [without(*WORKER, "securityContext"), without(*CONTAINER, "securityContext", "runAsNonRoot")],
        (f"{C}.securityContext.runAsNonRoot", "root_user"),
    ),
    "privileged": (
        [set_to(True, *CONTAINER, "securityContext", "privileged")],
        (f"{C}.securityContext.privileged", "privileged"),
    ),
    "escalation": (
        [without(*CONTAINER, "securityContext", "allowPrivilegeEscalation")],
        (f"{C}.securityContext.allowPrivilegeEscalation", "privileged"),
    ),
    "rights kept": (
        [set_to(["NET_RAW"], *CONTAINER, "securityContext", "capabilities", "drop")],
        (f"{C}.securityContext.capabilities.drop", "privileged"),
    ),
    "programs that can be changed": (
        [without(*CONTAINER, "securityContext", "readOnlyRootFilesystem")],
        (f"{C}.securityContext.readOnlyRootFilesystem", "writable_root"),
    ),
    "every system call": (
        [set_to({"type": "Unconfined"}, *WORKER, "securityContext", "seccompProfile")],
        (f"{C}.securityContext.seccompProfile", "no_seccomp"),
    ),
    "every system call by silence": (
        [without(*HEAD, "securityContext", "seccompProfile")],
        ("headGroupSpec.template.spec.containers[0].securityContext.seccompProfile", "no_seccomp"),
    ),
    "no limit": ([without(*CONTAINER, "resources", "limits", "memory")], (f"{C}.resources.limits.memory", "no_limit")),
    "latest image": ([set_to("r/hdrfleet:latest", *CONTAINER, "image")], (f"{C}.image", "image_unpinned")),
    "image of another release": ([set_to("r/hdrfleet:9.9.9", *CONTAINER, "image")], (f"{C}.image", "image_version")),
    "no image": ([without(*CONTAINER, "image")], (f"{C}.image", "image_missing")),
    "secret in the environment": (
        [appended({"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}, *CONTAINER, "env")],
        (f"{C}.env[1].value", "secret"),
    ),
    "key to the API": (
        [without(*WORKER, "automountServiceAccountToken")],
        (f"{W}.automountServiceAccountToken", "api_token"),
    ),
    "restarted by Kubernetes": ([set_to("Always", *WORKER, "restartPolicy")], (f"{W}.restartPolicy", "restart_policy")),
    "replicas above the highest": ([set_to(17, *GROUP, "replicas")], ("workerGroupSpecs[0].replicas", "max_workers")),
    "unsatisfiable GPU": (
        [set_to("2", *GROUP, "rayStartParams", "num-gpus")],
        ("workerGroupSpecs[0].rayStartParams.num-gpus", "gpu_unsatisfiable"),
    ),
    "GPU that the pod does not have": (
        [without(*CONTAINER, "resources", "limits", GPU), without(*CONTAINER, "resources", "requests", GPU)],
        ("workerGroupSpecs[0].resources", "gpu_unsatisfiable"),
    ),
    "GPU that is told and not there": (
        [set_to("2", "workerGroupSpecs", 0, "resources", "GPU")],
        ("workerGroupSpecs[0].resources.GPU", "gpu_unsatisfiable"),
    ),
    "resources in two places": (
        [set_to({"num-cpus": "4"}, "workerGroupSpecs", 0, "rayStartParams")],
        ("workerGroupSpecs[0].rayStartParams", "kuberay_refuses"),
    ),
    "label of another GPU": (
        [set_to("T4", "workerGroupSpecs", 0, "labels", "ray.io/accelerator-type")],
        ('workerGroupSpecs[0].labels["ray.io/accelerator-type"]', "accelerator_type"),
    ),
    "GPU requested and not limited": (
        [without(*CONTAINER, "resources", "limits", GPU)],
        (f'{C}.resources.requests["{GPU}"]', "gpu_unsatisfiable"),
    ),
    "half a GPU": (
        [set_to("500m", *CONTAINER, "resources", "limits", GPU)],
        (f'{C}.resources.limits["{GPU}"]', "gpu_unsatisfiable"),
    ),
    "no group": ([set_to([], "workerGroupSpecs")], ("workerGroupSpecs", "gpu_unsatisfiable")),
}


@pytest.mark.parametrize("name", IN_SPEC)
@pytest.mark.parametrize(
    ("path", "below"), [(CLUSTER, ("spec",)), (JOB, ("spec", "rayClusterSpec"))], ids=["cluster", "job"]
)
def test_fault_is_found_at_its_place(name: str, path: Path, below: tuple[str, ...], tmp_path: Path) -> None:
    breaks, (place, code) = IN_SPEC[name]

    def in_spec(document: dict[str, object]) -> None:
        for apply in breaks:
            spec: object = document
            for key in below:
                spec = spec[key]  # type: ignore[index]
            apply(spec)

    assert (f"{'.'.join(below)}.{place}", code) in found_in_copy(path, tmp_path, in_spec)


@pytest.mark.parametrize("path", [CLUSTER, JOB], ids=["cluster", "job"])
def test_what_is_suspended_waits_for_a_queue(path: Path, tmp_path: Path) -> None:
    queue = "kueue.x-k8s.io/queue-name"

    def queued(document: Any) -> None:
        document["metadata"]["labels"][queue] = "hdrfleet"

    def not_queued(document: Any) -> None:
        document["metadata"]["labels"].pop(queue, None)

    suspended = set_to(True, "spec", "suspend")
    assert found_in_copy(path, tmp_path, suspended, not_queued) == [("spec.suspend", "suspended")]
    assert found_in_copy(path, tmp_path, suspended, queued) == []
    assert found_in_copy(path, tmp_path, not_queued) == []


@pytest.mark.parametrize(("path", "below"), [(CLUSTER, "spec"), (JOB, "spec.rayClusterSpec")], ids=["cluster", "job"])
def test_pods_that_stay_without_work_are_a_note(path: Path, below: str, tmp_path: Path) -> None:
    group = (*below.split("."), *GROUP)
    (note,) = notes_of(path, tmp_path, set_to(4, *group, "minReplicas"), set_to(4, *group, "replicas"))
    assert f"{below}.workerGroupSpecs[0].minReplicas: is 4: so many pods with GPUs are there" in note


@pytest.mark.parametrize(
    ("path", "keys", "place"),
    [
        (CLUSTER, ("spec", *WORKER), f"spec.{W}"),
        (CLUSTER, ("spec", *HEAD), "spec.headGroupSpec.template.spec"),
        (JOB, ("spec", "rayClusterSpec", *WORKER), f"spec.rayClusterSpec.{W}"),
        (JOB, ("spec", "submitterPodTemplate", "spec"), "spec.submitterPodTemplate.spec"),
    ],
)
def test_account_that_no_file_beside_makes_is_found(
    path: Path, keys: tuple[Any, ...], place: str, tmp_path: Path
) -> None:
    misspelt = set_to("hdrfleet-wroker", *keys, "serviceAccountName")
    assert found_in_copy(path, tmp_path, misspelt) == []  # it may be made elsewhere, as all of them
    shutil.copy(ACCOUNTS, tmp_path)
    assert found_in_copy(path, tmp_path, misspelt) == [(f"{place}.serviceAccountName", "no_account")]
    assert found_in_copy(path, tmp_path, set_to("default", *keys, "serviceAccountName")) == []
    assert found_in_copy(path, tmp_path) == []


CONVERT = "hdrfleet convert s3://a/b s3://c/d --address auto"
ENDS = "|| case $? in 3|4) ;; *) exit 1 ;; esac"
IN_JOB = ("spec", "rayClusterSpec", "workerGroupSpecs")


@pytest.mark.parametrize(
    ("options", "breaks"),
    [
        ("--device cuda --workers 8", []),
        ("--device cuda --workers=8", []),
        ("--workers 8", []),
        ("--device cpu --workers 8", []),
        ("--device cuda --workers 2", [set_to(2, *IN_JOB, 0, "replicas"), set_to(0, *IN_JOB, 0, "maxReplicas")]),
        ("--device cuda --workers 2", [set_to(2, *IN_JOB, 0, "replicas"), set_to(True, *IN_JOB, 0, "suspend")]),
        ("--accelerator-type A10G --workers 2", [set_to(2, *IN_JOB, 0, "replicas")]),
        ("--label hdrfleet-market=on-demand --workers 2", [set_to(2, *IN_JOB, 0, "minReplicas")]),
        ("--workers-per-gpu 2 --workers 2", [set_to(2, *IN_JOB, 0, "replicas"), without(*IN_JOB, 0, "template")]),
    ],
)
def test_fixed_number_of_workers_that_a_new_cluster_does_not_have_is_found(
    options: str, breaks: list[Break], tmp_path: Path
) -> None:
    found = found_in_copy(JOB, tmp_path, set_to(f"{CONVERT} {options} {ENDS}", "spec", "entrypoint"), *breaks)
    assert ("spec.entrypoint", "not_elastic") in found


@pytest.mark.parametrize(
    ("options", "breaks"),
    [
        ("--device cuda --max-workers=8", []),
        ("--executor local --workers 1", []),
        ("--device cuda --workers 2", [set_to(2, *IN_JOB, 0, "replicas")]),
        ("--device cuda --workers 2", [set_to(2, *IN_JOB, 0, "minReplicas"), set_to(2, *IN_JOB, 0, "replicas")]),
        ("--accelerator-type L4 --label hdrfleet-market=spot --workers 2", [set_to(2, *IN_JOB, 0, "replicas")]),
    ],
)
def test_workers_that_are_up_or_asked_for_are_sound(options: str, breaks: list[Break], tmp_path: Path) -> None:
    convert = CONVERT.removesuffix(" --address auto") if "local" in options else CONVERT
    entrypoint = set_to(f"{convert} {options} {ENDS}", "spec", "entrypoint")
    assert found_in_copy(JOB, tmp_path, entrypoint, *breaks) == []


@pytest.mark.parametrize(
    "breaks",
    [
        [set_to("/tmp/ray", *CONTAINER, "volumeMounts", 0, "mountPath")],
        [set_to("/tmp/ray/", *CONTAINER, "volumeMounts", 0, "mountPath")],
        [set_to({"temp-dir": "/home/hdrfleet/ray"}, *GROUP, "rayStartParams"), without(*CONTAINER, "volumeMounts", 0)],
        [
            appended({"name": "TMPDIR", "value": "/home/hdrfleet"}, *CONTAINER, "env"),
            without(*CONTAINER, "volumeMounts", 0),
        ],
        [
            appended({"name": "RAY_TMPDIR", "valueFrom": {"fieldRef": {}}}, *CONTAINER, "env"),
            without(*CONTAINER, "volumeMounts", 0),
        ],
        [without(*HEAD, "containers", 0, "volumeMounts", 0)],  # KubeRay mounts /tmp/ray for the autoscaler
    ],
)
def test_other_places_for_ray_to_write_are_sound(breaks: list[Break], tmp_path: Path) -> None:
    in_spec = [(lambda document, apply=each: apply(document["spec"])) for each in breaks]
    assert found_in_copy(CLUSTER, tmp_path, *in_spec) == []


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (without("spec", "entrypoint"), ("spec.entrypoint", "missing_key")),
        (set_to(0, "spec", "backoffLimit"), ("spec.backoffLimit", "no_retry")),
        (set_to(5, "spec", "backOffLimit"), ("spec.backOffLimit", "unknown_key")),
        (
            set_to("hdrfleet convert s3://a s3://b --address auto", "spec", "entrypoint"),
            ("spec.entrypoint", "not_elastic"),
        ),
        (set_to(False, "spec", "shutdownAfterJobFinishes"), ("spec.shutdownAfterJobFinishes", "cluster_stays")),
        (
            set_to("hdrfleet", "metadata", "labels", "kueue.x-k8s.io/queuename"),
            ('metadata.labels["kueue.x-k8s.io/queuename"]', "unknown_key"),
        ),
        (
            set_to("true", "metadata", "annotations", "kueue.x-k8s.io/elasticjob"),
            ('metadata.annotations["kueue.x-k8s.io/elasticjob"]', "unknown_key"),
        ),
        (without("spec", "submitterPodTemplate"), ("spec.submitterPodTemplate.spec", "root_user")),
        (
            set_to([{"name": "RAY_AUTH_MODE", "value": "none"}], *SUBMITTER, "env"),
            ("spec.submitterPodTemplate.spec.containers[0].env[0]", "no_token"),
        ),
        (
            set_to("r/hdrfleet", "spec", "submitterPodTemplate", "spec", "containers", 0, "image"),
            ("spec.submitterPodTemplate.spec.containers[0].image", "image_unpinned"),
        ),
        (
            set_to("hdrfleet convert s3://AKIAABCDEFGHIJKLMNOP:x@b s3://c", "spec", "entrypoint"),
            ("spec.entrypoint", "secret"),
        ),
    ],
    ids=[
        "no command",
        "no retry",
        "wrong key",
        "not elastic",
        "cluster stays",
        "misspelt queue",
        "misspelt annotation",
        "no submitter",
        "submitter without a token",
        "submitter unpinned",
        "key in the command",
    ],
)
def test_fault_of_a_job_is_found(apply: Break, expected: tuple[str, str], tmp_path: Path) -> None:
    assert expected in found_in_copy(JOB, tmp_path, apply)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (set_to([{}], "spec", "ingress"), ("spec.ingress[0].from", "open_network")),
        (set_to([{"from": []}], "spec", "ingress"), ("spec.ingress[0].from", "open_network")),
        (
            set_to([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}], "spec", "ingress"),
            ("spec.ingress[0].from[0].ipBlock.cidr", "open_network"),
        ),
        (
            set_to([{"from": [{"namespaceSelector": {}}]}], "spec", "ingress"),
            ("spec.ingress[0].from[0].namespaceSelector", "open_network"),
        ),
        (set_to(["Egress"], "spec", "policyTypes"), ("spec.policyTypes", "open_network")),
        (without("spec", "podSelector"), ("spec.podSelector", "missing_key")),
        (set_to([], "spec", "ingres"), ("spec.ingres", "unknown_key")),
        (set_to([{"form": []}], "spec", "egress"), ("spec.egress[0].form", "unknown_key")),
    ],
    ids=[
        "everybody",
        "empty",
        "the world",
        "every namespace",
        "one direction",
        "no pods",
        "wrong key",
        "wrong key below",
    ],
)
def test_fault_of_a_policy_is_found(apply: Break, expected: tuple[str, str], tmp_path: Path) -> None:
    place, code = expected
    assert (f"NetworkPolicy/hdrfleet-head: {place}", code) in found_in_copy(POLICY, tmp_path, apply, index=1)


def way_out(to: object, **more: object) -> list[tuple[str, str]]:
    """What is found in a policy whose only way out is this one; places from the rule on."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"to": to, **more}]}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}, "spec": spec}
    found = check_plain_object(policy)
    assert found is not None
    return [(each.place.removeprefix("spec.egress[0].to"), each.code) for each in found]


@pytest.mark.parametrize(
    ("cidr", "more"),
    [
        ("0.0.0.0/0", {}),
        ("169.254.0.0/16", {}),
        ("169.254.169.254/30", {}),
        ("::/0", {"except": ["fd00:ec2::/32"]}),
        ("0.0.0.0/0", {"except": ["10.0.0.0/8", "169.254.0.0/24"]}),
    ],
)
def test_way_out_to_the_rights_of_the_node_is_found(cidr: str, more: dict[str, object]) -> None:
    assert ("[0].ipBlock.except", "metadata_service") in way_out([{"ipBlock": {"cidr": cidr, **more}}])


@pytest.mark.parametrize("to", [[], None])
def test_way_out_to_everywhere_leads_to_the_rights_of_the_node(to: object) -> None:
    assert ("", "metadata_service") in way_out(to)


@pytest.mark.parametrize(
    "ports",
    [
        [{"port": 80}],
        [{"protocol": "TCP", "port": 1, "endPort": 1024}],
        [{"port": "http"}],
        [{"port": 443}, {"port": 80}],
        [{"protocol": "TCP"}],
        [],
    ],
)
def test_port_of_the_metadata_service_is_open(ports: object) -> None:
    assert way_out([{"ipBlock": {"cidr": "0.0.0.0/0"}}], ports=ports) == [("[0].ipBlock.except", "metadata_service")]


@pytest.mark.parametrize(
    ("cidr", "excepted", "ports"),
    [
        ("0.0.0.0/0", ["169.254.0.0/16"], []),
        ("::/0", ["fd00::/8"], []),
        ("169.254.169.254/32", [], [{"port": 80}]),
        ("10.0.0.0/8", [], []),
        ("0.0.0.0/0", [], [{"port": 443}, {"protocol": "UDP", "port": 80}, {"port": 81, "endPort": 90}]),
    ],
    ids=["excepted", "excepted in IPv6", "meant", "elsewhere", "another port"],
)
def test_way_out_that_does_not_lead_there_is_sound(cidr: str, excepted: list[str], ports: list[object]) -> None:
    assert way_out([{"ipBlock": {"cidr": cidr, "except": excepted}}], ports=ports) == []


def test_token_said_twice_in_one_way_is_sound(tmp_path: Path) -> None:
    secret = {"secretKeyRef": {"name": "hdrfleet-ray-token", "key": "auth_token"}}
    breaks = [
        appended({"name": "RAY_AUTH_MODE", "value": "token"}, "spec", *CONTAINER, "env"),
        appended({"name": "RAY_AUTH_TOKEN", "valueFrom": secret}, "spec", *CONTAINER, "env"),
    ]
    assert found_in_copy(CLUSTER, tmp_path, *breaks) == []


def test_account_that_gives_keys_to_the_api_is_found(tmp_path: Path) -> None:
    found = found_in_copy(ACCOUNTS, tmp_path, without("automountServiceAccountToken"), index=1)
    assert found == [("ServiceAccount/hdrfleet-worker: automountServiceAccountToken", "api_token")]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"kind": "Service", "spec": {"type": "LoadBalancer"}}, ("spec.type", "public_port")),
        ({"kind": "Service", "spec": {"externalIPs": ["203.0.113.5"]}}, ("spec.externalIPs", "public_port")),
        ({"kind": "Ingress", "spec": {}}, ("spec", "public_port")),
        ({"kind": "Secret", "stringData": {"auth_token": "x"}}, ("stringData", "secret")),
        ({"kind": "Secret", "data": {"auth_token": "eA=="}}, ("data", "secret")),
    ],
    ids=["service", "service from outside", "ingress", "secret", "encoded secret"],
)
def test_what_opens_or_gives_away_is_found(
    document: dict[str, object], expected: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "metadata": {"name": "x"}} | document))
    assert [(each.place, each.code) for each in validate_file(path, []).findings] == [expected]


def test_kind_that_is_not_known_is_said(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    report = validate_file(path, [])
    assert report.is_sound
    assert report.notes == ("ConfigMap/x: nothing is known here of this kind; only secrets were looked for",)


def test_patch_is_checked_as_what_it_makes_of_its_manifest(tmp_path: Path) -> None:
    (cluster,) = documents(CLUSTER)
    del cluster["spec"]["authOptions"]
    (tmp_path / CLUSTER.name).write_text(yaml.safe_dump(cluster))
    (tmp_path / PATCH.name).write_text(PATCH.read_text())
    found = validate_file(tmp_path / PATCH.name, []).findings
    assert [(each.place, each.code) for each in found] == [("spec.authOptions.mode", "no_token")]


@pytest.mark.parametrize(
    ("apply", "places"),
    [
        (without("spec", "gcsFaultToleranceOptions", "redisPassword"), ["redisPassword"]),
        (set_to({"backend": "x"}, "spec", "gcsFaultToleranceOptions"), []),
    ],
    ids=["Redis", "no Redis"],
)
def test_redis_without_a_password_is_found(apply: Break, places: list[str], tmp_path: Path) -> None:
    (tmp_path / CLUSTER.name).write_text(CLUSTER.read_text())
    expected = [(f"spec.gcsFaultToleranceOptions.{place}", "no_token") for place in places]
    assert found_in_copy(PATCH, tmp_path, apply) == expected


@pytest.mark.parametrize(
    "apply",
    [
        set_to("$REDIS_PASSWORD", *("spec", "headGroupSpec", "rayStartParams", "redis-password")),
        appended(
            {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "r", "key": "p"}}},
            *("spec", *HEAD, "containers", 0, "env"),
        ),
    ],
    ids=["parameter", "variable"],
)
def test_password_of_redis_by_another_way_is_sound(apply: Break, tmp_path: Path) -> None:
    redis = set_to({"redisAddress": "redis:6379"}, "spec", "gcsFaultToleranceOptions")
    assert found_in_copy(CLUSTER, tmp_path, redis, apply) == []


def test_patches_merge_as_rfc_7386_says() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge(base, {"a": {"b": None, "c": [3]}, "e": {"f": None, "g": 1}}) == {
        "a": {"c": [3]},
        "d": 4,
        "e": {"g": 1},
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_a_wrong_key_is_told_with_what_it_may_have_been_meant_to_be(tmp_path: Path) -> None:
    (value,) = documents(CLUSTER)
    value["spec"]["workerGroupSpec"] = value["spec"].pop("workerGroupSpecs")
    copied = tmp_path / CLUSTER.name
    copied.write_text(yaml.safe_dump(value))
    messages = {each.place: each.message for each in validate_file(copied, []).findings}
    assert messages["spec.workerGroupSpec"] == "is not known here; did you mean workerGroupSpecs or headGroupSpec?"


def test_names_of_another_version_of_the_api_are_not_judged(tmp_path: Path) -> None:
    breaks = (set_to("ray.io/v2", "apiVersion"), set_to("x", "spec", "brandNew"))
    assert "unknown_key" not in {code for _, code in found_in_copy(CLUSTER, tmp_path, *breaks)}


@pytest.mark.parametrize("path", [CLUSTER, JOB], ids=["cluster", "job"])
def test_head_that_may_be_moved_is_a_note(path: Path, tmp_path: Path) -> None:
    below = ("spec",) if path == CLUSTER else ("spec", "rayClusterSpec")
    assert notes_of(path, tmp_path) == []
    moved = without(*below, "headGroupSpec", "template", "metadata", "annotations")
    (note,) = notes_of(path, tmp_path, moved)
    assert 'annotate it: karpenter.sh/do-not-disrupt: "true", cluster-autoscaler' in note
    (note,) = notes_of(path, tmp_path, without(*below, *HEAD, "affinity"))
    assert "keeps the head's pod off spot nodes" in note


def test_job_that_leaves_the_device_to_chance_is_a_note(tmp_path: Path) -> None:
    command = f"hdrfleet convert s3://a s3://b --address auto --max-workers 4 {ENDS}"
    (note,) = notes_of(JOB, tmp_path, set_to(command, "spec", "entrypoint"))
    assert "spec.entrypoint has no --device" in note
    assert notes_of(JOB, tmp_path, set_to(f"{command} --device cuda", "spec", "entrypoint")) == []


def notes_of(path: Path, tmp_path: Path, *breaks: Break) -> list[str]:
    """What is said of a copy beside findings, of which there are none."""
    values = documents(path)
    for apply in breaks:
        apply(values[0])
    copied = tmp_path / path.name
    copied.write_text(yaml.safe_dump_all(values))
    report = validate_file(copied, [])
    assert report.findings == ()
    return [each for each in report.notes if "--crd" not in each]
