"""Ports for servers that are told theirs and take seconds to listen on it.

A port that the system picked may be somebody else's by then: of a client, or of a server that binds with
SO_REUSEPORT, as Ray's do, and that then answers in its stead. These are of a range that the system does not pick from
and Ray's workers (10002 to 19999) do not use, a part of it for each process of pytest-xdist.
"""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import ExitStack

_FIRST, _NUM_PER_PROCESS, _NUM_PROCESSES = 20_000, 1_500, 8
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _NUM_PROCESSES
_start = _FIRST + _process * _NUM_PER_PROCESS
# Where in its part a session begins differs, for two sessions may run side by side.
_next = itertools.count(os.getpid() % _NUM_PER_PROCESS)


def free_ports(num_ports: int) -> list[int]:
    """Consecutive ports on which nobody listens, and which this process has not given out before."""
    for _ in range(_NUM_PER_PROCESS):
        first = _start + next(_next) % (_NUM_PER_PROCESS - num_ports)
        ports = list(range(first, first + num_ports))
        if all(map(_is_free, ports)):
            for _ in ports[1:]:
                next(_next)
            return ports
    raise OSError(f"no {num_ports} consecutive free ports from {_start} on")


def _is_free(port: int) -> bool:
    with ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            return False
    return True
