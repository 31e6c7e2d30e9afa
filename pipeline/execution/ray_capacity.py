"""Whether a worker that waits for a place can ever get one: on a node that is there, or on one that can be started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_status import cluster_status, refused_requests, starts_nodes

# How far apart looks at the autoscaler's state are, which cost two requests each.
CAPACITY_LOOK_S = 5.0
# Ray reckons in whole parts of a resource, so many to one; a test compares what it makes of shares of a card.
_UNITS = 10_000


@dataclass(frozen=True, slots=True)
class Capacity:
    """Totals of the nodes that are alive with their labels, and what the autoscaler says that it can never start.

    Both are resources and labels; `infeasible` is None where no autoscaler reports to the cluster. With `may_be_full`
    nodes that the autoscaler starts are up or on their way: what it says may hold for only as long as they stay.
    """

    nodes: tuple[tuple[dict[str, float], dict[str, str]], ...]
    infeasible: tuple[tuple[dict[str, float], dict[str, str]], ...] | None
    may_be_full: bool = False


class Refusal(NamedTuple):
    """Why there is no place, in one sentence; final unless one can come once others leave their nodes."""

    why: str
    is_final: bool


def read_capacity() -> Capacity | None:
    """Ask Ray; None where it does not answer at the moment, or not a driver behind Ray Client."""
    status = cluster_status()
    if status is None:
        return None
    try:
        nodes = tuple((node["Resources"], node.get("Labels", {})) for node in ray.nodes() if node["Alive"])
    except (RayError, RuntimeError):
        return None
    if not status.autoscaling_state.autoscaler_state_version:
        return Capacity(nodes, None)
    return Capacity(nodes, refused_requests(status), starts_nodes(status))


def find_refusal(wanted: WorkerResources, capacity: Capacity, who: str = "each worker") -> Refusal | None:
    """What `who` asked for and what there is, where that is no place for it; None where one is there or can come."""
    if any(_fits(wanted, *node) for node in capacity.nodes):
        return None
    there = "; ".join(sorted({_describe(resources) for resources, _ in capacity.nodes})) or "no node"
    asked = f"{who} asks for {wanted.describe()}"
    if capacity.infeasible is None:
        return Refusal(f"{asked}, which no node offers and no autoscaler starts; there are: {there}", is_final=True)
    bundle = _bundle(wanted)
    if not any(bundle == _reported(refused) and wanted.labels == labels for refused, labels in capacity.infeasible):
        return None
    otherwise = ", or for which others have to leave nodes first" if capacity.may_be_full else ""
    why = f"{asked}, which none of the autoscaler's node types offers{otherwise}; running are: {there}"
    return Refusal(why, is_final=not capacity.may_be_full)


def _bundle(wanted: WorkerResources) -> dict[str, int]:
    """What is asked for, in ten-thousandths, beyond which Ray cuts off: a seventh of a card is 1428 of them."""
    bundle = {"CPU": wanted.num_cpus, "GPU": wanted.num_gpus}
    if wanted.accelerator_type:
        bundle[f"accelerator_type:{wanted.accelerator_type}"] = 0.001
    return {name: int(amount * _UNITS) for name, amount in bundle.items() if amount}


def _reported(bundle: dict[str, float]) -> dict[str, int]:
    """What Ray says was asked for, which it has cut off, in ten-thousandths."""
    return {name: round(amount * _UNITS) for name, amount in bundle.items()}


def _fits(wanted: WorkerResources, resources: dict[str, float], labels: dict[str, str]) -> bool:
    there = _reported(resources)
    enough = all(there.get(name, 0) >= amount for name, amount in _bundle(wanted).items())
    return enough and wanted.labels.items() <= labels.items()


def _describe(resources: dict[str, Any]) -> str:
    types = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    gpus = f" and {resources['GPU']:g} GPU" if resources.get("GPU") else ""
    return f"{resources.get('CPU', 0):g} CPU{gpus}{' of type ' + types[0] if types else ''}"
