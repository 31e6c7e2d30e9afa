"""What Ray ignores in a cluster file for Google Cloud: `provider`, and `node_config`, which instances.insert gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.aws_nodes import COMMON_PROVIDER_KEYS, check_stopped_nodes
from jobs.cluster.findings import Finding, at, listing, mapping, reach
from jobs.cluster.gcp_fields import check_fields
from jobs.cluster.market import is_spot
from jobs.cluster.ray_nodes import built_in_gpus
from jobs.cluster.ray_yaml import unknown_keys

_GCP_PROVIDER_KEYS = (*COMMON_PROVIDER_KEYS, "project_id", "gcp_credentials")
_STANDARD_DISK = "pd-standard"
# What machine families take instead (Compute Engine, "Persistent Disk" and "Hyperdisk": supported machine types).
_DISKS = {
    re.compile(r"(?:g2|a3|c3d?|h3)-"): "pd-balanced",
    re.compile(r"(?:a4|c4[ad]?|n4d?|x4|m4)-"): "hyperdisk-balanced",
}
_DEFAULT_ACCOUNT = re.compile(r"default|\d+-compute@developer\.gserviceaccount\.com")
_STOPPED = "Ray stops nodes and does not delete them, and the disks of a stopped machine go on costing"
# The scopes with which a machine may write objects, by Google's names and by gcloud's.
_WRITES = re.compile(r"(?:.*/auth/)?(?:cloud-platform|devstorage\.(?:read_write|full_control)|storage-(?:rw|full))")
_SCOPE = re.compile(r"https://www\.googleapis\.com/auth/[\w.-]+|[a-z-]+")
_IN_ZONE, _IN_REGION = re.compile(r"(?:^|/)zones/([^/]+)/"), re.compile(r"(?:^|/)regions/([^/]+)/")


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
    findings += check_stopped_nodes(provider, is_default=False, outcome=_STOPPED)
    notes = []
    for name, node_type in prepared["available_node_types"].items():
        place = at("available_node_types", name, "node_config")
        node = node_type["node_config"]
        findings += check_fields(place, node)
        findings += _check_places(place, node, provider)
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
    for index, account in enumerate(map(mapping, listing(node.get("serviceAccounts")))):
        yield from _check_account(at(place, "serviceAccounts", index), account)
    if built_in_gpus("gcp", node) and reach(node, "scheduling", "onHostMaintenance") != "TERMINATE":
        yield Finding(
            at(place, "scheduling", "onHostMaintenance"),
            "unknown_value",
            "must be TERMINATE: Compute Engine starts no machine with a GPU otherwise",
        )
    yield from _check_spot(at(place, "scheduling"), node)
    yield from _check_disks(at(place, "disks"), node)
    yield from _check_metadata(at(place, "metadata"), mapping(node.get("metadata")))


def _check_account(place: str, account: dict[str, Any]) -> Iterator[Finding]:
    email, scopes = str(account.get("email") or ""), listing(account.get("scopes"))
    if not email:
        yield Finding(at(place, "email"), "missing_key", "Compute Engine needs it")
    elif _DEFAULT_ACCOUNT.fullmatch(email):
        yield Finding(
            at(place, "email"),
            "broad_role",
            "is the project's default account, which may edit all of it; make one of your own (infra/README.md)",
        )
    if not scopes:
        yield Finding(at(place, "scopes"), "missing_key", "is not set: the node gets no credentials of its account")
    for index, scope in enumerate(scopes):
        if not _SCOPE.fullmatch(str(scope)):
            yield Finding(
                at(place, "scopes", index),
                "unknown_value",
                f"{scope} is no scope; write https://www.googleapis.com/auth/cloud-platform",
            )
    if scopes and not any(_WRITES.fullmatch(str(scope)) for scope in scopes):
        yield Finding(
            at(place, "scopes"),
            "narrow_scope",
            "let the node write no object, whatever its account may do; "
            "write https://www.googleapis.com/auth/cloud-platform",
        )


def _check_spot(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    """A machine that is taken back is another's place by then; stopped, it is counted by nobody, and its disks cost."""
    if not is_spot(node):
        return
    scheduling = mapping(node.get("scheduling"))
    if scheduling.get("instanceTerminationAction") != "DELETE":
        yield Finding(
            at(place, "instanceTerminationAction"),
            "spot_returns",
            "must be DELETE: Compute Engine stops a machine that it takes back, Ray forgets it, and its disks go on "
            "costing",
        )
    if scheduling.get("automaticRestart") is True:
        yield Finding(
            at(place, "automaticRestart"),
            "spot_returns",
            "must be false: Compute Engine takes no spot machine that is to start again by itself",
        )


def _check_metadata(place: str, metadata: dict[str, Any]) -> Iterator[Finding]:
    """Metadata is written as Compute Engine does (`items`), and by people as plain keys, which it refuses."""
    entries: list[tuple[str, Any, Any]] = [(at(place, str(key)), key, value) for key, value in metadata.items()]
    for index, item in enumerate(map(mapping, listing(metadata.get("items")))):
        entries.append((at(place, "items", index), item.get("key"), item.get("value")))
    for where, key, value in entries:
        if key == "serial-port-enable" and str(value).lower() not in {"", "0", "false", "none", "no", "n"}:
            yield Finding(where, "public_port", "opens the serial console to the network")


def _check_places(place: str, node: dict[str, Any], provider: dict[str, Any]) -> Iterator[Finding]:
    """Disks are of the node's zone, subnetworks of its region."""
    zone, region = provider.get("availability_zone"), provider.get("region")
    wanted: list[tuple[str, Any, re.Pattern[str], Any]] = []
    for index, disk in enumerate(listing(node.get("disks"))):
        kind = reach(disk, "initializeParams", "diskType")
        wanted.append((at(place, "disks", index, "initializeParams", "diskType"), kind, _IN_ZONE, zone))
    for index, interface in enumerate(listing(node.get("networkInterfaces"))):
        name = mapping(interface).get("subnetwork")
        wanted.append((at(place, "networkInterfaces", index, "subnetwork"), name, _IN_REGION, region))
    for where, name, pattern, here in wanted:
        found = pattern.search(str(name))
        if found and isinstance(here, str) and found[1] != here:
            yield Finding(where, "unknown_value", f"is in {found[1]}, and the nodes are in {here} (provider)")


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
