"""Connecting to Ray, or starting it in place, and deciding what one worker asks of it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from pipeline.config import ConversionConfig, ExecutionConfig
from pipeline.errors import ConfigError, first_line
from pipeline.execution.address import ray_address

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
    """Use the cluster at the given address, or start Ray on this machine (loopback only) and stop it afterwards.

    An existing connection of this process is used and left alone. Raises ConfigError when no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    address = ray_address(execution)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        target = f"at {address}" if address else "on this machine"
        raise ConfigError(f"cannot use Ray {target}: {first_line(error)}") from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler would abort this process instead of stopping the job.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        ray.shutdown()


def plan_resources(config: ConversionConfig) -> WorkerResources:
    """Decide the number of workers and what each reserves, so that all of them fit on the nodes there are.

    With GPUs: one per worker, one worker per GPU. Without: as many cores per worker as let the wanted number of workers
    fit; by default as many workers as nodes, because torch uses all cores for one image and a second replica costs its
    memory.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [(int(node["GPU"]), node.get("CPU", 0.0)) for node in nodes if node.get("GPU", 0) >= 1]
    wanted = config.execution.num_workers
    if config.inference.device.startswith("cuda") and not gpus:
        raise ConfigError("device cuda was asked for, but Ray sees no GPU; use --device auto or cpu")
    if gpus and config.inference.device != "cpu":
        num_gpus = sum(number for number, _ in gpus)
        cpus_per_gpu = min(cpus / number for number, cpus in gpus)
        # A worker owns its card, so cards are not shared whatever their number on a node.
        return WorkerResources(min(wanted or num_gpus, num_gpus), 1, num_cpus=min(1.0, cpus_per_gpu), num_gpus=1)
    return _cpu_resources([node.get("CPU", 0.0) for node in nodes], wanted)


def _cpu_resources(cpus: list[float], wanted: int | None) -> WorkerResources:
    target = wanted or max(1, sum(number >= 1 for number in cpus))
    for num_cpus in range(max(map(int, cpus), default=0), 0, -1):
        fitting = [int(number // num_cpus) for number in cpus]
        if sum(fitting) >= target or num_cpus == 1:
            num_workers = min(target, sum(fitting))
            return WorkerResources(num_workers, min(num_workers, max(fitting)), num_cpus=num_cpus, num_gpus=0)
    return WorkerResources(1, 1, num_cpus=max(cpus, default=0.0), num_gpus=0)
