"""The curves of a training run as a picture."""

from __future__ import annotations

import csv
import importlib
import io
import math
from itertools import accumulate

from pipeline.errors import ConfigError, ObjectMissingError
from pipeline.storage import ObjectStore
from pipeline.training.metrics import METRICS_CSV, VALIDATION_CSV

CURVES_PNG = "curves.png"
_NOT_LOSSES = frozenset(
    {"step", "elapsed_s", "done", "learning_rate", "grad_norm", "patches_per_s", "data_wait_share", "num_skipped"}
)

Columns = dict[str, list[float]]

# Of finite values, and how many they are.
_Sum = tuple[float, int]
_NOTHING: _Sum = (0.0, 0)


def require_matplotlib() -> None:
    """Raise ConfigError when matplotlib is not installed."""
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise ConfigError("the curves need matplotlib: pip install 'hdrfleet[train]', or give --no-plot") from error


def draw_curves(store: ObjectStore) -> str | None:
    """Draw loss, learning rate, gradient norm and speed over the steps; return the key of the PNG.

    Returns None where nothing was logged yet.
    """
    train, held_out = _read(store, METRICS_CSV), _read(store, VALIDATION_CSV)
    if not train.get("step"):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    losses = [name for name in train if name not in _NOT_LOSSES]
    panels = [[name] for name in losses] + [["learning_rate"], ["grad_norm"], ["patches_per_s"]]
    num_columns = 3
    for number, (name,) in enumerate(panels, start=1):
        axes = figure.add_subplot(math.ceil(len(panels) / num_columns), num_columns, number)
        axes.plot(train["step"], train[name], linewidth=0.8, alpha=0.35, color="tab:blue")
        axes.plot(train["step"], _running_mean(train[name]), color="tab:blue", label="training")
        if name in held_out:
            axes.plot(held_out["step"], held_out[name], "o-", markersize=3, color="tab:orange", label="held out")
            axes.legend()
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if name in losses and min(train[name]) > 0:
            axes.set_yscale("log")
    buffer = io.BytesIO()
    canvas.print_png(buffer)  # type: ignore[no-untyped-call]
    store.replace(CURVES_PNG, buffer.getvalue())
    return CURVES_PNG


def _read(store: ObjectStore, key: str) -> Columns:
    try:
        rows = list(csv.DictReader(io.StringIO(store.read(key).decode())))
    except ObjectMissingError:
        return {}
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def _running_mean(values: list[float]) -> list[float]:
    """The mean of the last tenth of what came before each value, so that noise does not hide the trend.

    Takes linear time, and sums are never subtracted: after one huge loss nothing would be left of the small ones. The
    window is a queue of two parts: `older` has the sums from each of its values to the part's end, the first value's
    last; `newer` is one sum, whose values become the next older part.
    """
    means: list[float] = []
    older: list[_Sum] = []
    newer, start = _NOTHING, 0
    for end, value in enumerate(values, start=1):
        newer = _add(newer, value)
        while start < end - max(1, end // 10):
            if not older:
                older = list(accumulate(reversed(values[start:end]), _add, initial=_NOTHING))[1:]
                newer = _NOTHING
            older.pop()
            start += 1
        total, number = older[-1] if older else _NOTHING
        means.append((total + newer[0]) / (number + newer[1]) if number + newer[1] else math.nan)
    return means


def _add(so_far: _Sum, value: float) -> _Sum:
    return (so_far[0] + value, so_far[1] + 1) if math.isfinite(value) else so_far
