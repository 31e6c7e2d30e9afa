"""A quick look at a Ray address, because Ray itself takes minutes to give up on a wrong one."""

from __future__ import annotations

import os
import re
import socket

from pipeline.config import ExecutionConfig
from pipeline.errors import ConfigError

_HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")
_NAMES = frozenset({"auto", "local"})
_TIMEOUT_S = 5.0


def ray_address(execution: ExecutionConfig) -> str | None:
    """The cluster to use: the configured address, else Ray's own RAY_ADDRESS; None to start Ray here."""
    return execution.address or os.environ.get("RAY_ADDRESS") or None


def check_address(address: str | None) -> None:
    """Raise ConfigError unless something listens at `host:port` or `ray://host:port`; `auto` and `local` pass."""
    if address is None or address in _NAMES:
        return
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"{address!r} is no Ray address; write host:port, ray://host:port or auto")
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(f"cannot use Ray at {address}: {error.strerror or error}; is the cluster up?") from error
