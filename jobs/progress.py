"""How a running job tells a person about itself: a live bar on a terminal, plain periodic lines when piped."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pipeline.execution.base import Progress as Counts

_PLAIN_EVERY_S = 5.0
_PLAIN_LATER_EVERY_S = 30.0  # from the second minute on: jobs of days are kept in logs


class Reporter(Protocol):
    """Receives notes, warnings and progress; standard output stays free for the result."""

    def note(self, text: str) -> None:
        """Tell the user what happens next."""
        ...

    def warn(self, text: str) -> None:
        """Tell the user what they may not expect."""
        ...

    def job(self, job_id: str) -> None:
        """Hear which job it is, once that is known."""
        ...

    def event(self, level: str, event: str, fields: Mapping[str, object] | None = None) -> None:
        """Hear something that the result says as well, for logs alone; `fields` are plain values."""
        ...

    def finished(self, exit_code: int, seconds: float) -> None:
        """Hear that the job came to its end, and how long it took."""
        ...

    def watch(self, num_images: int) -> Watch:
        """A context manager around one run; call its value with the counts about once a second."""
        ...


class Watch(Protocol):
    """Shows the progress of one run."""

    def __enter__(self) -> Watch: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def __call__(self, counts: Counts) -> None:
        """Show these counts, which are totals of this run."""
        ...


class ConsoleReporter:
    """Writes to standard error; a bar when that is a terminal, else a line every few seconds."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """See `Reporter.warn`."""
        _print_warning(self._console, text)

    def job(self, job_id: str) -> None:
        """Nothing to show: a person knows the destination."""

    def event(self, level: str, event: str, fields: Mapping[str, object] | None = None) -> None:
        """Nothing to show: the result says it."""

    def finished(self, exit_code: int, seconds: float) -> None:
        """Nothing to show: the summary says it."""

    def watch(self, num_images: int) -> Watch:
        """See `Reporter.watch`."""
        return _Bar(self._console, num_images) if self._console.is_terminal else _Lines(self._console, num_images)


class _Bar:
    def __init__(self, console: Console, num_images: int) -> None:
        self._start = monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images · {task.fields[rate]:.2f} MP/s · {task.fields[failed]} failed · {task.fields[workers]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=num_images, rate=0.0, failed=0, workers="starting workers")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def __call__(self, counts: Counts) -> None:
        _print_notices(self._progress.console, counts)
        rate = megapixels_per_s(counts, self._start)
        workers = plural(counts.num_workers, "worker") if counts.num_workers else "starting workers"
        self._progress.update(
            self._task, completed=counts.num_images, rate=rate, failed=counts.num_failed, workers=workers
        )


class _Lines:
    def __init__(self, console: Console, num_images: int) -> None:
        self._console = console
        self._num_images = num_images
        self._start = monotonic()
        self._next = monotonic() + _PLAIN_EVERY_S

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def __call__(self, counts: Counts) -> None:
        _print_notices(self._console, counts)
        if monotonic() < self._next:
            return
        elapsed_s = monotonic() - self._start
        self._next = monotonic() + (_PLAIN_EVERY_S if elapsed_s < 60 else _PLAIN_LATER_EVERY_S)
        left_s = (self._num_images - counts.num_images) * elapsed_s / max(1, counts.num_images)
        left = f", about {left_s:.0f} s left" if counts.num_images else ""
        self._console.print(
            f"{counts.num_images}/{self._num_images} images, {megapixels_per_s(counts, self._start):.2f} MP/s, "
            f"{counts.num_failed} failed, {plural(counts.num_workers, 'worker')}{left}",
            markup=False,
        )


def _print_warning(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow", markup=False)


def _print_notices(console: Console, counts: Counts) -> None:
    for event in counts.events:
        if event.notice:
            _print_warning(console, event.notice)


def megapixels_per_s(counts: Counts, start: float) -> float:
    """Megapixels per second since `start`."""
    return counts.megapixels / max(1e-3, monotonic() - start)


def plural(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
