"""`python -m jobs.preemption.drainer ORDER`: drains the Ray nodes of this machine, and keeps them drained.

A process of its own, because Ray's client ends the process that it is in when the control plane stays away: the agent
starts another one. Exit code 0: the order is carried out, or its time is over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from jobs.json_log import JsonReporter
from jobs.preemption.order import DrainOrder
from pipeline.execution.ray_drain import DrainRefusedError, drain_node
from pipeline.execution.ray_local_nodes import ClusterSilentError, LocalNodes, addresses_here, cluster_address

_LOOK_EVERY_S = 1.0
# A machine that is to be left, and on which no node was seen for so long, has none.
_NO_NODE_AFTER_S = 5.0
_MIN_DEADLINE_S = 1.0


def carry_out(order: DrainOrder, log: JsonReporter) -> None:
    """Carry the order out. Raises ClusterSilentError where the cluster cannot be asked: to be tried again."""
    address = cluster_address(order.address)
    here = frozenset({order.node_ip}) if order.node_ip else addresses_here()
    nodes = LocalNodes(address, here)
    drained: set[str] = set()
    since_s = time.time()
    while time.time() < order.stop_at:
        alive = nodes.alive()
        if order.only_look and alive:
            log.event("info", "node_found", {"nodes": sorted(alive), "cluster": address})
            return
        for node in () if order.only_look else sorted(alive - drained):
            if _drain(order, address, node, log):
                drained.add(node)
        if order.until_gone and not alive and (drained or time.time() - since_s > _NO_NODE_AFTER_S):
            log.event("info", "nodes_gone", {"nodes": sorted(drained)})
            return
        time.sleep(_LOOK_EVERY_S)


def _drain(order: DrainOrder, address: str, node: str, log: JsonReporter) -> bool:
    left_s = None if order.ends_at is None else max(_MIN_DEADLINE_S, order.ends_at - time.time())
    said = None if left_s is None else round(left_s, 1)
    try:
        drain_node(address, node, order.message, deadline_s=left_s)
    except DrainRefusedError as error:  # the node may be starting, or going; the next look tells
        log.event("warning", "drain_refused", {"node": node, "message": str(error)})
        return False
    log.event("info", "node_draining", {"node": node, "left_s": said, "reason": order.message})
    return True


def main(text: str, carry: Callable[[DrainOrder, JsonReporter], None] = carry_out) -> int:
    """Carry out the order in `text`; the exit code."""
    log = JsonReporter(sys.stderr)
    try:
        carry(DrainOrder.from_text(text), log)
    except ClusterSilentError as error:
        log.event("warning", "cluster_silent", {"message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
