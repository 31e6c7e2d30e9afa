"""LocalExecutor: one worker in this process, without Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from time import monotonic
from typing import Protocol, Self

from pipeline.errors import (
    HdrfleetError,
    InterruptedJobError,
    StorageError,
    StuckError,
    WorkerCrashError,
    WorkerOutOfMemoryError,
    first_line,
)
from pipeline.execution.base import RETRY_DELAY_S, OnProgress, Progress, RunSummary, WorkSize
from pipeline.execution.events import ExecutionEvent, returned_event, shard_events
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.faults import fault_point
from pipeline.records import Shard, ShardResult

_REPORT_EVERY_S = 1.0


class Replica(Protocol):
    """What the executor needs of a worker."""

    def convert(self, lease: Lease, adopt: bool) -> ShardResult:
        """Convert and commit one shard."""
        ...

    def progress(self) -> Progress:
        """Counts since the worker started."""
        ...

    def stop(self) -> None:
        """Make running shards end soon with InterruptedJobError."""
        ...

    def close(self) -> None:
        """Release what the worker holds."""
        ...


class LocalExecutor:
    """Runs shards through one worker, `num_leases` of them at a time so that their stages overlap.

    An image that does not come to an end cannot be cut off here, where the worker is the process: `run` raises
    StuckError, the threads are left behind, and the process has to end without waiting for them.
    """

    def __init__(
        self,
        worker: Replica,
        *,
        num_leases: int,
        max_attempts: int,
        shard_timeout_s: float = math.inf,
        retry_delay_s: float = RETRY_DELAY_S,
    ) -> None:
        self._worker = worker
        self._num_leases = num_leases
        self._max_attempts = max_attempts
        self._retry_delay_s = retry_delay_s
        self._shard_timeout_s = shard_timeout_s
        self._running: dict[Future[ShardResult], tuple[Lease, float]] = {}
        self._is_stuck = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._is_stuck:
            self._worker.close()

    def run(
        self,
        shards: Iterator[Shard],
        *,
        num_shards: int,  # noqa: ARG002  one worker, however many there are
        resuming: bool,
        on_progress: OnProgress,
        size: WorkSize | None = None,  # noqa: ARG002
    ) -> RunSummary:
        """See `Executor.run`."""
        book = LeaseBook(shards, self._max_attempts)
        threads = ThreadPoolExecutor(self._num_leases, thread_name_prefix="lease")
        try:
            summary = self._drive(book, threads, resuming, on_progress)
        except KeyboardInterrupt as error:
            self._stop()
            raise InterruptedJobError("interrupted") from error
        except BaseException:
            self._stop()
            raise
        finally:
            threads.shutdown(wait=not self._is_stuck, cancel_futures=True)
        book.raise_if_given_up()
        return replace(summary, num_given_back=book.num_given_back)

    def _drive(
        self, book: LeaseBook, threads: ThreadPoolExecutor, resuming: bool, on_progress: OnProgress
    ) -> RunSummary:
        summary = RunSummary()
        running = self._running
        while not book.is_finished:
            events: list[ExecutionEvent] = []
            while len(running) < self._num_leases and (lease := book.take("local")):
                adopt = resuming or lease.attempt > 1
                future = threads.submit(self._worker.convert, lease, adopt)
                running[future] = lease, monotonic() + self._shard_timeout_s
                fault_point("shard.leased")
            if not running and not book.is_finished:
                time.sleep(_REPORT_EVERY_S)  # every shard that is left waits for its retry
            done, _ = wait(running, timeout=_REPORT_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                lease, _ = running.pop(future)
                try:
                    result = future.result()
                    summary = summary.plus_shard(result)
                    book.complete(lease)
                    events += shard_events(result, lease.holder)
                    fault_point("shard.settled")
                except StorageError as error:
                    events.append(returned_event(lease, f"{error.code}: {first_line(error)}"))
                    book.give_back(lease, error, delay_s=self._retry_delay_s)
                except HdrfleetError:
                    raise
                except Exception as error:  # noqa: BLE001  the shard's edge: unforeseen, so worth another attempt
                    code = WorkerOutOfMemoryError.code if isinstance(error, MemoryError) else WorkerCrashError.code
                    reason = f"{type(error).__name__}: {first_line(error)}"
                    events.append(returned_event(lease, reason))
                    book.lose(lease, code, reason)
            progress = replace(self._worker.progress(), events=tuple(events))
            on_progress(progress)
            self._require_moving(progress.overdue)
        return summary

    def _stop(self) -> None:
        """Let images in flight finish, within their deadlines. Raises StuckError where one does not."""
        self._worker.stop()
        while not self._is_stuck and wait(self._running, timeout=_REPORT_EVERY_S).not_done:
            self._require_moving(self._worker.progress().overdue)

    def _require_moving(self, overdue: Sequence[str]) -> None:
        late = [*overdue, *(f"shard {lease.shard.shard}" for lease, due in self._running.values() if monotonic() > due)]
        if late:
            self._is_stuck = True
            raise StuckError(
                f"{late[0]} was not done within its deadline, and the local executor cannot replace its "
                "process; run with --executor ray, which quarantines such an image"
            )
