"""What comes with hdrfleet is sound, and its parts agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from cluster_files import AWS, DOCKERFILE, GCP, KUBERAY, OBSERVABILITY, ROOT, TEMPLATE, documents

from jobs.cluster.validate import find_files, validate_file

SHIPPED = [path for path, _ in find_files([AWS, ROOT / "infra"])]


KINDS = {
    AWS: "Ray cluster",
    GCP: "Ray cluster",
    DOCKERFILE: "Dockerfile",
    TEMPLATE: "CloudFormation",
    OBSERVABILITY / "prometheus.yml": "Prometheus",
    OBSERVABILITY / "alert-rules.yml": "Prometheus rules",
    OBSERVABILITY / "grafana-dashboard.json": "Grafana dashboard",
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_sound(path: Path) -> None:
    report = validate_file(path, [], is_named=False)
    assert report.findings == ()
    assert report.kind == KINDS.get(path, "Kubernetes")


def test_all_of_them_are_looked_at() -> None:
    assert {*KINDS, *KUBERAY.glob("*.yaml")} == set(SHIPPED)


def test_the_job_brings_the_cluster_that_stands_beside_it() -> None:
    (cluster,), (job,) = documents(KUBERAY / "raycluster.yaml"), documents(KUBERAY / "rayjob.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


@pytest.mark.parametrize(
    ("code", "is_tried_again"), [(0, False), (1, True), (2, True), (3, False), (4, False), (137, True)]
)
def test_the_job_is_tried_again_for_what_another_try_may_mend(code: int, is_tried_again: bool, tmp_path: Path) -> None:
    """KubeRay takes every exit code but 0 for a failure. docs/operations.md has this table."""
    (job,) = documents(KUBERAY / "rayjob.yaml")
    command = tmp_path / "hdrfleet"
    command.write_text(f"#!/bin/sh\nexit {code}\n")
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(job["spec"]["entrypoint"], shell=True, env=env, check=False)  # as Ray's job server does
    assert (ended.returncode != 0) is is_tried_again


def test_the_job_leaves_the_device_to_nobody() -> None:
    (job,) = documents(KUBERAY / "rayjob.yaml")
    assert " --device cuda " in job["spec"]["entrypoint"]


def test_profiles_and_names_are_those_of_the_stack() -> None:
    (cluster,), (template,) = documents(AWS), documents(TEMPLATE)
    name = template["Parameters"]["ClusterName"]["Default"]
    assert cluster["cluster_name"] == name
    profiles = {
        resource["Properties"]["InstanceProfileName"]["Sub"].replace("${ClusterName}", name)
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::IAM::InstanceProfile"
    }
    used = {each["node_config"]["IamInstanceProfile"]["Name"] for each in cluster["available_node_types"].values()}
    assert used == profiles


def test_pods_use_accounts_and_labels_that_are_there() -> None:
    accounts = {each["metadata"]["name"] for each in documents(KUBERAY / "service-accounts.yaml")}
    (cluster,), (job,) = documents(KUBERAY / "raycluster.yaml"), documents(KUBERAY / "rayjob.yaml")
    templates = [cluster["spec"]["headGroupSpec"]["template"], job["spec"]["submitterPodTemplate"]]
    templates += [group["template"] for group in cluster["spec"]["workerGroupSpecs"]]
    assert {template["spec"]["serviceAccountName"] for template in templates} == accounts
    policies = documents(KUBERAY / "network-policy.yaml")
    selected = policies[0]["spec"]["podSelector"]["matchLabels"].items()
    assert all(selected <= template["metadata"]["labels"].items() for template in templates)


def test_spot_workers_start_from_none_and_have_a_fallback() -> None:
    for path, spot in ((AWS, "InstanceMarketOptions"), (GCP, "scheduling")):
        (config,) = documents(path)
        types = {name: each for name, each in config["available_node_types"].items() if name != "head"}
        assert {each["min_workers"] for each in types.values()} == {0}
        for name, each in types.items():
            assert ("spot" in name) == ("SPOT" in str(each["node_config"].get(spot)).upper())
        assert len({each["labels"]["ray.io/accelerator-type"] for each in types.values()}) >= 3
        by_market = {
            market: {each["priority"] for name, each in types.items() if name.endswith(market)}
            for market in ("_spot", "_on_demand")
        }
        assert by_market["_on_demand"]
        assert max(by_market["_spot"]) > max(by_market["_on_demand"])


def test_versions_of_the_image_are_exact_and_said_once() -> None:
    lines = [line for line in (ROOT / "infra" / "constraints-image.txt").read_text().splitlines() if line[0] != "#"]
    here = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert all(re.fullmatch(r"[A-Za-z][\w.-]*==[\w.]+", line) for line in lines)
    assert not here & {line.partition("==")[0].lower() for line in lines}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = here | {line.partition("==")[0].lower() for line in lines}
    for requirement in extras["cluster"] + extras["gcs"]:
        assert re.split(r"[\[<>=]", requirement)[0].lower() in pinned


def test_what_the_image_is_built_from_is_let_through_to_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_make_check_looks_at_all_of_them() -> None:
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert check is not None
    assert "hdrfleet cluster validate ray_cluster.yaml infra" in check[1]


def test_yaml_is_read_the_same_by_a_plain_loader() -> None:
    for path in (AWS, GCP, *sorted(KUBERAY.glob("*.yaml"))):
        assert documents(path) == list(yaml.safe_load_all(path.read_text()))
