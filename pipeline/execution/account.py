"""When a run began and what its workers have cost, over all drivers that `jobs.supervise` starts for it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from pipeline.errors import ConfigError

# Of the machine's monotonic clock, which all its processes share: whoever watches over drivers runs beside them.
STARTED_VARIABLE = "HDRFLEET_RUN_STARTED_MONOTONIC_S"
SPENT_VARIABLE = "HDRFLEET_RUN_SPENT_FILE"


@dataclass(frozen=True, slots=True)
class RunAccount:
    """`started_at` is by `time.monotonic`; `spent_worker_s` are worker-seconds of earlier drivers of the same run.

    A later driver of the run reads what is written to `path`; None where there will be none.
    """

    started_at: float
    spent_worker_s: float = 0.0
    path: Path | None = None

    def write(self, spent_worker_s: float) -> None:
        """Keep what all drivers have spent so far. A disk that does not take it costs the record, not the job."""
        if self.path is None:
            return
        new = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_text(repr(spent_worker_s))
            new.replace(self.path)


def open_account(environment: Mapping[str, str] = os.environ) -> RunAccount:
    """The account of a run that begins now, or began with an earlier driver. Raises ConfigError for foreign values."""
    now = monotonic()
    started_at = min(now, _number(environment.get(STARTED_VARIABLE), STARTED_VARIABLE, now))
    if SPENT_VARIABLE not in environment:
        return RunAccount(started_at)
    path = Path(environment[SPENT_VARIABLE])
    try:
        text = path.read_text()
    except FileNotFoundError:  # no driver before this one came to start workers
        return RunAccount(started_at, path=path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{SPENT_VARIABLE}: cannot read {path}: {error}") from error
    return RunAccount(started_at, max(0.0, _number(text, SPENT_VARIABLE, 0.0)), path)


def _number(text: str | None, name: str, default: float) -> float:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name} is set by jobs.supervise, and {text[:40]!r} is no number of seconds; unset it")
    return value
