"""Connecting to Ray, or starting it in place, and deciding what one worker asks of it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray._private import ray_constants

from pipeline.config import ConversionConfig, ExecutionConfig, PlacementConfig
from pipeline.errors import ConfigError, first_line
from pipeline.execution.address import check_address, ray_address
from pipeline.execution.kept_handler import keeping_handler
from pipeline.execution.ray_outlook import gpu_outlook
from pipeline.execution.token_file import make_token, warn_of_loose_token

_OBJECT_STORE_BYTES = 256 * 2**20  # only weights, keys and statistics cross Ray
_NUM_TRIES = 2


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What each worker reserves and where it may run, and how many there are, or may be where they come and go.

    `why` says for a person what decided between GPUs and cores, where the nodes that are there did not.
    """

    num_workers: int
    num_workers_on_node: int
    num_cpus: float
    num_gpus: float
    accelerator_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    why: str = field(default="", compare=False)

    def describe(self) -> str:
        """The request in words, for messages."""
        text = f"{self.num_cpus:g} CPU"
        if self.num_gpus:
            text += f" and {self.num_gpus:g} GPU"
        if self.accelerator_type:
            text += f" of type {self.accelerator_type}"
        if self.labels:
            text += " on a node with " + ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return text


@contextmanager
def ray_session(execution: ExecutionConfig) -> Iterator[None]:
    """Use the cluster at the given address, or start Ray on this machine (loopback only) and stop it afterwards.

    An existing connection of this process is used and left alone. A token that the start needs is made for its owner
    alone; one that others can read is warned of. Raises ConfigError when no cluster answers.
    """
    address = ray_address(execution)
    check_address(address)  # where work came before this, once more: it may have taken its time
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    on_terminate = signal.getsignal(signal.SIGTERM)
    if not address:
        make_token()
    warn_of_loose_token()
    try:
        if address:
            with _few_tries():
                ray.init(address=address, **common)
        else:
            with _loopback_only():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    **common,
                )
    except Exception as error:  # a raylet that does not come up in time is a bare Exception of Ray's
        target = f"at {address}" if address else "on this machine"
        raise ConfigError(f"cannot use Ray {target}: {first_line(error)}") from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler would abort this process instead of stopping the job.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        with keeping_handler(signal.SIGTERM):
            ray.shutdown()


def head_address() -> str | None:
    """Where the head of the cluster that this process uses is asked, host:port; None behind Ray Client (ray://)."""
    return None if ray.util.client.ray.is_connected() else str(ray.get_runtime_context().gcs_address)


@contextmanager
def _few_tries() -> Iterator[None]:
    """Let Ray ask a head that does not answer twice, for 41 s each, and not twenty times."""
    before = ray_constants.NUM_REDIS_GET_RETRIES
    ray_constants.NUM_REDIS_GET_RETRIES = _NUM_TRIES
    try:
        yield
    finally:
        ray_constants.NUM_REDIS_GET_RETRIES = before


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Have Ray start on loopback: it replaces 127.0.0.1 by the machine's own address, and then listens everywhere.

    It leaves it alone where it has no clusters (macOS, Windows), which is what it is told here, by the variable for the
    processes that it starts, and by the constant that it read from it for this one.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    variable = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]
        if variable is not None:
            os.environ[name] = variable


def plan_resources(config: ConversionConfig) -> WorkerResources:
    """Decide the number of workers and what each reserves, so that all of them fit on the nodes there are.

    With GPUs: one per worker and one worker per GPU, unless `workers_per_gpu` says otherwise. Without: as many cores
    per worker as let the wanted number of workers fit; by default as many workers as nodes, because torch uses all
    cores for one image and a second replica costs its memory. Where workers come and go (`scaling`), the number is the
    largest one, and nodes that fit need not be there yet. Raises ConfigError for a GPU, type or label that no node has
    otherwise, and where no node offers a core. Where nobody said whether GPUs are meant and no node has one, nodes that
    an autoscaler starts count.
    """
    execution, placement = config.execution, config.execution.placement
    nodes = _fitting_nodes(placement)
    gpus = [(int(node["GPU"]), node.get("CPU", 0.0)) for node in nodes if node.get("GPU", 0) >= 1]
    wants_gpu = placement.asks_for_gpu or config.inference.device.startswith("cuda")
    if execution.scaling is None:
        _require_nodes(placement, any_node=bool(nodes), any_gpu=bool(gpus), wants_gpu=wants_gpu)
    why = ""
    if execution.scaling is None and not gpus and not any(node.get("CPU", 0) > 0 for node in nodes):
        # An actor that asks for nothing would be placed on the head.
        raise ConfigError(
            "no node of the cluster offers a CPU or a GPU; give --max-workers if an autoscaler brings nodes"
        )
    if execution.scaling is not None and config.inference.device == "auto" and not (wants_gpu or gpus):
        wants_gpu, why = gpu_outlook(placement.labels)
    if wants_gpu or (gpus and config.inference.device != "cpu"):
        planned = _gpu_resources(gpus, execution, placement.workers_per_gpu or 1)
    else:
        planned = _cpu_resources([node.get("CPU", 0.0) for node in nodes], _most(execution))
        if execution.scaling is not None:
            # A head that offers no core says nothing of the cores of nodes that come.
            num_cpus = planned.num_cpus if planned.num_cpus >= 1 else 1.0
            planned = replace(planned, num_workers=execution.scaling.max_workers, num_cpus=num_cpus)
    return replace(planned, accelerator_type=placement.accelerator_type, labels=placement.labels, why=why)


def _most(execution: ExecutionConfig) -> int | None:
    return execution.scaling.max_workers if execution.scaling else execution.num_workers


def _fitting_nodes(placement: PlacementConfig) -> list[dict[str, Any]]:
    """The resources of the living nodes that have the labels and the type of GPU."""
    needed = f"accelerator_type:{placement.accelerator_type}" if placement.accelerator_type else None
    return [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"]
        and placement.labels.items() <= node.get("Labels", {}).items()
        and (needed is None or needed in node["Resources"])
    ]


def _require_nodes(placement: PlacementConfig, *, any_node: bool, any_gpu: bool, wants_gpu: bool) -> None:
    hint = "drop the option, or give --max-workers if an autoscaler brings such nodes"
    if (placement.labels or placement.accelerator_type) and not any_node:
        asked = [f"type {placement.accelerator_type}"] if placement.accelerator_type else []
        asked += [f"{key}={value}" for key, value in placement.labels.items()]
        raise ConfigError(f"no node of the cluster has {', '.join(asked)}; {hint}")
    if wants_gpu and placement.asks_for_gpu and not any_gpu:
        raise ConfigError(f"workers per GPU were asked for, but Ray sees no GPU; {hint}")
    if wants_gpu and not any_gpu:
        raise ConfigError("device cuda was asked for, but Ray sees no GPU; use --device auto or cpu")


def _gpu_resources(gpus: list[tuple[int, float]], execution: ExecutionConfig, per_gpu: int) -> WorkerResources:
    """Shares of the cards there are; a card is shared by as many workers as the user said, whatever node it is in."""
    num_workers = per_gpu * sum(number for number, _ in gpus)
    cpus_per_worker = min((cpus / number / per_gpu for number, cpus in gpus), default=1.0)
    if execution.scaling is not None:
        num_workers = execution.scaling.max_workers
    return WorkerResources(
        min(execution.num_workers or num_workers, num_workers),
        per_gpu,
        num_cpus=min(1.0, cpus_per_worker),
        num_gpus=1 if per_gpu == 1 else 1 / per_gpu,
    )


def _cpu_resources(cpus: list[float], wanted: int | None) -> WorkerResources:
    target = wanted or max(1, sum(number >= 1 for number in cpus))
    for num_cpus in range(max(map(int, cpus), default=0), 0, -1):
        fitting = [int(number // num_cpus) for number in cpus]
        if sum(fitting) >= target or num_cpus == 1:
            num_workers = min(target, sum(fitting))
            return WorkerResources(num_workers, min(num_workers, max(fitting)), num_cpus=num_cpus, num_gpus=0)
    return WorkerResources(1, 1, num_cpus=max(cpus, default=0.0), num_gpus=0)
