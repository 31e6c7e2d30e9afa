"""Standard error as a log for machines: one JSON object per line (`--log-format json`)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import TextIO

from jobs.explain import explain
from jobs.progress import megapixels_per_s
from pipeline.errors import HdrfleetError, StuckError
from pipeline.execution.base import Progress as Counts
from pipeline.storage import redact_url

_PROGRESS_EVERY_S = 10.0


class JsonReporter:
    """A Reporter that writes events. Every line has time (UTC, ISO 8601), level, event, and job_id once it is known.

    Secrets are taken out of every text. With `quiet`, only errors and the end are written. Safe for threads.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._job_id: str | None = None
        self._lock = threading.Lock()

    def event(self, level: str, event: str, fields: Mapping[str, object] | None = None) -> None:
        """Write one line; `fields` are plain values."""
        if self._quiet and level != "error" and event != "finished":
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
        job = {"job_id": self._job_id} if self._job_id else {}
        text = json.dumps({**line, **job, **{name: _clean(value) for name, value in (fields or {}).items()}})
        with self._lock:
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

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self._reporter.event("info", "output", {"message": line})
        return len(text)


class _LogHandler(logging.Handler):
    def __init__(self, reporter: JsonReporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.event(record.levelname.lower(), "log", {"logger": record.name, "message": record.getMessage()})


@contextlib.contextmanager
def json_log(*, quiet: bool = False) -> Iterator[JsonReporter]:
    """Make standard error such a log until the block ends; an expected error is its last line, and ends the process."""
    reporter = JsonReporter(sys.stderr, quiet=quiet)
    handler = _LogHandler(reporter)
    logging.getLogger().addHandler(handler)
    lines = _Lines(reporter)
    try:
        with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(lines):
            yield reporter
    except HdrfleetError as error:
        text, code = explain(error)
        reporter.event("error", "error", {"code": error.code, "message": text, "exit_code": code})
        if isinstance(error, StuckError):
            os._exit(code)  # a thread of this process will not end: the interpreter would wait for it
        raise SystemExit(code) from error
    finally:
        logging.getLogger().removeHandler(handler)


def _clean(value: object) -> object:
    if isinstance(value, str):
        return redact_url(value)
    if isinstance(value, Mapping):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return value
