"""Standard output that cannot be written to: one line instead of a traceback, whichever library wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from pipeline.errors import StandardOutputError


@contextlib.contextmanager
def guarded_stdout() -> Iterator[None]:
    """Within the block, what standard output does not take raises StandardOutputError; at its end all is written.

    A reader that has gone away (`| head`) stays BrokenPipeError.
    """
    stream = sys.stdout
    if stream is None:  # closed by whoever started this
        yield
        return
    faults: list[OSError] = []
    guarded: Any = _Guarded(stream, faults)
    sys.stdout = guarded
    try:
        yield
        guarded.flush()
    finally:
        sys.stdout = stream
        if faults:  # the interpreter writes what is buffered at its end, and would fail once more
            _discard(stream)


class _Guarded:
    """A stream, text or bytes, in all but its errors, which `faults` collects."""

    def __init__(self, stream: Any, faults: list[OSError]) -> None:
        self._stream = stream
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Any:
        return _Guarded(self._stream.buffer, self._faults)

    def write(self, data: Any) -> Any:
        with self._explained():
            return self._stream.write(data)

    def flush(self) -> None:
        with self._explained():
            self._stream.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            missing = f"U+{ord(error.object[error.start]):04X}"
            raise StandardOutputError(
                f"cannot write to standard output: its encoding, {error.encoding}, has no {missing}; "
                "set PYTHONIOENCODING=utf-8, or use --json"
            ) from error
        except OSError as error:
            self._faults.append(error)
            if error.errno == errno.EPIPE:
                raise
            raise StandardOutputError(f"cannot write to standard output: {error.strerror or error}") from error


def _discard(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # held in memory, as tests do
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, stream.fileno())
        finally:
            os.close(nothing)
