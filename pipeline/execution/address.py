"""A quick look at a Ray address, because Ray itself takes minutes to give up on a wrong one."""

from __future__ import annotations

import os
import re
import socket

from pipeline.config import ExecutionConfig
from pipeline.errors import ConfigError

_HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")
_NAMES = frozenset({"auto", "local"})
_TIMEOUT_S = 10.0
# A client's first words and empty SETTINGS frame; a server answers with its own SETTINGS (RFC 9113, 3.4 and 6.5).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER_BYTES, _FRAME_TYPE, _SETTINGS = 9, 3, 4


def ray_address(execution: ExecutionConfig) -> str | None:
    """The cluster to use: the configured address, else Ray's own RAY_ADDRESS; None to start Ray here."""
    return execution.address or os.environ.get("RAY_ADDRESS") or None


def check_address(address: str | None) -> None:
    """Raise ConfigError unless gRPC is spoken at `host:port` or `ray://host:port`; `auto` and `local` pass.

    With `RAY_USE_TLS`, it is enough that something listens.
    """
    if address is None or address in _NAMES:
        return
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"{address!r} is no Ray address; write host:port, ray://host:port or auto")
    has_tls = os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}
    target = (match["host"].strip("[]"), int(match["port"]))
    try:
        with socket.create_connection(target, timeout=_TIMEOUT_S) as connection:
            is_ray = has_tls or _speaks_http2(connection)
    except OSError as error:
        raise ConfigError(f"cannot use Ray at {address}: {error.strerror or error}; is the cluster up?") from error
    if not is_ray:
        raise ConfigError(f"what answers at {address} is not Ray; a head listens on 6379 unless it was told otherwise")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether what gRPC is built on is spoken; a dashboard's port, say, answers otherwise or hangs up."""
    connection.sendall(_HELLO)
    answer = b""
    while len(answer) < _FRAME_HEADER_BYTES and (more := connection.recv(_FRAME_HEADER_BYTES - len(answer))):
        answer += more
    return len(answer) == _FRAME_HEADER_BYTES and answer[_FRAME_TYPE] == _SETTINGS
