"""Nodes on which no worker is to be started any more: said once, and the end of a job that has no other node left."""

from __future__ import annotations

import math
from dataclasses import replace
from time import monotonic

import ray
from ray.exceptions import RayError
from ray.util.placement_group import NODE_ID_LABEL_KEY

from pipeline.execution.events import node_event
from pipeline.execution.ray_capacity import CAPACITY_LOOK_S, find_refusal, read_capacity
from pipeline.execution.ray_fallback import is_placeless
from pipeline.execution.ray_pool import WorkerPool


class BadNodes:
    """Carries out what `NodeHealth` has found. Of one run."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._barred_at = -math.inf
        self._next_look_at = -math.inf

    def step(self) -> None:
        """Leave the nodes that were barred meanwhile. Raises what they were barred for where no other can be had."""
        pool = self._pool
        for node, reason in pool.health.news():
            self._barred_at = monotonic()
            pool.report(node_event(node, _address(node), reason))
            # Those without a place were asked for without this exception.
            for worker in pool:
                if not worker.is_ready and is_placeless(worker):
                    pool.ask_anew(worker, worker.resources)
        if pool.health.error and not pool.num_ready and not self._is_place_left():
            raise pool.health.error

    def _is_place_left(self) -> bool:
        """Whether a node is there that is not barred, or may come, or a worker has one from before.

        True where that is not known now: a start has its own bound.
        """
        now = monotonic()
        if any(worker.asked_at < self._barred_at for worker in self._pool) or now < self._next_look_at:
            return True
        self._next_look_at = now + CAPACITY_LOOK_S
        capacity = read_capacity()
        if capacity is None:
            return True
        barred = self._pool.health.barred
        nodes = tuple(node for node in capacity.nodes if node[1].get(NODE_ID_LABEL_KEY) not in barred)
        left = replace(capacity, nodes=nodes)
        refusals = (find_refusal(wanted, left) for wanted in self._pool.choices)
        return any(refusal is None or not refusal.is_final for refusal in refusals)


def _address(node: str) -> str:
    """The IP address of a node, which is what its operator knows it by; its id where Ray does not say."""
    try:
        return next((str(each["NodeManagerAddress"]) for each in ray.nodes() if each["NodeID"] == node), node)
    except (RayError, RuntimeError):
        return node
