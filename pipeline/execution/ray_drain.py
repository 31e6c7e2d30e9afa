"""The one place that touches Ray's interface for draining nodes, which is hidden and may move with any release of Ray.

A node drains because its cloud takes it back (a spot notice), its pod is being deleted, or the autoscaler or an
operator gives it up. Ray places nothing new there, lets what runs there run, and ends the node at the deadline.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError

from pipeline.errors import SystemicError, first_line

_REASON = "DRAIN_NODE_REASON_PREEMPTION"


class DrainRefusedError(SystemicError):
    """Ray did not accept that a node is drained."""

    code = "drain_refused"


def draining_nodes() -> Mapping[str, float]:
    """Node ids and in how many seconds each of them ends (infinity: nobody said; below 0: any moment).

    Empty for a driver behind Ray Client (ray://), which does not see it.
    """
    if ray.util.client.ray.is_connected():
        return {}
    try:
        deadlines_ms: dict[str, int] = ray._private.state.state.get_draining_nodes()
    except (RayError, RuntimeError):  # the head is away for a moment: whoever asks looks again soon
        return {}
    now_s = time.time()
    return {node: ms / 1000 - now_s if ms else math.inf for node, ms in deadlines_ms.items()}


def drain_node(address: str, node_id: str, message: str, *, deadline_s: float | None) -> None:
    """Tell the cluster at `address` (host:port) that a node ends in `deadline_s` seconds (None: nobody said when).

    Saying it again is no error, and the later word counts. Raises DrainRefusedError.
    """
    deadline_ms = 0 if deadline_s is None else int((time.time() + deadline_s) * 1000)
    reason = autoscaler_pb2.DrainNodeReason.Value(_REASON)
    try:
        accepted, why = GcsClient(address=address).drain_node(node_id, reason, message, deadline_ms)
    except (RayError, RuntimeError, ValueError) as error:
        raise DrainRefusedError(f"cannot drain node {node_id}: {first_line(error)}") from error
    if not accepted:
        raise DrainRefusedError(f"Ray does not drain node {node_id}: {why}")
