"""What a run measured of itself: CSV files and TensorBoard events beside its checkpoints. No torch here."""

from __future__ import annotations

import csv
import importlib
import io
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from pipeline.errors import ConfigError, ObjectMissingError
from pipeline.storage import ObjectStore
from pipeline.training.events import CheckpointSaved, Started, StepDone, TrainingEvent, Validated

METRICS_CSV = "metrics.csv"
VALIDATION_CSV = "validation.csv"
TENSORBOARD_FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise ConfigError when the package that writes TensorBoard events is not installed."""
    try:
        importlib.import_module("tensorboardX")
    except ImportError as error:
        raise ConfigError(
            "TensorBoard events need tensorboardX: pip install 'hdrfleet[train]', or give --no-tensorboard"
        ) from error


class MetricsWriter:
    """An observer that writes a row of means every `log_every_steps`, and one per validation.

    Files lie in the run's own place where that is a local folder. TensorBoard appends to its files, which object stores
    cannot: for those, files are written to a temporary folder and stored at each checkpoint and at the end.
    A resumed run drops the rows of steps that it takes again.
    """

    def __init__(self, store: ObjectStore, *, log_every_steps: int, tensorboard: bool) -> None:
        if tensorboard:
            require_tensorboard()
        self._store, self._log_every_steps, self._tensorboard = store, log_every_steps, tensorboard
        self._is_remote = "://" in store.url
        self._stack = ExitStack()
        self._folder = Path(store.url)
        if self._is_remote:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hdrfleet-metrics-")))
        self._events: Any = None
        self._pending: list[StepDone] = []
        self._uploaded: dict[Path, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._stack:
            if self._pending:
                self._log(_summarise(self._pending))
            if self._events is not None:
                self._events.close()
            self._upload()

    def __call__(self, event: TrainingEvent) -> None:
        """Take an event in."""
        match event:
            case Started():
                self._start(event.step)
            case StepDone():
                self._pending.append(event)
                if event.step % self._log_every_steps == 0:
                    self._log(_summarise(self._pending))
            case Validated():
                score = {"score": event.score, "is_best": int(event.is_best)}
                self._append(
                    VALIDATION_CSV, {"step": event.step, "elapsed_s": event.elapsed_s, **event.metrics, **score}
                )
                self._draw("validation", event.metrics, event.step)
            case CheckpointSaved():
                if self._events is not None:
                    self._events.flush()
                self._upload()

    def _start(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pending.clear()
        for name in (METRICS_CSV, VALIDATION_CSV):
            self._cut_after(name, step)
        if self._tensorboard and self._events is None:
            writer = importlib.import_module("tensorboardX").SummaryWriter
            # Also at step 0: a start that was killed before its first checkpoint has left points of steps to come.
            self._events = writer(str(self._folder / TENSORBOARD_FOLDER), purge_step=step + 1)

    def _cut_after(self, name: str, step: int) -> None:
        """Keep the rows up to `step` of what an earlier start wrote."""
        try:
            text = self._store.read(name).decode()
        except ObjectMissingError:
            return
        lines = text.splitlines(keepends=True)
        kept = "".join([*lines[:1], *(line for line in lines[1:] if _is_row_up_to(line, step))])
        if self._is_remote:
            (self._folder / name).write_text(kept, encoding="utf-8")
        else:
            self._store.replace(name, kept.encode())

    def _log(self, row: Mapping[str, float]) -> None:
        self._pending.clear()
        self._append(METRICS_CSV, row)
        self._draw("train", {name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def _append(self, name: str, row: Mapping[str, float]) -> None:
        path = self._folder / name
        is_new = not path.exists() or not path.stat().st_size
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if is_new:
            writer.writerow(row)
        writer.writerow([value if isinstance(value, int) else f"{value:.6g}" for value in row.values()])
        with path.open("a", encoding="utf-8") as file:
            file.write(buffer.getvalue())

    def _draw(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)

    def _upload(self) -> None:
        if not self._is_remote:
            return
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            version = (path.stat().st_size, path.stat().st_mtime_ns)
            if self._uploaded.get(path) != version:
                self._store.replace(path.relative_to(self._folder).as_posix(), path.read_bytes())
                self._uploaded[path] = version


def _summarise(steps: list[StepDone]) -> dict[str, float]:
    """One row for an interval: means over its steps that were not skipped, rates over all of them."""
    last, seconds = steps[-1], sum(step.seconds for step in steps)
    taken = [step for step in steps if not step.is_skipped]
    return {
        "step": last.step,
        "elapsed_s": last.elapsed_s,
        "done": last.done,
        "loss": _mean([step.loss for step in taken]),
        **{name: _mean([step.parts[name] for step in taken]) for name in last.parts},
        "learning_rate": last.learning_rate,
        "grad_norm": _mean([step.grad_norm for step in taken]),
        "patches_per_s": sum(step.num_patches for step in steps) / max(seconds, 1e-9),
        "data_wait_share": sum(step.data_wait_s for step in steps) / max(seconds, 1e-9),
        "num_skipped": last.num_skipped,
    }


def _is_row_up_to(line: str, step: int) -> bool:
    """Whether a line is whole, as one that was being written when the process was killed is not, and early enough."""
    first = line.partition(",")[0]
    return line.endswith("\n") and first.isdecimal() and int(first) <= step


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
