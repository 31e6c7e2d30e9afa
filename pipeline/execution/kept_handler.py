"""A signal's handler that a library takes away without a word, kept in place."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_EVERY_S = 0.001


@contextmanager
def keeping_handler(number: signal.Signals) -> Iterator[None]:
    """Put what handles a signal now back as soon as something else does, and once more at the end.

    Ray's core sets SIGTERM to its default when it disconnects (its `UninstallSignalAction`), beneath Python, which
    keeps on naming the handler: a second SIGTERM would end the process while it still stops Ray's. Only a thread can
    look meanwhile, and Python sets handlers in the main one alone; CPython's functions below that have no such rule.
    """
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype, put.restype, put.argtypes = ctypes.c_void_p, ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    handler, is_over = get(int(number)), threading.Event()

    def put_back() -> None:
        if get(int(number)) != handler:
            put(int(number), handler)

    def keep() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            put_back()

    keeper = threading.Thread(target=keep, name="signal-handler", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        is_over.set()
        keeper.join()
        put_back()
