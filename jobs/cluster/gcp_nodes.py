"""What Ray ignores in a cluster file for Google Cloud: `provider`, and `node_config`, which instances.insert gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.aws_nodes import COMMON_PROVIDER_KEYS
from jobs.cluster.findings import Finding, at, listing, mapping, reach
from jobs.cluster.ray_nodes import built_in_gpus
from jobs.cluster.ray_yaml import unknown_keys

_GCP_PROVIDER_KEYS = (*COMMON_PROVIDER_KEYS, "project_id", "gcp_credentials")
# The fields of a Compute Engine instance that may be given when it is made (API v1, instances.insert), and the one that
# Ray takes out itself.
_INSTANCE_KEYS = (
    "advancedMachineFeatures",
    "canIpForward",
    "confidentialInstanceConfig",
    "deletionProtection",
    "description",
    "disks",
    "displayDevice",
    "guestAccelerators",
    "hostname",
    "instanceEncryptionKey",
    "keyRevocationActionType",
    "labels",
    "machineType",
    "metadata",
    "minCpuPlatform",
    "name",
    "networkInterfaces",
    "networkPerformanceConfig",
    "params",
    "privateIpv6GoogleAccess",
    "reservationAffinity",
    "resourcePolicies",
    "scheduling",
    "serviceAccounts",
    "shieldedInstanceConfig",
    "shieldedInstanceIntegrityPolicy",
    "sourceInstanceTemplate",
    "sourceMachineImage",
    "tags",
)
_STANDARD_DISK = "pd-standard"
# What machine families take instead (Compute Engine, "Persistent Disk" and "Hyperdisk": supported machine types).
_DISKS = {
    re.compile(r"(?:g2|a3|c3d?|h3)-"): "pd-balanced",
    re.compile(r"(?:a4|c4[ad]?|n4d?|x4|m4)-"): "hyperdisk-balanced",
}
_TYPES_OF = {
    "disks": list,
    "guestAccelerators": list,
    "labels": dict,
    "machineType": str,
    "metadata": dict,
    "networkInterfaces": list,
    "scheduling": dict,
    "serviceAccounts": list,
    "tags": dict,
}


def check_provider(prepared: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with provider and node_config of a prepared file, and what an instance template may hide."""
    provider = prepared["provider"]
    findings = [*unknown_keys("provider", provider, _GCP_PROVIDER_KEYS)]
    if not provider.get("project_id"):
        findings.append(Finding("provider.project_id", "missing_key", "Ray needs the project"))
    if "gcp_credentials" in provider:
        findings.append(
            Finding("provider.gcp_credentials", "secret", "credentials stand in the file; use application default ones")
        )
    notes = []
    for name, node_type in prepared["available_node_types"].items():
        place = at("available_node_types", name, "node_config")
        node = node_type["node_config"]
        findings += unknown_keys(place, node, _INSTANCE_KEYS)
        findings += _check_types(place, node)
        if "sourceInstanceTemplate" in node:
            notes.append(f"{place}: what its instance template adds is not checked")
            continue
        findings += _check_node(place, node)
        if built_in_gpus("gcp", node) and reach(node, "shieldedInstanceConfig", "enableSecureBoot") is True:
            notes.append(
                f"{at(place, 'shieldedInstanceConfig', 'enableSecureBoot')}: is on; whether the image's GPU driver "
                "is signed, without which it is not loaded, is not checked"
            )
    return findings, notes


def _check_types(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    for key, wanted in _TYPES_OF.items():
        if key in node and not isinstance(node[key], wanted):
            got = type(node[key]).__name__
            yield Finding(at(place, key), "wrong_type", f"Compute Engine takes a {wanted.__name__} here, not a {got}")


def _check_node(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    if "machineType" not in node:
        yield Finding(at(place, "machineType"), "missing_key", "Ray needs it")
    if not node.get("networkInterfaces"):
        yield Finding(
            at(place, "networkInterfaces"),
            "open_network",
            "is not set: the node is in the project's first network, where by default the whole world gets in by SSH",
        )
    for index, interface in enumerate(listing(node.get("networkInterfaces"))):
        for key in ("network", "subnetwork"):
            if str(mapping(interface).get(key)).rpartition("/")[2] == "default":
                yield Finding(
                    at(place, "networkInterfaces", index, key),
                    "open_network",
                    "is the project's default network, where the whole world gets in by SSH; make one of your own",
                )
    if not node.get("serviceAccounts"):
        yield Finding(
            at(place, "serviceAccounts"),
            "broad_role",
            "is not set: Ray gives such a head an account that may administer all objects of the project, and such a "
            "worker reaches no bucket",
        )
    if built_in_gpus("gcp", node) and reach(node, "scheduling", "onHostMaintenance") != "TERMINATE":
        yield Finding(
            at(place, "scheduling", "onHostMaintenance"),
            "unknown_value",
            "must be TERMINATE: Compute Engine starts no machine with a GPU otherwise",
        )
    yield from _check_disks(at(place, "disks"), node)
    for key, value in mapping(node.get("metadata")).items():
        if key == "serial-port-enable" and value:
            yield Finding(at(place, "metadata", key), "public_port", "opens the serial console to the network")


def _check_disks(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    """Compute Engine's default disk, pd-standard, goes with older machine families alone."""
    machine = str(node.get("machineType")).rpartition("/")[2]
    better = next((disk for family, disk in _DISKS.items() if family.match(machine)), None)
    if better is None:
        return
    for index, disk in enumerate(listing(node.get("disks"))):
        kind = str(reach(disk, "initializeParams", "diskType") or _STANDARD_DISK).rpartition("/")[2]
        if kind == _STANDARD_DISK and not mapping(disk).get("source"):
            yield Finding(
                at(place, index, "initializeParams", "diskType"),
                "unknown_value",
                f"is {_STANDARD_DISK}, Compute Engine's default, which {machine} does not take; write {better}",
            )
