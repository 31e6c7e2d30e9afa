"""Broken copies of the cluster file beside those of the template: names that are not of one cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_files import AWS, GCP, TEMPLATE, Break, broken_copy, set_to

from jobs.cluster.validate import find_files, validate_files

TYPES = "available_node_types"
PROFILE = (TYPES, "gpu_l4_spot", "node_config", "IamInstanceProfile", "Name")
IN_ROLE = ("Resources", "HeadRole", "Properties", "Policies", 1, "PolicyDocument", "Statement")
EACH = [
    (TYPES, name, "node_config", "IamInstanceProfile", "Name")
    for name in ("gpu_l4_spot", "gpu_l4_on_demand", "gpu_a10g_spot", "gpu_a10g_on_demand", "gpu_a100_spot")
]
RENAMED = [set_to("photos-head", TYPES, "head", *PROFILE[2:]), *[set_to("photos-worker", *keys) for keys in EACH]]


def found(tmp_path: Path, cluster: list[Break], template: list[Break], path: Path = AWS) -> list[tuple[str, str]]:
    broken_copy(path, tmp_path, *cluster)
    broken_copy(TEMPLATE, tmp_path, *template)
    reports = validate_files(find_files([tmp_path]), [])
    return [(each.place, each.code) for report in reports if report.kind == "Ray cluster" for each in report.findings]


@pytest.mark.parametrize(
    ("cluster", "template", "place"),
    [
        ([set_to("photos", "cluster_name")], [], "cluster_name"),
        (RENAMED, [], "cluster_name"),
        ([set_to("photos-worker", *PROFILE)], [], f"{TYPES}.gpu_l4_spot.node_config.IamInstanceProfile.Name"),
        (
            [],
            [set_to("photos", *IN_ROLE, 4, "Condition", "StringEquals", "ec2:ResourceTag/ray-cluster-name")],
            "cluster_name",
        ),
    ],
    ids=["name", "profiles", "one profile", "tag"],
)
def test_names_of_two_clusters_are_found(
    cluster: list[Break], template: list[Break], place: str, tmp_path: Path
) -> None:
    assert found(tmp_path, cluster, template) == [(place, "other_cluster")]


@pytest.mark.parametrize(
    "cluster",
    [
        [],
        [set_to("photos", "cluster_name"), *RENAMED],  # the stack's name is chosen when it is deployed
        [
            set_to("photos", "cluster_name"),
            *[set_to("mine", *keys) for keys in EACH],
            set_to("own", TYPES, "head", *PROFILE[2:]),
        ],
    ],
    ids=["as shipped", "renamed", "profiles of another stack"],
)
def test_names_of_one_cluster_or_of_no_stack_here_are_sound(cluster: list[Break], tmp_path: Path) -> None:
    assert found(tmp_path, cluster, []) == []


def test_google_s_cluster_is_of_no_stack(tmp_path: Path) -> None:
    assert found(tmp_path, [set_to("photos", "cluster_name")], [], GCP) == []
