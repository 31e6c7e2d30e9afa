"""Network policies of a Ray cluster: pods that are cut off from each other, from the operator, from the API server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import KUBERAY, Break, broken_copy, documents, set_to, without

from jobs.cluster.validate import validate_file

POLICY = KUBERAY / "network-policy.yaml"
PART_OF = {"matchLabels": {"app.kubernetes.io/part-of": "hdrfleet"}}
ALL_PODS, HEAD = 0, 1
AMONG = [("spec", "ingress", 0), ("spec", "egress", 0)]


def found_beside(folder: Path, *breaks: Break, index: int = ALL_PODS) -> list[tuple[str, str, str]]:
    """Break a copy of the policies that lies among copies of the other manifests; (place, code, message) of each."""
    for path in sorted(KUBERAY.glob("*.yaml")):
        if not (folder / path.name).exists():
            shutil.copy(path, folder)
    copied = broken_copy(POLICY, folder, *breaks, index=index)
    return [(each.place, each.code, each.message) for each in validate_file(copied, []).findings]


@pytest.mark.parametrize(
    ("index", "apply", "expected", "parties"),
    [
        (
            ALL_PODS,
            without("spec", "egress", 0),
            ("NetworkPolicy/hdrfleet: spec.egress", "no_way_out"),
            ["the workers from the head", "the head from the workers", "the workers from the workers", "submitter"],
        ),
        (
            ALL_PODS,
            without("spec", "ingress", 0),
            ("NetworkPolicy/hdrfleet: spec.ingress", "no_way_in"),
            ["the workers from the head", "the head from the workers", "the workers from the workers", "submitter"],
        ),
        (
            HEAD,
            set_to([], "spec", "ingress"),
            ("NetworkPolicy/hdrfleet-head: spec.ingress", "no_way_in"),
            ["KubeRay's operator from the head (TCP port 8265"],
        ),
        (
            HEAD,
            without("spec", "egress"),
            ("NetworkPolicy/hdrfleet-head: spec.egress", "no_way_out"),
            ["the head from Kubernetes' API server (TCP port 6443"],
        ),
        (
            HEAD,
            set_to(8266, "spec", "ingress", 0, "ports", 0, "port"),
            ("NetworkPolicy/hdrfleet-head: spec.ingress", "no_way_in"),
            ["KubeRay's operator"],
        ),
        (
            HEAD,
            set_to([{"podSelector": PART_OF}], "spec", "ingress", 0, "from"),
            ("NetworkPolicy/hdrfleet-head: spec.ingress", "no_way_in"),
            ["KubeRay's operator"],
        ),
        (
            ALL_PODS,
            set_to([{"port": 6379}], "spec", "egress", 0, "ports"),
            ("NetworkPolicy/hdrfleet: spec.egress", "no_way_out"),
            ["the workers from the head (TCP port 10002)"],
        ),
        (
            ALL_PODS,
            set_to([{"port": 6379}, {"port": 10002, "endPort": 19999}], "spec", "ingress", 0, "ports"),
            ("NetworkPolicy/hdrfleet: spec.ingress", "no_way_in"),
            ["the workers from the head (TCP port 32768)"],
        ),
        (
            ALL_PODS,
            set_to([{"protocol": "UDP"}], "spec", "egress", 0, "ports"),
            ("NetworkPolicy/hdrfleet: spec.egress", "no_way_out"),
            ["the workers from the head (TCP port 6379)"],
        ),
        (
            ALL_PODS,
            set_to([{"ipBlock": {"cidr": "203.0.113.0/24"}}], "spec", "ingress", 0, "from"),
            ("NetworkPolicy/hdrfleet: spec.ingress", "no_way_in"),
            ["the workers from the head"],
        ),
    ],
)
def test_who_is_cut_off_is_said_at_the_policy(
    index: int, apply: Break, expected: tuple[str, str], parties: list[str], tmp_path: Path
) -> None:
    ((place, code, message),) = found_beside(tmp_path, apply, index=index)
    assert (place, code) == expected
    assert [each for each in parties if each not in message] == []


def test_head_that_has_no_policy_of_its_own_is_cut_off_by_that_for_all(tmp_path: Path) -> None:
    for path in KUBERAY.glob("ray*.yaml"):
        shutil.copy(path, tmp_path)
    alone = tmp_path / "policy.yaml"
    alone.write_text(yaml.safe_dump(documents(POLICY)[ALL_PODS]))
    found = [(each.place, each.code) for each in validate_file(alone, []).findings]
    assert found == [("spec.egress", "no_way_out"), ("spec.ingress", "no_way_in")]


@pytest.mark.parametrize(("rule", "peers"), list(zip(AMONG, ("from", "to"), strict=True)))
@pytest.mark.parametrize(
    "peer",
    [
        {"podSelector": {}},
        {"namespaceSelector": {}, "podSelector": PART_OF},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "hdrfleet"}}},
        {"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}},
        {"ipBlock": {"cidr": "10.0.0.0/16"}},
    ],
)
def test_other_words_for_each_other_are_sound(
    rule: tuple[Any, ...], peers: str, peer: dict[str, Any], tmp_path: Path
) -> None:
    found = found_beside(tmp_path, set_to([peer, {"podSelector": PART_OF}], *rule, peers))
    assert found == []
    to_head = found_beside(tmp_path, set_to([peer], *rule, peers))  # the submitter is no node of Ray
    assert [each for each in to_head if "the submitter" not in each[2]] == []


@pytest.mark.parametrize("rule", AMONG)
def test_all_ports_in_words_are_sound(rule: tuple[Any, ...], tmp_path: Path) -> None:
    assert found_beside(tmp_path, set_to([{"port": 1, "endPort": 65535}], *rule, "ports")) == []
    assert found_beside(tmp_path, set_to([{"protocol": "TCP"}], *rule, "ports")) == []


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_ports_that_are_fixed_may_be_the_only_ones(name: str, tmp_path: Path) -> None:
    fixed = {
        "min-worker-port": "20000",
        "max-worker-port": "20099",
        "node-manager-port": "6380",
        "object-manager-port": "6381",
    }

    def fix(document: Any) -> None:
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            group["rayStartParams"] |= fixed

    broken_copy(KUBERAY / name, tmp_path, fix)
    for other in {"raycluster.yaml", "rayjob.yaml"} - {name}:
        (tmp_path / other).write_text("{}")
    ports = [{"port": 6379, "endPort": 6381}, {"port": 20000, "endPort": 20099}, {"port": 8265}]
    assert found_beside(tmp_path, *(set_to(ports, *rule, "ports") for rule in AMONG)) == []
    too_few = found_beside(tmp_path, set_to(ports[:1], *AMONG[1], "ports"))
    assert [each[:2] for each in too_few] == [("NetworkPolicy/hdrfleet: spec.egress", "no_way_out")]


@pytest.mark.parametrize(
    "peers",
    [
        [{"namespaceSelector": {}, "podSelector": {}}],
        [{"namespaceSelector": {"matchLabels": {"team": "operators"}}}],
        [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}],
        [{"podSelector": {"matchLabels": {"app": "our-operator"}}}],
        [{"ipBlock": {"cidr": "10.2.0.0/16"}}],
    ],
)
def test_other_words_for_the_operator_are_sound(peers: list[Any], tmp_path: Path) -> None:
    assert found_beside(tmp_path, set_to(peers, "spec", "ingress", 0, "from"), index=HEAD) == []


def test_operator_is_not_needed_where_there_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "rayjob.yaml").write_text("{}")
    assert found_beside(tmp_path, set_to([], "spec", "ingress"), index=HEAD) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}], "ports": [{"port": 443}]},
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 6443}]},
        {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]},
    ],
)
def test_other_words_for_the_api_server_are_sound(rule: dict[str, Any], tmp_path: Path) -> None:
    assert found_beside(tmp_path, set_to([rule], "spec", "egress"), index=HEAD) == []
