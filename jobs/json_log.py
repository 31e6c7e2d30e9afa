"""Standard error as a log for machines: one JSON object per line (`--log-format json`)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import TextIO

from jobs.explain import EXIT_DIED, explain
from jobs.native_lines import NativeLines
from jobs.progress import megapixels_per_s
from pipeline.errors import HdrfleetError, StuckError
from pipeline.execution.base import Progress as Counts
from pipeline.storage import redact_url

_PROGRESS_EVERY_S = 10.0
_LAST_EVENTS = frozenset({"finished", "error"})


class JsonReporter:
    """A Reporter that writes events. Every line has time (UTC, ISO 8601), level, event, and job_id once it is known.

    Secrets are taken out of every text. With `quiet`, only errors and the end are written. Safe for threads. `native`
    writes to the same place: it is told of the job, and has the floor before the last event.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, native: NativeLines | None = None) -> None:
        self._stream = stream
        self._quiet = quiet
        self._native = native
        self._job_id: str | None = None
        self._lock = threading.RLock()  # a handler of signals writes from within

    def event(self, level: str, event: str, fields: Mapping[str, object] | None = None) -> None:
        """Write one line; `fields` are plain values."""
        if self._quiet and level != "error" and event != "finished":
            return
        if self._native and event in _LAST_EVENTS:
            self._native.flush()
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
        job = {"job_id": self._job_id} if self._job_id else {}
        text = json.dumps({**line, **job, **{name: _clean(value) for name, value in (fields or {}).items()}})
        with self._lock, self._native.alone() if self._native else contextlib.nullcontext():
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self.event("info", "note", {"message": text})

    def warn(self, text: str) -> None:
        """See `Reporter.warn`."""
        self.event("warning", "warning", {"message": text})

    def job(self, job_id: str) -> None:
        """See `Reporter.job`."""
        self._job_id = job_id
        if self._native:
            self._native.name_job(job_id)
        self.event("info", "job_opened")

    def finished(self, exit_code: int, seconds: float) -> None:
        """See `Reporter.finished`."""
        self.event("info", "finished", {"exit_code": exit_code, "seconds": round(seconds, 3)})

    def watch(self, num_images: int) -> _Watch:
        """See `Reporter.watch`."""
        return _Watch(self, num_images)


class _Watch:
    """Logs every event of the executor at once, counts every ten seconds and at the end."""

    def __init__(self, reporter: JsonReporter, num_images: int) -> None:
        self._reporter = reporter
        self._num_images = num_images
        self._start = monotonic()
        self._next = self._start + _PROGRESS_EVERY_S
        self._latest: Counts | None = None

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._log_counts()

    def __call__(self, counts: Counts) -> None:
        for event in counts.events:
            self._reporter.event("warning" if event.is_warning else "info", event.name, event.fields)
        self._latest = counts
        if monotonic() >= self._next:
            self._next = monotonic() + _PROGRESS_EVERY_S
            self._log_counts()

    def _log_counts(self) -> None:
        if (counts := self._latest) is None:
            return
        fields = {
            "num_images": counts.num_images,
            "num_planned": self._num_images,
            "num_failed": counts.num_failed,
            "failed_by_code": dict(counts.failed_by_code),
            "megapixels": round(counts.megapixels, 3),
            "megapixels_per_s": round(megapixels_per_s(counts, self._start), 3),
            "num_workers": counts.num_workers,
        }
        self._reporter.event("info", "progress", fields)


class _Lines(io.TextIOBase):
    """What others print, as events: libraries have remarks, and a reader of the log expects JSON alone."""

    def __init__(self, reporter: JsonReporter) -> None:
        self._reporter = reporter
        # `print` writes a line in pieces, and threads print at the same time.
        self._begun: dict[int, str] = {}

    def write(self, text: str) -> int:
        *lines, begun = (self._begun.pop(threading.get_ident(), "") + text).split("\n")
        if begun:
            self._begun[threading.get_ident()] = begun
        self._log(lines)
        return len(text)

    def finish(self) -> None:
        """Log what no line's end followed."""
        while self._begun:
            self._log([self._begun.popitem()[1]])

    def _log(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.strip():
                self._reporter.event("info", "output", {"message": line.strip("\r")})


class _LogHandler(logging.Handler):
    def __init__(self, reporter: JsonReporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.event(record.levelname.lower(), "log", {"logger": record.name, "message": record.getMessage()})


@contextlib.contextmanager
def json_log(*, quiet: bool = False) -> Iterator[JsonReporter]:
    """Make standard error such a log until the block ends; an error is its last line, and ends the process.

    What native code writes to descriptor 2 is in it, too. Raises OSError where no process can be started for that.
    """
    native = NativeLines(quiet=quiet)
    try:
        with _log_stream(native) as stream:
            reporter = JsonReporter(stream, quiet=quiet, native=native)
            with _all_in(reporter), _errors_in(reporter, native):
                yield reporter
    finally:
        native.close()


@contextlib.contextmanager
def _log_stream(native: NativeLines) -> Iterator[TextIO]:
    """Where the log goes: what `sys.stderr` was before descriptor 2 became a pipe."""
    try:
        is_descriptor_2 = sys.stderr.fileno() == 2
    except (OSError, ValueError):  # held in memory, as tests do
        is_descriptor_2 = False
    if not is_descriptor_2:
        yield sys.stderr
        return
    with open(native.log_fd, "w", encoding="utf-8", closefd=False) as stream:
        yield stream


@contextlib.contextmanager
def _all_in(reporter: JsonReporter) -> Iterator[None]:
    """Log what others log and print."""
    handler, lines = _LogHandler(reporter), _Lines(reporter)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.finish()
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def _errors_in(reporter: JsonReporter, native: NativeLines) -> Iterator[None]:
    """Log the error that ends the block; raises SystemExit with its exit code."""
    try:
        yield
    except HdrfleetError as error:
        text, code = explain(error)
        reporter.event("error", "error", {"code": error.code, "message": text, "exit_code": code})
        if isinstance(error, StuckError):
            native.close()
            os._exit(code)  # a thread of this process will not end: the interpreter would wait for it
        raise SystemExit(code) from error
    except Exception as error:  # the process's edge: whatever it is, a machine that reads the log hears of it
        text = "".join(traceback.format_exception(error))
        reporter.event("error", "error", {"code": "unexpected", "message": text, "exit_code": EXIT_DIED})
        raise SystemExit(EXIT_DIED) from error


def _clean(value: object) -> object:
    if isinstance(value, str):
        return redact_url(value)
    if isinstance(value, Mapping):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return value
