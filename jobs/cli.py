"""The `hdrfleet` command: options in, exit codes out. Work is done by the modules beside it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup

import pipeline
from jobs import options as opt
from jobs.cluster.command import app as cluster_app
from jobs.convert_command import convert
from jobs.destination import open_destination
from jobs.evaluate_command import evaluate
from jobs.explain import EXIT_USAGE, MISUSED, explain_misuse, tell
from jobs.maintenance import repair, retry, verify
from jobs.plan_command import plan
from jobs.preemption.command import node_agent
from jobs.signals import heed_none_at_exit, stopping_on_signals
from jobs.stdout import guarded_stdout
from jobs.submit_command import list_jobs, logs, stop, submit
from jobs.train import train
from jobs.upkeep import compact, gc
from pipeline.errors import HdrfleetError, InterruptedJobError, StuckError, UsageError


class _Commands(TyperGroup):
    """All commands: Ctrl-C where one is not at its work yet, or done with it, ends as it does within."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptedJobError("interrupted") from error


app = typer.Typer(
    name="hdrfleet",
    cls=_Commands,
    help="Convert image libraries from LDR to HDR: linear OpenEXR out, and a manifest that can be queried.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(no_args_is_help=True, help="Look at network weights.")
app.add_typer(weights_app, name="weights")
app.add_typer(cluster_app, name="cluster")
app.command()(stopping_on_signals()(plan))
app.command()(convert)
app.command()(evaluate)
app.command()(train)
app.command("jobs")(list_jobs)
app.command("node-agent")(node_agent)
for command in (submit, logs, stop, verify, retry, repair, compact, gc):
    app.command()(command)


_QUERY_TIMEOUT_S = 600.0


def _version(value: bool) -> None:
    if value:
        typer.echo(f"hdrfleet {pipeline.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Convert image libraries from LDR to HDR: linear OpenEXR out, and a manifest that can be queried."""


@app.command()
@stopping_on_signals()
def query(
    dst: Annotated[str, typer.Argument(metavar="DST", help="Destination of a conversion.")],
    sql: Annotated[
        str | None,
        typer.Argument(metavar="SQL", help="A SELECT over manifest (one current row per source) or manifest_history."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="List the images that failed, each with its code and message.")
    ] = False,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",  # noqa: A002
    timeout: Annotated[
        float | None, typer.Option(min=0.001, max=86_400, help="Seconds that the SQL may take (by default 600).")
    ] = None,
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Ask the manifest. Without SQL, print a summary.

    Example: hdrfleet query DST "select source, stops_gained_clipped from manifest order by 2 desc limit 10"
    """
    from jobs.deadline import done_within
    from jobs.tables import print_arrow, print_json, print_summary
    from pipeline.errors import ConfigError
    from pipeline.manifest import FAILED_ROWS, SUMMARY_COLUMNS, open_manifest, run_query, summarise, took_too_long

    style = "json" if json else format
    if json and format not in {"table", "json"}:
        raise ConfigError(f"--json and --format {format} contradict each other; drop one of the two")
    if style not in {"table", "csv", "json"}:
        raise ConfigError("--format must be table, csv or json")
    if failed and sql is not None:
        raise ConfigError("--failed is a query of its own; drop it or the SQL")
    sql = FAILED_ROWS if failed else sql
    if sql is None and style == "csv":
        raise ConfigError('--format csv needs SQL, for example "select * from manifest", or --failed')
    if sql is None and timeout is not None:
        raise ConfigError("--timeout is for SQL and --failed; give one, or drop it")
    store, _ = open_destination(dst, opt.storage(endpoint_url, profile, region))
    if sql is not None:
        manifest, timeout_s = open_manifest(store), timeout or _QUERY_TIMEOUT_S
        ask = partial(run_query, manifest, sql, timeout_s=timeout_s)
        # DuckDB heeds no interrupt within one expression.
        print_arrow(done_within(timeout_s, took_too_long(timeout_s), ask), style)
        return
    summary = summarise(open_manifest(store, columns=SUMMARY_COLUMNS))
    if style == "json":
        print_json(summary.to_json())
    else:
        print_summary(summary, title=f"manifest of {store.url}")


@app.command()
@stopping_on_signals()
def status(
    context: typer.Context,
    dst: Annotated[str, typer.Argument(metavar="DST|ID", help="Destination of a conversion, or a submitted job's id.")],
    json: opt.Json = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Where the job was submitted to, for an id."),
    ] = None,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Say how far a job is, from what its destination records; needs no cluster where DST is given."""
    from jobs.status import job_status, print_status
    from jobs.submission import destination_of, is_job_id
    from jobs.tables import print_json
    from pipeline.errors import ConfigError

    # In the environment it is there for other commands.
    source = context.get_parameter_source("address")
    if not is_job_id(dst) and source is not None and source.name == "COMMANDLINE":
        raise ConfigError("--address says where to look up a job's id, and DST is none; drop one of the two")
    store, record = open_destination(destination_of(dst, address), opt.storage(endpoint_url, profile, region))
    report = job_status(store, record, last_decisions=None if json else 1)
    if json:
        print_json(report.to_json())
    else:
        print_status(report)


@weights_app.command("inspect")
@stopping_on_signals()
def inspect_weights(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .pth or .safetensors file, 'default' or 'identity'.")],
    json: opt.Json = False,
) -> None:
    """Print parameters, width, digests, and whether FILE is the released HDRUNet checkpoint."""
    from jobs.tables import print_json
    from jobs.weights import describe_weights

    description = describe_weights(file)
    if json:
        print_json(description)
        return
    width = max(map(len, description))
    for name, value in description.items():
        typer.echo(f"{name:<{width}}  {value}")


@app.command()
@stopping_on_signals()
def demo(
    folder: Annotated[
        Path, typer.Argument(parser=opt.named_path, metavar="FOLDER", help="Where the demo puts its files.")
    ] = Path("demo-output"),
    executor: Annotated[str, typer.Option(help="ray or local.")] = "ray",
) -> None:
    """Make photographs of a rendered scene, one of them broken, convert them, and show the result."""
    from jobs.demo import run_demo

    run_demo(folder, executor)


def main() -> NoReturn:
    """Entry point: every expected error is one line on standard error and an exit code."""
    heed_none_at_exit()
    try:
        with guarded_stdout():
            code = app(standalone_mode=False)
    except BrokenPipeError:
        sys.exit(1)  # whoever read has seen enough
    except MISUSED as error:
        sys.exit(_explain_misuse(error))
    except StuckError as error:
        code = tell(error)
        sys.stderr.flush()
        os._exit(code)  # a thread of this process will not end: the interpreter would wait for it
    except HdrfleetError as error:
        sys.exit(tell(error))
    sys.exit(code if isinstance(code, int) else 0)


def _explain_misuse(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands by itself: the list of them
        error.show()  # type: ignore[attr-defined]
    else:
        typer.echo(f"hdrfleet: {explain_misuse(error)} [{UsageError.code}]", err=True)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
