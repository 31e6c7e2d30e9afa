"""Says that a Ray cluster's head is silent, before Ray ends this process over it with words of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from pipeline.errors import ConfigError
from pipeline.execution.address import check_address

_LOOK_EVERY_S = 5.0
_SILENT_AFTER_S = 20.0


class HeadWatch:
    """Whether the head at `host:port` answers; `warn` hears of it once when it has been silent for `silent_after_s`.

    None, where its address is not known, is never silent.
    """

    def __init__(
        self, address: str | None, warn: Callable[[str], None], silent_after_s: float = _SILENT_AFTER_S
    ) -> None:
        self._address = address
        self._warn = warn
        self._silent_after_s = silent_after_s
        self._heard_at = monotonic()
        self._is_told = False

    def look(self) -> None:
        """Ask it, which takes 10 s at most."""
        try:
            check_address(self._address)
        except ConfigError:
            silent_s = monotonic() - self._heard_at
            if silent_s >= self._silent_after_s and not self._is_told:
                self._is_told = True
                self._warn(
                    f"the head of the Ray cluster ({self._address}) has not answered for {silent_s:.0f} s, and Ray "
                    "ends this process after 60 s (RAY_gcs_rpc_server_reconnect_timeout_s); committed work is kept, "
                    "run the same command again when it is up"
                )
        else:
            self._heard_at, self._is_told = monotonic(), False


@contextmanager
def watching_head(address: str | None, warn: Callable[[str], None]) -> Iterator[None]:
    """Look at it every few seconds in a thread: Ray's calls wait for a head, so that nothing else here may run."""
    watch, is_over = HeadWatch(address, warn), threading.Event()

    def keep() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            watch.look()

    threading.Thread(target=keep, name="ray-head", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
