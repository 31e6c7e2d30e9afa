"""An evaluation as tables for a person: every metric of a network beside each baseline, by scene and by view."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.evaluation_result import Evaluation
from jobs.progress import plural
from pipeline.evaluation import FAST_METRICS, Metric
from pipeline.evaluation.statistics import Difference

_PIPED_WIDTH = 400


def print_evaluation(evaluation: Evaluation) -> None:
    """Print two tables per network to standard output: means over scenes, and what is said of single views."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    found = {(d.method, d.baseline, d.metric): d for d in evaluation.differences()}
    for method in evaluation.methods:
        console.print(_means(evaluation, method, found))
        console.print()
        console.print(_views(evaluation, method, found))
        if evaluation.learnt[method]:
            console.print(learnt_text(method, evaluation.learnt[method], evaluation.num_scenes), markup=False)
        console.print()
    views, scenes = plural(len(evaluation.clipped_fractions), "view"), plural(evaluation.num_scenes, "scene")
    console.print(
        f"{views} of {scenes}: means over scenes; (+) more is better, (-) less is; differences are method minus "
        "baseline over the scenes where both are defined, with paired bootstrap intervals. By view: medians, in how "
        "many the method is better, by what share it cuts the baseline's mean, and where it does worst.",
        markup=False,
    )


def learnt_text(method: str, learnt: Sequence[str], num_scenes: int) -> str:
    """One line that says how many of the scenes a network has learnt from."""
    return f"{method} learnt from {len(learnt)} of these {plural(num_scenes, 'scene')}: its figures flatter it"


def _means(evaluation: Evaluation, method: str, found: dict[tuple[str, str, str], Difference]) -> Table:
    """Every metric, a column pair for each of the references."""
    references = evaluation.references(method)
    table = _table(escape(method))
    table.add_column(escape(method), justify="right", no_wrap=True, style="bold")
    for reference in references:
        table.add_column(escape(reference), justify="right", no_wrap=True)
        table.add_column("difference [95 %]", no_wrap=True)
    for metric in evaluation.metrics:
        cells = [_number(evaluation.mean(method, metric), metric)]
        for reference in references:
            cells += [
                _number(evaluation.mean(reference, metric), metric),
                _difference(found[method, reference, metric.name], metric, evaluation.num_scenes),
            ]
        table.add_row(f"{metric.label} {_direction(metric)}", metric.unit, *cells)
    return table


def _views(evaluation: Evaluation, method: str, found: dict[tuple[str, str, str], Difference]) -> Table:
    """A row for each fast metric and reference, or for each metric where none of those was measured."""
    table = _table(f"{escape(method)}, by view")
    table.add_column("median", justify="right", no_wrap=True, style="bold")
    table.add_column("against", no_wrap=True)
    for name in ("median", "better in", "cut", "worst"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("at", no_wrap=True)
    shown = [metric for metric in evaluation.metrics if metric.name in FAST_METRICS] or evaluation.metrics
    for metric in shown:
        for number, reference in enumerate(evaluation.references(method)):
            difference = found[method, reference, metric.name]
            if not difference.num_views:
                continue
            median = _number(evaluation.median(method, metric), metric)
            is_cut = not metric.higher_is_better and not math.isnan(difference.share_cut)
            table.add_row(
                *((f"{metric.label} {_direction(metric)}", metric.unit, median) if number == 0 else ("", "", "")),
                escape(reference),
                _number(evaluation.median(reference, metric), metric),
                f"{difference.num_better} of {difference.num_views}",
                f"{difference.share_cut:z.0%}" if is_cut else "-",
                "-" if math.isnan(difference.worst) else f"{difference.worst:+.{metric.num_digits}f}",
                escape(difference.worst_view or ""),
            )
    return table


def _table(title: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title=title)
    for name in ("metric", "unit"):
        table.add_column(name, no_wrap=True)
    return table


def _direction(metric: Metric) -> str:
    return "(+)" if metric.higher_is_better else "(-)"


def _number(value: float, metric: Metric) -> str:
    return "-" if math.isnan(value) else f"{value:.{metric.num_digits}f}"


def _difference(difference: Difference, metric: Metric, num_scenes: int) -> str:
    """The mean difference with its interval: green where surely better, red where surely worse.

    Where not all scenes could be compared, how many could.
    """
    if math.isnan(difference.mean):
        return "-"
    digits = metric.num_digits
    text = f"{difference.mean:+.{digits}f}"
    if not math.isnan(difference.low):
        text += escape(f" [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]")
    if difference.num_scenes < num_scenes:
        text += f" of {plural(difference.num_scenes, 'scene')}"
    if not difference.is_significant:
        return text
    is_better = (difference.mean > 0) == metric.higher_is_better
    return f"[{'green' if is_better else 'red'}]{text}[/]"
