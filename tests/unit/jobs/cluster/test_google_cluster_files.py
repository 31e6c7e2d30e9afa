"""Broken copies of the cluster file for Google Cloud: each fault of provider and nodes is found, at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import GCP, Break, documents, found_in_copy, set_to, without

from jobs.cluster.validate import validate_file

TYPES = "available_node_types"
L4 = (TYPES, "gpu_l4_spot")
NODE = (*L4, "node_config")
HEAD_NODE = (TYPES, "head", "node_config")
SPOT_NODE = f"{TYPES}.gpu_l4_spot.node_config"

ON_GCP: dict[str, tuple[list[Break], tuple[str, str]]] = {
    "disk that does not go with the machine": (
        [without(*NODE, "disks", 0, "initializeParams", "diskType")],
        (f"{TYPES}.gpu_l4_spot.node_config.disks[0].initializeParams.diskType", "unknown_value"),
    ),
    "another accelerator": (
        [
            set_to("n1-standard-8", *NODE, "machineType"),
            set_to([{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}], *NODE, "guestAccelerators"),
        ],
        (f'{TYPES}.gpu_l4_spot.labels["ray.io/accelerator-type"]', "accelerator_type"),
    ),
    "wrong key of Compute Engine": (
        [set_to("x", *NODE, "machinetype")],
        (f"{TYPES}.gpu_l4_spot.node_config.machinetype", "unknown_key"),
    ),
    "scheduling as a list": (
        [set_to([{"preemptible": True}], *NODE, "scheduling")],
        (f"{TYPES}.gpu_l4_spot.node_config.scheduling", "wrong_type"),
    ),
    "GPU that would be moved": (
        [without(*NODE, "scheduling", "onHostMaintenance")],
        (f"{TYPES}.gpu_l4_spot.node_config.scheduling.onHostMaintenance", "unknown_value"),
    ),
    "GPU that is not attached": (
        [without(TYPES, "gpu_t4_spot", "node_config", "guestAccelerators")],
        (f"{TYPES}.gpu_t4_spot.resources.GPU", "gpu_unsatisfiable"),
    ),
    "GPU that is not said": (
        [without(*L4, "resources", "GPU")],
        (f"{TYPES}.gpu_l4_spot.resources", "gpu_unsatisfiable"),
    ),
    "default network": (
        [without(*NODE, "networkInterfaces")],
        (f"{TYPES}.gpu_l4_spot.node_config.networkInterfaces", "open_network"),
    ),
    "default network, named": (
        [set_to("regions/us-central1/subnetworks/default", *NODE, "networkInterfaces", 0, "subnetwork")],
        (f"{TYPES}.gpu_l4_spot.node_config.networkInterfaces[0].subnetwork", "open_network"),
    ),
    "Ray's account": (
        [without(*NODE, "serviceAccounts")],
        (f"{TYPES}.gpu_l4_spot.node_config.serviceAccounts", "broad_role"),
    ),
    "credentials": (
        [set_to({"type": "service_account", "credentials": "{}"}, "provider", "gcp_credentials")],
        ("provider.gcp_credentials", "secret"),
    ),
    "head on spot": (
        [set_to({"provisioningModel": "SPOT"}, *HEAD_NODE, "scheduling")],
        (f"{TYPES}.head.node_config", "head_on_spot"),
    ),
    "head that is preemptible": (
        [set_to({"preemptible": True}, *HEAD_NODE, "scheduling")],
        (f"{TYPES}.head.node_config", "head_on_spot"),
    ),
    "label of spot without spot": (
        [set_to("STANDARD", *NODE, "scheduling", "provisioningModel")],
        (f"{TYPES}.gpu_l4_spot.labels.hdrfleet-market", "market"),
    ),
    "market under a wrong key": (
        [set_to("SPOT", *NODE, "scheduling", "provisionningModel")],
        (f"{SPOT_NODE}.scheduling.provisionningModel", "unknown_key"),
    ),
    "market that is not there": (
        [set_to("SPOTT", *NODE, "scheduling", "provisioningModel")],
        (f"{SPOT_NODE}.scheduling.provisioningModel", "unknown_value"),
    ),
    "flag that is text": (
        [set_to("true", *NODE, "scheduling", "preemptible")],
        (f"{SPOT_NODE}.scheduling.preemptible", "wrong_type"),
    ),
    "disk under a wrong key": (
        [set_to(150, *NODE, "disks", 0, "initializeParams", "diskSizeGB")],
        (f"{SPOT_NODE}.disks[0].initializeParams.diskSizeGB", "unknown_key"),
    ),
    "disk of a wrong kind": ([set_to("x", *NODE, "disks", 0, "type")], (f"{SPOT_NODE}.disks[0].type", "unknown_value")),
    "disk whose size is no number": (
        [set_to(True, *NODE, "disks", 0, "initializeParams", "diskSizeGb")],
        (f"{SPOT_NODE}.disks[0].initializeParams.diskSizeGb", "wrong_type"),
    ),
    "disk of another zone": (
        [set_to("us-central1-b", "provider", "availability_zone")],
        (f"{SPOT_NODE}.disks[0].initializeParams.diskType", "unknown_value"),
    ),
    "network of another region": (
        [set_to("europe-west1", "provider", "region")],
        (f"{SPOT_NODE}.networkInterfaces[0].subnetwork", "unknown_value"),
    ),
    "address under a wrong key": (
        [set_to([], *NODE, "networkInterfaces", 0, "accessConfig")],
        (f"{SPOT_NODE}.networkInterfaces[0].accessConfig", "unknown_key"),
    ),
    "address of a wrong kind": (
        [set_to("NAT", *NODE, "networkInterfaces", 0, "accessConfigs", 0, "type")],
        (f"{SPOT_NODE}.networkInterfaces[0].accessConfigs[0].type", "unknown_value"),
    ),
    "account under a wrong key": (
        [set_to("x", *NODE, "serviceAccounts", 0, "mail")],
        (f"{SPOT_NODE}.serviceAccounts[0].mail", "unknown_key"),
    ),
    "account without a name": (
        [without(*NODE, "serviceAccounts", 0, "email")],
        (f"{SPOT_NODE}.serviceAccounts[0].email", "missing_key"),
    ),
    "account of the whole project": (
        [set_to("123456-compute@developer.gserviceaccount.com", *NODE, "serviceAccounts", 0, "email")],
        (f"{SPOT_NODE}.serviceAccounts[0].email", "broad_role"),
    ),
    "account without scopes": (
        [without(*NODE, "serviceAccounts", 0, "scopes")],
        (f"{SPOT_NODE}.serviceAccounts[0].scopes", "missing_key"),
    ),
    "scope that is none": (
        [set_to(["https://googleapis.com/auth/x"], *NODE, "serviceAccounts", 0, "scopes")],
        (f"{SPOT_NODE}.serviceAccounts[0].scopes[0]", "unknown_value"),
    ),
    "scope that cannot write outputs": (
        [set_to(["https://www.googleapis.com/auth/devstorage.read_only"], *NODE, "serviceAccounts", 0, "scopes")],
        (f"{SPOT_NODE}.serviceAccounts[0].scopes", "narrow_scope"),
    ),
    "spot machine that is stopped": (
        [set_to("STOP", *NODE, "scheduling", "instanceTerminationAction")],
        (f"{SPOT_NODE}.scheduling.instanceTerminationAction", "spot_returns"),
    ),
    "spot machine that is stopped by default": (
        [without(*NODE, "scheduling", "instanceTerminationAction")],
        (f"{SPOT_NODE}.scheduling.instanceTerminationAction", "spot_returns"),
    ),
    "spot machine that starts again": (
        [set_to(True, *NODE, "scheduling", "automaticRestart")],
        (f"{SPOT_NODE}.scheduling.automaticRestart", "spot_returns"),
    ),
    "serial console": (
        [set_to({"items": [{"key": "serial-port-enable", "value": "TRUE"}]}, *NODE, "metadata")],
        (f"{SPOT_NODE}.metadata.items[0]", "public_port"),
    ),
    "serial console by a number": (
        [set_to({"items": [{"key": "serial-port-enable", "value": 1}]}, *NODE, "metadata")],
        (f"{SPOT_NODE}.metadata.items[0].value", "wrong_type"),
    ),
    "metadata as plain keys": (
        [set_to({"serial-port-enable": True}, *NODE, "metadata")],
        (f"{SPOT_NODE}.metadata.serial-port-enable", "unknown_key"),
    ),
    "no project": ([set_to(None, "provider", "project_id")], ("provider.project_id", "missing_key")),
}


@pytest.mark.parametrize("name", ON_GCP)
def test_fault_on_google_cloud_is_found_at_its_place(name: str, tmp_path: Path) -> None:
    breaks, expected = ON_GCP[name]
    assert expected in found_in_copy(GCP, tmp_path, *breaks)


def test_secure_boot_beside_a_gpu_is_said(tmp_path: Path) -> None:
    """Whether the image's driver is signed cannot be seen from here: no finding, and not nothing."""
    (cluster,) = documents(GCP)
    for node_type in cluster["available_node_types"].values():
        node_type["node_config"]["shieldedInstanceConfig"]["enableSecureBoot"] = True
    path = tmp_path / GCP.name
    path.write_text(yaml.safe_dump(cluster))
    report = validate_file(path, [])
    with_gpus = [name for name in cluster["available_node_types"] if "head" not in name]
    assert report.is_sound
    said = [note.split(".")[1] for note in report.notes if ".enableSecureBoot: is on" in note]
    assert sorted(said) == sorted(with_gpus)


@pytest.mark.parametrize("value", ["", "0", "false", "FALSE"])
def test_serial_console_that_stays_shut_is_sound(value: str, tmp_path: Path) -> None:
    metadata = {"items": [{"key": "serial-port-enable", "value": value}]}
    assert found_in_copy(GCP, tmp_path, set_to(metadata, *NODE, "metadata")) == []


@pytest.mark.parametrize("scope", ["devstorage.read_write", "devstorage.full_control", "cloud-platform"])
def test_scope_that_can_write_outputs_is_sound(scope: str, tmp_path: Path) -> None:
    scopes = ["https://www.googleapis.com/auth/logging.write", f"https://www.googleapis.com/auth/{scope}"]
    assert found_in_copy(GCP, tmp_path, set_to(scopes, *NODE, "serviceAccounts", 0, "scopes")) == []


@pytest.mark.parametrize("scheduling", [{"preemptible": True}, {"provisioningModel": "SPOT"}])
def test_google_has_two_words_for_spot(scheduling: dict[str, Any], tmp_path: Path) -> None:
    def only_one(document: Any) -> None:
        for node_type in document[TYPES].values():
            node_type["node_config"]["scheduling"] = {"onHostMaintenance": "TERMINATE"}
            del node_type["labels"]["hdrfleet-market"]
            node_type.pop("priority", None)
        spot = {**scheduling, "instanceTerminationAction": "DELETE"}
        document[TYPES]["gpu_l4_on_demand"]["node_config"]["scheduling"].update(spot)
        del document["worker_start_ray_commands"][2]

    assert found_in_copy(GCP, tmp_path, only_one) == [("worker_start_ray_commands", "no_node_agent")]
