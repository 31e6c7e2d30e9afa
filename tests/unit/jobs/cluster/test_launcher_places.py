"""Broken copies of the launcher's files: zones, images, disks, rights and processors of the machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster_files import AWS, GCP, Break, broken_copy, found_in_copy, set_to

from jobs.cluster.launcher_machines import vcpus_of
from jobs.cluster.validate import validate_file

TYPES = "available_node_types"
L4 = (TYPES, "gpu_l4_spot")
NODE = (*L4, "node_config")
AT_NODE = ".".join(NODE)
DISK = (*NODE, "BlockDeviceMappings", 0, "Ebs")
SOURCE = (*NODE, "disks", 0, "initializeParams", "sourceImage")
AT_SOURCE = f"{AT_NODE}.disks[0].initializeParams.sourceImage"

FAULTS: dict[str, tuple[Path, Break, tuple[str, str]]] = {
    "zone of another region": (
        AWS,
        set_to("us-east-1a, eu-west-1b", "provider", "availability_zone"),
        ("provider.availability_zone", "unknown_value"),
    ),
    "region for a zone": (
        AWS,
        set_to("us-east-1", "provider", "availability_zone"),
        ("provider.availability_zone", "unknown_value"),
    ),
    "comma too many": (
        AWS,
        set_to("us-east-1a,", "provider", "availability_zone"),
        ("provider.availability_zone", "unknown_value"),
    ),
    "zone of another region of Google's": (
        GCP,
        set_to("europe-west4-a", "provider", "availability_zone"),
        ("provider.availability_zone", "unknown_value"),
    ),
    "image by name": (
        AWS,
        set_to("Deep Learning Base AMI", *NODE, "ImageId"),
        (f"{AT_NODE}.ImageId", "unknown_value"),
    ),
    "image by a parameter": (
        AWS,
        set_to("resolve:ssm:/aws/service/x/latest/ami-id", *NODE, "ImageId"),
        (f"{AT_NODE}.ImageId", "image_unpinned"),
    ),
    "disk in the clear": (
        AWS,
        set_to(False, *DISK, "Encrypted"),
        (f"{AT_NODE}.BlockDeviceMappings[0].Ebs.Encrypted", "unencrypted_disk"),
    ),
    "disk that says nothing of it": (
        AWS,
        set_to({"VolumeSize": 150}, *DISK),
        (f"{AT_NODE}.BlockDeviceMappings[0].Ebs.Encrypted", "unencrypted_disk"),
    ),
    "worker with the head's profile": (
        AWS,
        set_to({"Name": "hdrfleet-head"}, *NODE, "IamInstanceProfile"),
        (f"{AT_NODE}.IamInstanceProfile.Name", "broad_role"),
    ),
    "worker with the head's profile in full": (
        AWS,
        set_to({"Arn": "arn:aws:iam::123456789012:instance-profile/hdrfleet-head"}, *NODE, "IamInstanceProfile"),
        (f"{AT_NODE}.IamInstanceProfile.Arn", "broad_role"),
    ),
    "worker with the head's account": (
        GCP,
        set_to("hdrfleet-head@my-project.iam.gserviceaccount.com", *NODE, "serviceAccounts", 0, "email"),
        (f"{AT_NODE}.serviceAccounts[0].email", "broad_role"),
    ),
    "image by its family": (
        GCP,
        set_to("projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204", *SOURCE),
        (AT_SOURCE, "image_unpinned"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_at_its_place(name: str, tmp_path: Path) -> None:
    path, fault, expected = FAULTS[name]
    assert expected in found_in_copy(path, tmp_path, fault)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (AWS, set_to("us-east-1-bos-1a", "provider", "availability_zone")),
        (AWS, set_to("ami-01234567", *NODE, "ImageId")),
        (AWS, set_to({"NoDevice": "", "DeviceName": "/dev/sdb"}, *NODE, "BlockDeviceMappings", 0)),
    ],
    ids=["local zone", "short id", "no device"],
)
def test_unusual_file_is_sound(path: Path, fault: Break, tmp_path: Path) -> None:
    assert found_in_copy(path, tmp_path, fault) == []


@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
def test_more_cores_than_the_machine_has_are_noted(path: Path, tmp_path: Path) -> None:
    copy = broken_copy(path, tmp_path, set_to(9, *L4, "resources", "CPU"))
    notes = validate_file(copy, []).notes
    assert any(note == f"{'.'.join(L4)}.resources.CPU: offers 9, and the machine has 8" for note in notes)
    assert not any("resources.CPU" in note for note in validate_file(path, []).notes)


@pytest.mark.parametrize(
    ("cloud", "node", "expected"),
    [
        ("aws", {"InstanceType": "m7i.large"}, 2),
        ("aws", {"InstanceType": "g6.xlarge"}, 4),
        ("aws", {"InstanceType": "p5.48xlarge"}, 192),
        ("aws", {"InstanceType": "t3.medium"}, None),
        ("aws", {"InstanceType": "g4dn.metal"}, None),
        ("aws", {}, None),
        ("gcp", {"machineType": "n1-standard-8"}, 8),
        ("gcp", {"machineType": "zones/us-central1-a/machineTypes/g2-standard-96"}, 96),
        ("gcp", {"machineType": "n2-custom-6-20480"}, 6),
        ("gcp", {"machineType": "custom-6-20480"}, 6),
        ("gcp", {"machineType": "c3-standard-8-lssd"}, 8),
        ("gcp", {"machineType": "a2-highgpu-1g"}, None),
        ("gcp", {}, None),
    ],
)
def test_processors_by_the_machine_name(cloud: str, node: dict[str, Any], expected: int | None) -> None:
    assert vcpus_of(cloud, node) == expected
