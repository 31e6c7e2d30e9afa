"""An evaluation as tables for a person: every metric of a network beside each baseline, and where it does worst."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.evaluate import Evaluation
from jobs.progress import plural
from pipeline.evaluation import Metric
from pipeline.evaluation.statistics import Difference

_PIPED_WIDTH = 400
_WORST_OF = ("mu_psnr_db", "pu21_psnr_db")


def print_evaluation(evaluation: Evaluation) -> None:
    """Print one table per network to standard output, with its worst views below."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    found = {(d.method, d.baseline, d.metric): d for d in evaluation.differences()}
    for method in evaluation.methods:
        references = evaluation.references(method)
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title=escape(method))
        for name in ("metric", "unit"):
            table.add_column(name, no_wrap=True)
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
            table.add_row(f"{metric.label} {'(+)' if metric.higher_is_better else '(-)'}", metric.unit, *cells)
        console.print(table)
        for line in _worst(evaluation, method, found):
            console.print(line, markup=False)
        if evaluation.learnt[method]:
            console.print(learnt_text(method, evaluation.learnt[method], evaluation.num_scenes), markup=False)
        console.print()
    views, scenes = plural(len(evaluation.clipped_fractions), "view"), plural(evaluation.num_scenes, "scene")
    console.print(
        f"{views} of {scenes}: means over scenes; (+) more is better, (-) less is; differences are method minus "
        "baseline over the scenes where both are defined, with paired bootstrap intervals.",
        markup=False,
    )


def learnt_text(method: str, learnt: Sequence[str], num_scenes: int) -> str:
    """One line that says how many of the scenes a network has learnt from."""
    return f"{method} learnt from {len(learnt)} of these {plural(num_scenes, 'scene')}: its figures flatter it"


def _worst(evaluation: Evaluation, method: str, found: dict[tuple[str, str, str], Difference]) -> list[str]:
    lines = []
    for metric in evaluation.metrics:
        if metric.name not in _WORST_OF:
            continue
        for reference in evaluation.references(method):
            difference = found[method, reference, metric.name]
            if difference.worst_view is not None:
                value = f"{difference.worst:+.{metric.num_digits}f} {metric.unit}"
                lines.append(f"worst {metric.label} against {reference}: {value} at {difference.worst_view}")
    return lines


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
