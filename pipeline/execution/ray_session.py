"""Connecting to Ray, or starting it in place, and deciding what one worker asks of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import ray
from ray.exceptions import RayError

from pipeline.config import ConversionConfig, ExecutionConfig
from pipeline.errors import ConfigError

_OBJECT_STORE_BYTES = 256 * 2**20  # only weights, keys and statistics cross Ray


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What each worker reserves, and how many there are."""

    num_workers: int
    num_workers_on_node: int
    num_cpus: float
    num_gpus: float

    def describe(self) -> str:
        """The request in words, for messages."""
        return f"{self.num_cpus:g} CPU and {self.num_gpus:g} GPU" if self.num_gpus else f"{self.num_cpus:g} CPU"


@contextmanager
def ray_session(execution: ExecutionConfig) -> Iterator[None]:
    """Use the cluster at `execution.address`, or start Ray on this machine (loopback only) and stop it afterwards.

    An existing connection of this process is used and left alone. Raises ConfigError when no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if execution.address:
            ray.init(address=execution.address, **common)
        else:
            ray.init(
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        target = f"at {execution.address}" if execution.address else "on this machine"
        reason = str(error).strip().splitlines()
        raise ConfigError(f"cannot use Ray {target}: {reason[0] if reason else type(error).__name__}") from error
    try:
        yield
    finally:
        ray.shutdown()


def plan_resources(config: ConversionConfig, backlog_shards: int) -> WorkerResources:
    """Decide the number of workers and what each reserves, from the cluster's total resources.

    With GPUs: one per worker, at most one worker per GPU. Without: CPU workers share the cores of a node evenly; by
    default one worker per node, because torch uses all cores for one image and a second replica costs its memory.
    Never more workers than shards.
    """
    totals = ray.cluster_resources()
    num_nodes = max(1, sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")))
    num_gpus = int(totals.get("GPU", 0))
    wanted = config.execution.num_workers
    if config.inference.device.startswith("cuda") and not num_gpus:
        raise ConfigError("device cuda was asked for, but Ray sees no GPU; use --device auto or cpu")
    if num_gpus and config.inference.device != "cpu":
        workers = min(wanted or num_gpus, num_gpus, max(1, backlog_shards))
        return WorkerResources(workers, ceil(workers / num_nodes), num_cpus=1, num_gpus=1)
    num_cpus = max(1, int(totals.get("CPU", 1)))
    workers = min(wanted or num_nodes, num_cpus, max(1, backlog_shards))
    per_node = ceil(workers / num_nodes)
    return WorkerResources(workers, per_node, num_cpus=max(1, num_cpus // num_nodes // per_node), num_gpus=0)
