"""Options and output of `hdrfleet convert`; the work is done by `jobs.convert`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.conversion_options import ConversionOptions, Destination, LogFormat, Quiet, Source, require_log_format
from jobs.destination import finish
from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage, grouped
from jobs.signals import stopping_on_signals

if TYPE_CHECKING:
    from jobs.progress import Reporter

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
    done again. Exit codes: 0 all converted, 3 some images failed, 2 bad usage, 1 the job stopped and can be resumed.
    """
    require_log_format(log_format)
    with _reporting(log_format, quiet=quiet) as reporter:
        config = options.config(src, dst, source_storage, destination_storage, executor=executor, address=address)
        cost.require_sensible()
        cost.require_limit()
        with stopping_on_signals():
            from jobs.convert import run_conversion

            if cost.max_cost is not None:
                from jobs.plan_command import require_within_cost

                reporter.note(require_within_cost(config, cost, cost.max_cost, destination_storage))
            outcome = run_conversion(config, reporter)
        reporter.finished(outcome.exit_code, outcome.seconds)
    finish(outcome, json=json)


@contextlib.contextmanager
def _reporting(log_format: str, *, quiet: bool) -> Iterator[Reporter]:
    """What the job reports to; what libraries print goes to standard error, for standard output is for the result."""
    if log_format == "json":
        from jobs.json_log import json_log

        with json_log(quiet=quiet) as log:
            yield log
        return
    from jobs.progress import ConsoleReporter

    # OpenEXR prints remarks about damaged files to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        yield ConsoleReporter(quiet=quiet)
