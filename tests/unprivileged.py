"""To root no folder is closed: take that away from this thread, and from those that it starts, for a while."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def without_override() -> Iterator[None]:
    """As any owner of its files; modules can still be imported, which another user might not be allowed to."""
    before = _capabilities()
    _set(before[0] & ~(_DAC_OVERRIDE | _DAC_READ_SEARCH), before)
    try:
        yield
    finally:
        _set(before[0], before)


def _capabilities() -> list[int]:
    """Effective, permitted and inheritable, for the lower and then for the upper 32 capabilities."""
    data = (ctypes.c_uint32 * 6)()
    _call(_LIBC.capget, data)
    return list(data)


def _set(effective: int, others: list[int]) -> None:
    _call(_LIBC.capset, (ctypes.c_uint32 * 6)(effective, *others[1:]))


def _call(function: object, data: object) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    if function(ctypes.byref(header), ctypes.byref(data)):  # type: ignore[operator, arg-type]
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
