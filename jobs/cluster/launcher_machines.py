"""The machines of a Ray cluster file: where they are, what they boot, whose rights they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, number, reach

_TYPES = "available_node_types"
_AMI = re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_FAMILY = re.compile(r"(?:^|/)family/")
# EC2: a large has 2 vCPUs, an xlarge 4, an Nxlarge 4 N. Smaller sizes differ from family to family.
_AWS_SIZE = re.compile(r"[^.]+\.(?:(large)|(\d*)xlarge)")
_VCPUS_OF_LARGE, _VCPUS_OF_XLARGE = 2, 4
_GCP_SIZE = re.compile(r"(?:\w+-)?(?:custom|standard|high(?:mem|cpu)|(?:mega|ultra)mem)-(\d+)(?:-.*)?")


def check_machines(prepared: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with the machines of a prepared file for AWS or Google Cloud, and what is odd about them."""
    provider = mapping(prepared.get("provider"))
    cloud, types = str(provider.get("type")), mapping(prepared.get(_TYPES))
    findings, notes = [*_check_zones(provider)], []
    findings += _check_rights(types, str(prepared.get("head_node_type")))
    for name, node_type in types.items():
        place, node = at(_TYPES, name), mapping(mapping(node_type).get("node_config"))
        findings += _check_ec2(at(place, "node_config"), node) if cloud == "aws" else ()
        findings += _check_source_images(at(place, "node_config", "disks"), node) if cloud == "gcp" else ()
        offered, has = number(reach(node_type, "resources", "CPU")), vcpus_of(cloud, node)
        if has is not None and offered > has:
            notes.append(f"{at(place, 'resources', 'CPU')}: offers {offered:g}, and the machine has {has}")
    return findings, notes


def vcpus_of(cloud: str, node: dict[str, Any]) -> int | None:
    """How many processors a machine of `node_config` has by its name; None where the name does not say."""
    if cloud == "aws":
        match = _AWS_SIZE.fullmatch(str(node.get("InstanceType")))
        if match is None:
            return None
        return _VCPUS_OF_LARGE if match[1] else _VCPUS_OF_XLARGE * int(match[2] or 1)
    match = _GCP_SIZE.fullmatch(str(node.get("machineType")).rpartition("/")[2])
    return int(match[1]) if match else None


def _check_zones(provider: dict[str, Any]) -> Iterator[Finding]:
    """Zones are named after their region on both clouds: us-east-1a, us-central1-a. AWS takes several, by commas."""
    region, zones = provider.get("region"), provider.get("availability_zone")
    if not isinstance(region, str) or not isinstance(zones, str):
        return
    for zone in (each.strip() for each in zones.split(",")):
        if not zone.startswith(region) or zone == region:
            yield Finding("provider.availability_zone", "unknown_value", f"{zone or 'nothing'} is no zone of {region}")


def _check_rights(types: dict[str, Any], head: str) -> Iterator[Finding]:
    """The head's rights start and end machines; whoever takes over a worker must not have them."""
    of_head = _identities("", mapping(mapping(types.get(head)).get("node_config")))
    names_of_head = {name for _, name in of_head}
    for name, node_type in types.items():
        if name == head:
            continue
        for place, identity in _identities(at(_TYPES, name, "node_config"), mapping(node_type.get("node_config"))):
            if identity in names_of_head:
                yield Finding(
                    place, "broad_role", f"is {identity}, as for the head, which may start machines; use one of its own"
                )


def _identities(place: str, node: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a node_config names an instance profile (AWS) or service accounts (Google), and which."""
    found = []
    for key in ("Name", "Arn"):
        profile = reach(node, "IamInstanceProfile", key)
        if isinstance(profile, str):
            found.append((at(place, "IamInstanceProfile", key), profile.rpartition("/")[2]))
    for index, account in enumerate(listing(node.get("serviceAccounts"))):
        email = mapping(account).get("email")
        if isinstance(email, str):
            found.append((at(place, "serviceAccounts", index, "email"), email))
    return found


def _check_ec2(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    image = node.get("ImageId")
    if isinstance(image, str) and image.startswith("resolve:ssm:"):
        yield Finding(
            at(place, "ImageId"), "image_unpinned", f"{image} is another image from day to day; write what it is now"
        )
    elif isinstance(image, str) and not _AMI.fullmatch(image):
        yield Finding(at(place, "ImageId"), "unknown_value", f"{image} is no image's id; EC2 takes ami-... alone")
    for index, disk in enumerate(listing(node.get("BlockDeviceMappings"))):
        ebs = mapping(mapping(disk).get("Ebs"))
        if ebs and ebs.get("Encrypted") is not True:
            yield Finding(
                at(place, "BlockDeviceMappings", index, "Ebs", "Encrypted"),
                "unencrypted_disk",
                "is not true: Ray's logs and what it spills lie on the disk as they are",
            )


def _check_source_images(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    for index, disk in enumerate(listing(node.get("disks"))):
        image = str(reach(disk, "initializeParams", "sourceImage"))
        if _FAMILY.search(image):
            yield Finding(
                at(place, index, "initializeParams", "sourceImage"),
                "image_unpinned",
                f"{image} is another image from day to day; write the name of what it is now",
            )
