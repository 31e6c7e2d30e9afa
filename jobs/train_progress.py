"""How a training run shows itself to a person: a live bar on a terminal, plain periodic lines when piped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from pipeline.training.events import (
    CheckpointDamaged,
    CheckpointSaved,
    Observer,
    Started,
    StepDone,
    TrainingEvent,
    Validated,
    ViewsTaken,
    WorkersAwaited,
)

_PLAIN_EVERY_S = 10.0
_SMOOTHING = 0.95


class TrainingReporter:
    """Writes to standard error, so that standard output stays free for the result."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)

    def note(self, text: str) -> None:
        """Tell the user what happens next."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Tell the user what they may not expect."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    @contextmanager
    def watch(self) -> Iterator[Observer]:
        """Show one run: give it the events."""
        bar = _bar(self._console) if self._console.is_terminal else None
        with bar or nullcontext():
            yield _Watch(self, bar)


class _Watch:
    """Turns events into the bar's state, or into a line every few seconds."""

    def __init__(self, reporter: TrainingReporter, bar: Progress | None) -> None:
        self._reporter, self._bar = reporter, bar
        self._task = bar.add_task("", total=1.0, text="starting") if bar else None
        self._began = self._next_line = monotonic()
        self._first_s = 0.0
        self._first_done = 0.0
        self._loss = self._rate = 0.0

    def __call__(self, event: TrainingEvent) -> None:
        match event:
            case StepDone():
                self._show_step(event)
            case Started():
                self._first_s, self._loss = event.elapsed_s, 0.0
                if event.step:
                    self._reporter.note(f"carrying on after step {event.step:,}, {_time(event.elapsed_s)} of training")
            case Validated():
                metrics = ", ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
                best = " (best so far)" if event.is_best else ""
                self._reporter.note(f"step {event.step:,}: held-out {metrics}{best}")
            case CheckpointDamaged():
                self._reporter.warn(f"checkpoint of step {event.step:,} left aside: {event.reason}")
            case ViewsTaken():
                self._show_views(event)
            case WorkersAwaited():
                self._reporter.note(event.text)
            case CheckpointSaved():
                pass  # durable every few minutes: no news

    def _show_views(self, event: ViewsTaken) -> None:
        elapsed_s = monotonic() - self._began
        left_s = elapsed_s * (event.num_wanted / event.num_views - 1)
        left = f", about {_time(left_s)} left" if left_s else ""
        self._show(
            event.num_views / event.num_wanted,
            f"photographs of the pool {event.num_views:,}/{event.num_wanted:,}{left}",
            is_last=event.num_views == event.num_wanted,
        )

    def _show_step(self, event: StepDone) -> None:
        if not event.is_skipped:
            self._loss = _smooth(self._loss, event.loss)
        self._rate = _smooth(self._rate, event.num_patches / max(event.seconds, 1e-9))
        if not self._first_done:
            self._first_done, self._first_s = event.done, event.elapsed_s
        self._show(event.done, self._describe(event))

    def _show(self, done: float, text: str, *, is_last: bool = False) -> None:
        """Move the bar to a share of the work; without one, print the line where it is time or `is_last`."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, text=text)
        elif is_last or monotonic() >= self._next_line:
            self._next_line = monotonic() + _PLAIN_EVERY_S
            self._reporter.note(text)

    def _describe(self, event: StepDone) -> str:
        gained = event.done - self._first_done
        left_s = (1 - event.done) * (event.elapsed_s - self._first_s) / gained if gained > 0 else 0.0
        skipped = f", {event.num_skipped} skipped" if event.num_skipped else ""
        left = f", about {_time(left_s)} left" if left_s else ""
        return (
            f"step {event.step:,}/{event.num_steps:,}, loss {self._loss:.4f}, lr {event.learning_rate:.1e}, "
            f"{self._rate:.1f} patches/s, gradient {event.grad_norm:.2f}{skipped}{left}"
        )


def _bar(console: Console) -> Progress:
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[text]}"))
    return Progress(*columns, console=console, transient=True)


def _smooth(before: float, now: float) -> float:
    return _SMOOTHING * before + (1 - _SMOOTHING) * now if before else now


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
