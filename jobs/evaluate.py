"""`hdrfleet evaluate`: how good weights are against ground truth, beside the baselines, with intervals and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from rich.console import Console
from rich.progress import Progress

from jobs.colorvideovdp import LABEL, NAME, UNIT, ColorVideoVdp
from jobs.evaluation_methods import Method
from jobs.evaluation_result import Evaluation
from jobs.evaluation_sheet import SheetImage, SheetView, render_evaluation_sheet
from jobs.evaluation_texture import TEXTURE_METRICS
from jobs.evaluation_views import View, ViewSource
from pipeline.errors import ConfigError, DestinationError
from pipeline.evaluation import FAST_METRICS, METRICS, Metric
from pipeline.evaluation.areas import clipped_area
from pipeline.evaluation.pair import Pair, build_pair
from pipeline.evaluation.statistics import ViewValues
from pipeline.simulation.split import learnt_among

ALL_METRICS: dict[str, Metric] = {**METRICS, **TEXTURE_METRICS}
_RECORD_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".parquet": pa_parquet.write_table,
    ".csv": pa_csv.write_csv,
}
_CVVDP = Metric(NAME, LABEL, UNIT, True, False, 3, lambda _: float("nan"))  # measured for all methods at once
_MAX_SHEET_VIEWS = 4
_NOTED = ("mu_psnr_db", "pu21_psnr_db", "clipped_error_stops")


def choose_metrics(text: str) -> tuple[Metric, ...]:
    """Read `--metrics`: `all`, `fast`, or names with commas between. Raises ConfigError for a name that is none."""
    if text == "all":
        return tuple(ALL_METRICS.values())
    names = FAST_METRICS if text == "fast" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in ALL_METRICS]
    if unknown:
        raise ConfigError(f"--metrics: no metric {unknown[0]!r}; give all, fast, or of: {', '.join(ALL_METRICS)}")
    return tuple(ALL_METRICS[name] for name in dict.fromkeys(names))


def evaluate(
    source: ViewSource,
    networks: Sequence[Method],
    baselines: Sequence[Method],
    metrics: Sequence[Metric],
    *,
    sheets: Path | None = None,
    vdp: ColorVideoVdp | None = None,
    on_view: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Run every method on every view and measure it; write one sheet per scene where `sheets` names a folder.

    With `vdp`, ColorVideoVDP is one more metric. One view is in memory at a time, and those of one scene's sheet.
    Raises SceneError at input that cannot be used, ConfigError where a metric needs a package that is not installed,
    DestinationError where a sheet cannot be written.
    """
    found: list[ViewValues] = []
    clipped: dict[str, float] = {}
    collector = _SheetCollector(sheets, {"srgb", *(method.name for method in networks)})
    for view in source:
        pairs = {
            method.name: build_pair(view.ldr, method.run(view.ldr), view.truth) for method in (*networks, *baselines)
        }
        values = {name: {metric.name: metric.function(pair) for metric in metrics} for name, pair in pairs.items()}
        if vdp is not None:
            for name, jod in vdp.measure({name: pair.output for name, pair in pairs.items()}, view.truth).items():
                values[name][NAME] = jod
        found += [ViewValues(view.scene, view.name, name, measured) for name, measured in values.items()]
        clipped[view.name] = float(clipped_area(view.ldr).mean())
        collector.add(view, clipped[view.name], pairs, values)
        on_view(view.name)
    collector.finish()
    shown = (*metrics, *((_CVVDP,) if vdp is not None else ()))
    return Evaluation(
        settings={
            "views": source.describe(),
            "methods": {method.name: method.details for method in networks},
            "metrics": [metric.name for metric in shown],
        },
        methods=tuple(method.name for method in networks),
        baselines=tuple(method.name for method in baselines),
        metrics=shown,
        views=tuple(found),
        clipped_fractions=clipped,
        learnt={method.name: learnt_among(source.scenes, method.learnt_from) for method in networks},
    )


def check_records_path(path: Path) -> None:
    """Refuse, before any work, a file for records whose kind is unknown or whose folder is missing."""
    if path.suffix not in _RECORD_WRITERS:
        raise ConfigError(f"--records {path}: give a file that ends in .parquet or .csv")
    if not path.parent.is_dir():
        raise DestinationError(f"--records {path}: there is no folder {path.parent}")


def write_records(evaluation: Evaluation, path: Path) -> None:
    """Write `Evaluation.to_table` as Parquet or CSV, by extension. Raises DestinationError where it cannot."""
    try:
        _RECORD_WRITERS[path.suffix](evaluation.to_table(), path)
    except OSError as error:
        raise DestinationError(f"cannot write {path}: {error}") from error


def prepare_sheets(folder: Path) -> None:
    """Create the folder for sheets. Raises DestinationError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DestinationError(f"--sheets {folder}: cannot be created: {error}") from error


@contextmanager
def progress(num_views: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on standard error how many views are done, where that is a terminal; yields what to call after each."""
    console = Console(stderr=True, quiet=quiet)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=num_views)
        yield lambda name: bar.update(task, advance=1, description=name)


class _SheetCollector:
    """Gathers the first views of a scene and writes its sheet when the next scene comes. `shown` names its methods."""

    def __init__(self, folder: Path | None, shown: set[str]) -> None:
        self._folder = folder
        self._shown = shown
        self._scene: str | None = None
        self._views: list[SheetView] = []

    def add(
        self, view: View, clipped_fraction: float, pairs: dict[str, Pair], values: dict[str, dict[str, float]]
    ) -> None:
        if self._folder is None:
            return
        if view.scene != self._scene:
            self.finish()
            self._scene = view.scene
        if len(self._views) < _MAX_SHEET_VIEWS:
            # The sRGB decode stands for the input: that is how a viewer shows it.
            names = sorted(self._shown.intersection(pairs), key=lambda name: (name != "srgb", [*pairs].index(name)))
            images = [
                SheetImage("input (sRGB)" if name == "srgb" else name, pairs[name].output, _note(values[name]))
                for name in names
            ]
            self._views.append(SheetView(view.name, images, view.truth, f"{clipped_fraction:.1%} clipped"))

    def finish(self) -> None:
        if self._folder is None or not self._views or self._scene is None:
            return
        path = self._folder / f"{self._scene}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            render_evaluation_sheet(self._scene, self._views).save(path, "PNG")
        except OSError as error:
            raise DestinationError(f"cannot write {path}: {error}") from error
        self._views = []


def _note(values: dict[str, float]) -> str:
    noted = [(ALL_METRICS[name], values[name]) for name in _NOTED if name in values]
    short = {"mu_psnr_db": "mu-PSNR", "pu21_psnr_db": "PU21", "clipped_error_stops": "clipped"}
    return "\n".join(f"{short[m.name]} {value:.2f} {m.unit}" for m, value in noted if np.isfinite(value))
