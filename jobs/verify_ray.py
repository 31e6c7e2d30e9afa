"""Outputs read, hashed and decoded by tasks all over a Ray cluster, where the bandwidth and the cores are."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, ObjectMissingError, WorkerLostError, first_line
from pipeline.execution.ray_capacity import CAPACITY_LOOK_S, find_refusal, read_capacity
from pipeline.execution.ray_session import WorkerResources
from pipeline.storage import ObjectStore, open_store
from pipeline.verification.findings import Finding
from pipeline.verification.ledger import ExpectedOutput
from pipeline.verification.objects import check_contents

_BATCH_OUTPUTS = 64
# Reading is repeatable: Ray may run a lost task again. A batch that takes longer than this has a store that hangs.
_MAX_RETRIES = 4
_TIMEOUT_S = 3600.0
_POLL_S = 1.0
# As long as nothing has been checked: whether a place for a task is there, or can come.
_IMPOSSIBLE_AFTER_S = 20.0
_TASK = WorkerResources(num_workers=1, num_workers_on_node=1, num_cpus=1, num_gpus=0)
_BATCHES_PER_CORE = 2

# The bytes of each output (None: not read), what is wrong, the keys of those that are not there, the node that looked.
_Checked = tuple[list[int | None], list[Finding], list[str], str]


def check_on_ray(
    store: ObjectStore,
    outputs: Iterable[ExpectedOutput],
    *,
    storage: StorageConfig,
    on_done: Callable[[int | None], None],
) -> Iterator[Finding]:
    """Yield what `check_contents` does, from tasks of one core each. Ray is connected; `storage` opens `store` there.

    Raises WorkerLostError when no node has or gets a core for them, they are lost time and again or take too long,
    ConfigError when a node does not see an output that is there, and what the store raises.
    """
    check = ray.remote(num_cpus=_TASK.num_cpus, max_retries=_MAX_RETRIES)(_check_batch)
    waiting = iter(outputs)
    running: dict[Any, float] = {}
    look_at: float | None = monotonic() + _IMPOSSIBLE_AFTER_S
    while True:
        # Asked anew, for the cluster may grow with the demand.
        max_running = _BATCHES_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(running) < max_running and (batch := list(islice(waiting, _BATCH_OUTPUTS))):
            running[check.remote(store.url, storage, batch)] = monotonic() + _TIMEOUT_S
        if not running:
            return
        done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
        if done:
            look_at = None
        elif look_at is not None and monotonic() > look_at:
            _require_possible()
            look_at = monotonic() + CAPACITY_LOOK_S
        for ref in done:
            del running[ref]
            sizes, findings, missing, node = _get(ref)
            _require_missing(store, missing, node)
            for num_bytes in sizes:
                on_done(num_bytes)
            yield from findings
        if any(monotonic() > deadline for deadline in running.values()):
            raise WorkerLostError(f"{_BATCH_OUTPUTS} outputs were not checked within {_TIMEOUT_S:.0f} s")


def _require_possible() -> None:
    capacity = read_capacity()
    refusal = find_refusal(_TASK, capacity, "each task") if capacity else None
    if refusal and refusal.is_final:
        raise WorkerLostError(
            f"no output can be checked on Ray: {refusal.why}; verify with --executor local, or start a node"
        )


def _check_batch(url: str, storage: StorageConfig, outputs: list[ExpectedOutput]) -> _Checked:
    sizes: list[int | None] = []
    missing: list[str] = []
    store = open_store(url, storage)
    findings = list(check_contents(store, outputs, num_threads=1, on_done=sizes.append, on_missing=missing.append))
    return sizes, findings, missing, socket.gethostname()


def _require_missing(store: ObjectStore, missing: list[str], node: str) -> None:
    """What a node does not see has to be missing here as well: else it has another disk at that path, or none."""
    for key in missing:
        try:
            store.stat(key)
        except ObjectMissingError:
            continue
        raise ConfigError(f"{node} does not see {store.url}/{key}; verify with --executor local, or mount it there")


def _get(ref: Any) -> _Checked:
    try:
        checked: _Checked = ray.get(ref, timeout=_TIMEOUT_S)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from error
    except RayError as error:
        raise WorkerLostError(f"outputs could not be checked: {first_line(error)}") from error
    return checked
