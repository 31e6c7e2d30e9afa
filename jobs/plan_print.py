"""A plan for a person: what there is, what it was reckoned with and how sure that is, and a table of machines."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.plan import ConversionPlan
from jobs.plan_source import SourceEstimate
from jobs.plan_speed import most_workers
from jobs.progress import plural
from jobs.units import byte_size, duration, megapixel_size, money

_PIPED_WIDTH = 200
_COLUMNS = (
    "machine",
    "workers",
    "nodes",
    "GPU-hours",
    "wall time",
    "between",
    "on demand",
    "spot",
    "MP/s each",
    "limit",
)


def print_plan(plan: ConversionPlan) -> None:
    """Write the plan to standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=_PIPED_WIDTH)
    for line in [*_source_lines(plan.source), *_output_lines(plan), *_certainty_lines(plan), ""]:
        console.print(line, markup=False)
    console.print(_table(plan))


def _source_lines(source: SourceEstimate) -> list[str]:
    lines = [
        f"{plural(source.num_images, 'image')}, {byte_size(source.num_bytes)}, {plural(source.num_shards, 'shard')}"
    ]
    pixels = megapixel_size(source.megapixels)
    if source.megapixels_low is None or source.megapixels_high is None:
        lines.append(f"{pixels}, guessed from bytes, which is rather too much; --sample-headers says more")
    elif source.num_sampled == source.num_images:
        lines.append(f"{pixels}, by all headers")
    else:
        high = "?" if math.isinf(source.megapixels_high) else f"{source.megapixels_high:,.1f}"
        lines.append(
            f"{pixels} by {source.num_sampled:,} headers; 95 % between {source.megapixels_low:,.1f} and {high}"
        )
    if source.num_unknown:
        lines.append(f"{source.num_unknown:,} of these headers did not say: guessed from bytes")
    if source.num_unreadable:
        names = ", ".join(source.unreadable_examples)
        lines.append(f"{source.num_unreadable:,} of these cannot be read, for example {names}")
    if source.num_ignored:
        lines.append(f"{plural(source.num_ignored, 'file')} without the name of an image left out")
    if source.num_unusable:
        lines.append(f"{plural(source.num_unusable, 'image')} whose names cannot be used left out; rename them")
    if source.num_special:
        lines.append(f"{plural(source.num_special, 'link')} to folders or to nothing, or devices, not taken")
    return lines


def _output_lines(plan: ConversionPlan) -> list[str]:
    sizes = ", ".join(f"{name} {byte_size(size)}" for name, size in plan.output_bytes.items())
    return [f"output with {plan.compression}: {byte_size(plan.work.output_bytes)}  (by compression: {sizes})"]


def _certainty_lines(plan: ConversionPlan) -> list[str]:
    lines = []
    if plan.measured:
        job = plan.measured
        start = "start not known, and not in the times" if job.start_s is None else f"start {job.start_s:.0f} s"
        lines.append(
            f"measured: {job.num_images:,} images, {megapixel_size(job.megapixels)} on {job.device} "
            f"({job.precision}) at {job.where}; {start}"
        )
    sources = sorted({machine.speed.source for machine in plan.machines if machine.node})
    if any("estimated" in source for source in sources):
        lines.append(
            "speeds are estimates: no GPU has been measured with hdrfleet; 30 % of a card's peak (15 to 50), codecs as "
            "measured on another processor (0.7 to 2 times). --throughput-from DST replaces them"
        )
    lines += _most_workers_lines(plan)
    lines.append("prices are the table's, examples unless it is yours (--prices); transfer and storage are not in them")
    return lines


def _most_workers_lines(plan: ConversionPlan) -> list[str]:
    """How many workers are started at most, where the table has a row that reaches it."""
    most = {
        num
        for machine in plan.machines
        if (num := most_workers(plan.work, machine.speed)) <= max(each.num_workers for each in machine.predictions)
    }
    if not most:
        return []
    low, high = min(most), max(most)
    limit = plural(high, "worker") if low == high else f"{low:,} to {high:,} workers, by machine"
    line = f"the job starts no more than {limit}: others would have too little work"
    return [f"{line}; --shard-images makes more shards" if high < plan.source.num_images else line]


def _table(plan: ConversionPlan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in {"machine", "limit"} else "right", no_wrap=True)
    for machine in plan.machines:
        node, speed = machine.node, machine.speed
        name = f"{node.name} {node.accelerator}".strip() if node else "as measured"
        for prediction in machine.predictions:
            table.add_row(
                escape(name),
                f"{prediction.num_workers:,}",
                f"{prediction.num_nodes:,}",
                f"{prediction.worker_h:,.2f}",
                duration(prediction.wall_s),
                f"{duration(prediction.wall_s_low)} - {duration(prediction.wall_s_high)}",
                _money(prediction.cost, prediction.currency),
                _money(prediction.spot_cost, prediction.currency),
                f"{plan.work.megapixels / max(1e-9, speed.worker_s):,.3g}",
                "start-up" if speed.start_s > speed.worker_s / prediction.num_workers else speed.limit,
            )
    return table


def _money(amount: float | None, currency: str) -> str:
    return "" if amount is None else f"{money(amount)} {currency}"
