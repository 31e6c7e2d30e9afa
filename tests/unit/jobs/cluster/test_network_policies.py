"""Network policies beside the manifests that they are for: ports, who is selected, and what is left of the way out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import KUBERAY, Break, documents, found_in_copy, reach, set_to, without

from jobs.cluster.kuberay_keys import START_PARAMS
from jobs.cluster.pod_parts import quantity
from jobs.cluster.validate import validate_file

POLICY = KUBERAY / "network-policy.yaml"
CLUSTER = KUBERAY / "raycluster.yaml"
JOB = KUBERAY / "rayjob.yaml"
PART_OF = "app.kubernetes.io/part-of"
PORT = ("spec", "egress", 1, "ports", 0)
OF_HEAD = ("spec", "ingress", 0, "ports", 0)


def found_in(path: Path, folder: Path, *breaks: Break, index: int = 0) -> list[tuple[str, str]]:
    """Break a copy of a file of infra/kuberay that lies among copies of all the others."""
    shutil.copytree(KUBERAY, folder, dirs_exist_ok=True)
    return found_in_copy(path, folder, *breaks, index=index)


def without_port(wanted: int) -> Break:
    """A break that takes the ways out to a port."""

    def apply(document: Any) -> None:
        for rule in document["spec"]["egress"]:
            if "ports" in rule:
                rule["ports"] = [each for each in rule["ports"] if each["port"] != wanted] or [{"port": 1}]

    return apply


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (set_to("UPD", *PORT, "protocol"), ("spec.egress[1].ports[0].protocol", "unknown_value")),
        (set_to("UPD", *PORT, "protocol"), ("spec.egress", "no_way_out")),
        (set_to("53", *PORT, "port"), ("spec.egress[1].ports[0].port", "wrong_type")),
        (set_to("DNS", *PORT, "port"), ("spec.egress[1].ports[0].port", "unknown_value")),
        (set_to("a-name-that-is-too-long", *PORT, "port"), ("spec.egress[1].ports[0].port", "unknown_value")),
        (set_to(0, *PORT, "port"), ("spec.egress[1].ports[0].port", "unknown_value")),
        (set_to(70000, *PORT, "port"), ("spec.egress[1].ports[0].port", "unknown_value")),
        (set_to(52, *PORT, "endPort"), ("spec.egress[1].ports[0].endPort", "unknown_value")),
        (without_port(53), ("spec.egress", "no_way_out")),
        (without_port(443), ("spec.egress", "no_way_out")),
        (without("spec", "egress"), ("spec.egress", "no_way_out")),
        (set_to({PART_OF: "hdrflet"}, "spec", "podSelector", "matchLabels"), ("spec.podSelector", "open_network")),
        (
            set_to(
                [{"key": PART_OF, "operator": "NotIn", "values": ["hdrfleet"]}],
                "spec",
                "podSelector",
                "matchExpressions",
            ),
            ("spec.podSelector", "open_network"),
        ),
    ],
)
def test_fault_of_a_policy_is_found(apply: Break, expected: tuple[str, str], tmp_path: Path) -> None:
    place, code = expected
    assert (f"NetworkPolicy/hdrfleet: {place}", code) in found_in(POLICY, tmp_path, apply)


def test_port_in_quotes_is_told_to_be_a_number(tmp_path: Path) -> None:
    found = found_in(POLICY, tmp_path, set_to("8265", *OF_HEAD, "port"), index=1)
    assert found == [("NetworkPolicy/hdrfleet-head: spec.ingress[0].ports[0].port", "wrong_type")]


@pytest.mark.parametrize("path", [CLUSTER, JOB], ids=["cluster", "job"])
@pytest.mark.parametrize("kind", ["head", "worker"])
def test_pods_that_no_policy_selects_are_found(path: Path, kind: str, tmp_path: Path) -> None:
    spec = ("spec",) if path == CLUSTER else ("spec", "rayClusterSpec")
    part = ("headGroupSpec",) if kind == "head" else ("workerGroupSpecs", 1)
    place = ".".join(spec) + (".headGroupSpec" if kind == "head" else ".workerGroupSpecs[1]")
    found = found_in(path, tmp_path, without(*spec, *part, "template", "metadata", "labels", PART_OF))
    assert (f"{place}.template.metadata.labels", "open_network") in found


def test_submitter_that_no_policy_selects_is_found(tmp_path: Path) -> None:
    found = found_in(JOB, tmp_path, without("spec", "submitterPodTemplate", "metadata", "labels", PART_OF))
    assert found == [("spec.submitterPodTemplate.metadata.labels", "open_network")]


def test_files_that_lie_together_are_sound(tmp_path: Path) -> None:
    for path in sorted(KUBERAY.glob("*.yaml")):
        assert found_in(path, tmp_path) == []


def test_without_policies_beside_it_nothing_is_said_of_labels(tmp_path: Path) -> None:
    labels = ("spec", "headGroupSpec", "template", "metadata", "labels", PART_OF)
    assert found_in_copy(CLUSTER, tmp_path, without(*labels)) == []


def test_policy_by_the_labels_of_kuberay_is_for_its_pods(tmp_path: Path) -> None:
    labels = {"ray.io/cluster": "hdrfleet", "ray.io/node-type": "worker"}
    # The head is left to the policy of its own, which says nothing of DNS, port 443 and the workers.
    assert found_in(POLICY, tmp_path, set_to({"matchLabels": labels}, "spec", "podSelector")) == [
        ("NetworkPolicy/hdrfleet-head: spec.egress", "no_way_out")
    ] * 3 + [("NetworkPolicy/hdrfleet-head: spec.ingress", "no_way_in")]


def test_policy_for_something_else_beside_it_is_left_alone(tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path, dirs_exist_ok=True)
    spec = {"podSelector": {"matchLabels": {"app": "redis"}}, "policyTypes": ["Ingress", "Egress"], "ingress": []}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "redis"},
        "spec": spec,
    }
    path = tmp_path / "redis.yaml"
    path.write_text(yaml.safe_dump(policy))
    assert [each.place for each in validate_file(path, []).findings] == ["spec.podSelector"]
    template = {"metadata": {"labels": {"app": "redis"}}}
    server = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "redis"},
        "spec": {"template": template},
    }
    path.write_text(yaml.safe_dump_all([server, policy]))
    assert validate_file(path, []).findings == ()


def test_file_beside_it_that_cannot_be_read_is_said_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path, dirs_exist_ok=True)
    (tmp_path / "broken.yaml").write_text("a: b: c")
    (tmp_path / "list.yml").write_text("- 1")
    assert found_in_copy(POLICY, tmp_path) == []


def test_parameters_of_ray_start_are_those_of_ray() -> None:
    from ray.scripts.scripts import start

    options = {each.lstrip("-") for param in start.params for each in [*param.opts, *param.secondary_opts]}
    assert set(START_PARAMS) == options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500m", 0.5),
        ("7", 7),
        (7, 7),
        ("1.5Gi", 1.5 * 2**30),
        ("26Gi", 26 * 2**30),
        ("1e3", 1000),
        ("2E", 2e18),
        ("3k", 3000),
    ],
)
def test_quantities(text: object, expected: float) -> None:
    assert quantity(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["26GiB", "", "x", "5 Gi", True, None, [1], "Gi", "1e", "1.2.3"])
def test_what_is_no_quantity(text: object) -> None:
    assert quantity(text) is None


def test_documents_of_the_policy_are_two() -> None:
    assert [reach(each, ("metadata", "name")) for each in documents(POLICY)] == ["hdrfleet", "hdrfleet-head"]
