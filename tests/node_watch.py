"""`python -m node_watch HOST:PORT`: a line whenever Ray's head changes its mind about a node: when, which, where, what.

A process of its own: Ray reads its token once in the life of one, and ends it when the head stays away.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

from commands import wait_until
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo

_LOOK_EVERY_S = 0.1
_ANSWER_WITHIN_S = 20
_START_WITHIN_S = 90


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def main(address: str) -> None:
    wait_until(lambda: answers(address), "the head answers", _START_WITHIN_S)
    client, known = GcsClient(address=address), dict[str, int]()
    while True:
        for node in client.get_all_node_info(timeout=_ANSWER_WITHIN_S).values():
            name = node.node_id.hex()
            if known.get(name) != node.state:
                known[name] = node.state
                state = GcsNodeInfo.GcsNodeState.Name(node.state)
                sys.stdout.write(f"{time.monotonic():.3f} {name} {node.node_manager_address} {state}\n")
                sys.stdout.flush()
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    main(sys.argv[1])
