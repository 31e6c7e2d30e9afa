"""Options and output of `hdrfleet convert`; the work is done by `jobs.convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options as opt
from jobs.conversion_options import ConversionOptions, Destination, Quiet, Source
from jobs.destination import finish
from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage, grouped
from jobs.reporting import LogFormat, reporting
from jobs.signals import stopping_on_signals

_RUNNING = "Running"


@grouped
def convert(
    src: Source,
    dst: Destination,
    options: ConversionOptions,
    executor: Annotated[
        str, typer.Option(help="ray, or local: one worker in this process, without Ray.", rich_help_panel=_RUNNING)
    ] = "ray",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use (by default Ray is started here).", rich_help_panel=_RUNNING)
    ] = None,
    log_format: LogFormat = "text",
    quiet: Quiet = False,
    json: opt.Json = False,
    *,
    source_storage: SourceStorage,
    destination_storage: DestinationStorage,
    cost: CostOptions,
) -> None:
    """Convert every image of SRC into a linear OpenEXR under DST, with one manifest row per image.

    Run the same command again to carry on after a stop, or to pick up new and changed images: what is done is not
    done again. Exit codes: 0 all converted, 3 some images failed or have names that cannot be used, 2 bad usage, 1 the
    job stopped and can be resumed, 4 the same because --budget is spent.
    """
    with reporting(log_format, quiet=quiet) as reporter:
        cost.require_sensible()
        cost.require_limit(has_budget=options.needs_price)
        config = options.priced(cost).config(
            src, dst, source_storage, destination_storage, executor=executor, address=address
        )
        with stopping_on_signals():
            from jobs.convert import run_conversion

            if cost.max_cost is not None:
                from jobs.plan_command import require_within_cost

                reporter.note(require_within_cost(config, cost, cost.max_cost, destination_storage))
            outcome = run_conversion(config, reporter)
        reporter.finished(outcome.exit_code, outcome.seconds)
    finish(outcome, json=json)
