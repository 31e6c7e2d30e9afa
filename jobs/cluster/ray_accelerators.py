"""What kind of GPU a node type promises to the autoscaler, and what its machine has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.accelerators import model_of_accelerator, model_of_aws_instance, model_of_gcp_machine
from jobs.cluster.findings import Finding, at, listing, mapping, reach

_RESOURCE = "accelerator_type:"
_LABEL = "ray.io/accelerator-type"
# By which pods choose their nodes' GPU: NVIDIA's feature discovery, GKE.
_PRODUCT_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")


def check_accelerators(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a type promises a kind of GPU that its machine lacks.

    The autoscaler starts such a node for a job that asks for the kind (`--accelerator-type`, `--label`), the node turns
    out to have another, and the next one is started.
    """
    for name, node_type in prepared["available_node_types"].items():
        place = at("available_node_types", name)
        has = built_in_model(prepared["provider"]["type"], mapping(node_type.get("node_config")))
        yield from _broken_promises(place, node_type, has)


def check_group_accelerators(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a worker group of KubeRay promises a kind of GPU that the nodes it selects lack."""
    selector = mapping(reach(group, "template", "spec", "nodeSelector"))
    for key in _PRODUCT_LABELS:
        if isinstance(product := selector.get(key), str):
            yield from _broken_promises(place, group, model_of_accelerator(product))


def _broken_promises(place: str, promises: dict[str, Any], has: str | None) -> Iterator[Finding]:
    for where, said in _promises(place, promises):
        # Only the model: names such as A100-40G and A100-80G say more than a machine's family does.
        if has and said.partition("-")[0] != has.partition("-")[0]:
            yield Finding(
                where,
                "accelerator_type",
                f"promises {said}, and the machine has {has}: a job that asks for {said} never gets its workers",
            )


def built_in_model(provider: str, node_config: dict[str, Any]) -> str | None:
    """Ray's name for a node's GPUs; None where there is none, or it is not known here."""
    if provider == "aws":
        instance = node_config.get("InstanceType")
        return model_of_aws_instance(instance) if isinstance(instance, str) else None
    if provider == "gcp":
        attached = [mapping(each).get("acceleratorType") for each in listing(node_config.get("guestAccelerators"))]
        if attached and isinstance(attached[0], str):
            return model_of_accelerator(attached[0])
        machine = node_config.get("machineType")
        return model_of_gcp_machine(machine) if isinstance(machine, str) else None
    return None


def _promises(place: str, node_type: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for resource in mapping(node_type.get("resources")):
        if str(resource).startswith(_RESOURCE):
            yield at(place, "resources", resource), str(resource).removeprefix(_RESOURCE)
    label = mapping(node_type.get("labels")).get(_LABEL)
    if label is not None:
        yield at(place, "labels", _LABEL), str(label)
