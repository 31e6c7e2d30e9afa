"""Broken copies of KubeRay's manifests, without the cluster's schema: names in pods, what must be text, tolerations."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_files import KUBERAY, Break, found_in_copy, set_to, without

CLUSTER, JOB = KUBERAY / "raycluster.yaml", KUBERAY / "rayjob.yaml"
ACCOUNTS, POLICY = KUBERAY / "service-accounts.yaml", KUBERAY / "network-policy.yaml"
GROUP = ("workerGroupSpecs", 0)
POD = (*GROUP, "template", "spec")
HEAD = ("headGroupSpec", "template")
G = "workerGroupSpecs[0]"
P = f"{G}.template.spec"

FAULTS: dict[str, tuple[list[Break], tuple[str, str]]] = {
    "number as a variable": (
        [set_to(600, *POD, "containers", 0, "env", 0, "value")],
        (f"{P}.containers[0].env[0].value", "wrong_type"),
    ),
    "truth as a variable": (
        [set_to(True, *HEAD, "spec", "containers", 0, "env", 0, "value")],
        ("headGroupSpec.template.spec.containers[0].env[0].value", "wrong_type"),
    ),
    "number as a variable of the autoscaler": (
        [set_to(600, "autoscalerOptions", "env", 0, "value")],
        ("autoscalerOptions.env[0].value", "wrong_type"),
    ),
    "variable under a wrong key": (
        [set_to("x", *POD, "containers", 0, "env", 0, "valu")],
        (f"{P}.containers[0].env[0].valu", "unknown_key"),
    ),
    "truth as an annotation": (
        [set_to(True, *HEAD, "metadata", "annotations", "karpenter.sh/do-not-disrupt")],
        ('headGroupSpec.template.metadata.annotations["karpenter.sh/do-not-disrupt"]', "wrong_type"),
    ),
    "number as a label": (
        [set_to(1, *GROUP, "template", "metadata", "labels", "app")],
        (f"{G}.template.metadata.labels.app", "wrong_type"),
    ),
    "number as a label of Ray": ([set_to(1, *GROUP, "labels", "zone")], (f"{G}.labels.zone", "wrong_type")),
    "number as a resource of Ray": (
        [set_to(1, *GROUP, "resources", "accelerator_type:L4")],
        (f'{G}.resources["accelerator_type:L4"]', "wrong_type"),
    ),
    "truth as what nodes are chosen by": (
        [set_to(True, *POD, "nodeSelector", "cloud.google.com/gke-spot")],
        (f'{P}.nodeSelector["cloud.google.com/gke-spot"]', "wrong_type"),
    ),
    "tolerations under a wrong key": (
        [set_to([], *POD, "toleration"), without(*POD, "tolerations")],
        (f"{P}.toleration", "unknown_key"),
    ),
    "container's wrong key": (
        [set_to("Always", *POD, "containers", 0, "imagePullPolcy")],
        (f"{P}.containers[0].imagePullPolcy", "unknown_key"),
    ),
    "template's wrong key": ([set_to({}, *GROUP, "template", "spce")], (f"{G}.template.spce", "unknown_key")),
    "operator that is none": (
        [set_to("Exist", *POD, "tolerations", 0, "operator")],
        (f"{P}.tolerations[0].operator", "unknown_value"),
    ),
    "effect that is none": (
        [set_to("NoScheduling", *POD, "tolerations", 0, "effect")],
        (f"{P}.tolerations[0].effect", "unknown_value"),
    ),
    "toleration's wrong key": (
        [set_to("NoSchedule", *POD, "tolerations", 0, "effects")],
        (f"{P}.tolerations[0].effects", "unknown_key"),
    ),
    "truth as what is tolerated": (
        [set_to(True, *POD, "tolerations", 0, "value")],
        (f"{P}.tolerations[0].value", "wrong_type"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize(("path", "below"), [(CLUSTER, ("spec",)), (JOB, ("spec", "rayClusterSpec"))])
def test_fault_is_found_at_its_place(name: str, path: Path, below: tuple[str, ...], tmp_path: Path) -> None:
    breaks, (place, code) = FAULTS[name]

    def apply(document: object) -> None:
        value = document
        for key in below:
            value = value[key]  # type: ignore[index]
        for each in breaks:
            each(value)

    assert (".".join((*below, place)), code) in found_in_copy(path, tmp_path, apply)


@pytest.mark.parametrize(
    ("apply", "place", "code"),
    [
        (
            set_to(5, "spec", "submitterPodTemplate", "metadata", "labels", "app"),
            "spec.submitterPodTemplate.metadata.labels.app",
            "wrong_type",
        ),
        (
            set_to({}, "spec", "submitterPodTemplate", "spec", "securitycontext"),
            "spec.submitterPodTemplate.spec.securitycontext",
            "unknown_key",
        ),
        (
            set_to(True, "metadata", "annotations", "kueue.x-k8s.io/elastic-job"),
            'metadata.annotations["kueue.x-k8s.io/elastic-job"]',
            "wrong_type",
        ),
    ],
)
def test_fault_of_a_job_is_found(apply: Break, place: str, code: str, tmp_path: Path) -> None:
    assert (place, code) in found_in_copy(JOB, tmp_path, apply)


@pytest.mark.parametrize("path", [ACCOUNTS, POLICY], ids=lambda path: path.stem)
def test_label_of_any_kind_is_text(path: Path, tmp_path: Path) -> None:
    found = found_in_copy(path, tmp_path, set_to({"labels": {"a": 1}, "name": "x"}, "metadata"))
    assert [place.rpartition(": ")[2] for place, code in found if code == "wrong_type"] == ["metadata.labels.a"]
