"""`hdrfleet submit`, `jobs`, `logs` and `stop`: conversions as jobs of a Ray cluster (see `jobs.submission`)."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.conversion_options import ConversionOptions, Destination, Quiet, Source
from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage, arguments_of, grouped
from jobs.reporting import LogFormat, check_log_format
from pipeline.errors import ConfigError, JobServerError, LostSightError

if TYPE_CHECKING:
    from jobs.submission import JobServer, SubmittedJob
    from pipeline.config import ConversionConfig

Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The cluster's dashboard, http://HOST:8265; where it is not open to you, through a tunnel.",
    ),
]
IdOrDst = Annotated[str, typer.Argument(metavar="ID|DST", help="A job's id, or the destination that it works on.")]
_EXIT_DIED = 1


@grouped
def submit(
    src: Source,
    dst: Destination,
    address: Address,
    options: ConversionOptions,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show what the job writes until it ends; its exit code is ours.")
    ] = False,
    use_image: Annotated[
        bool,
        typer.Option(
            "--use-image", help="Run the hdrfleet of the cluster's image; by default this one's code is sent."
        ),
    ] = False,
    log_format: LogFormat = "text",
    quiet: Quiet = False,
    json: opt.Json = False,
    *,
    source_storage: SourceStorage,
    destination_storage: DestinationStorage,
    cost: CostOptions,
) -> None:
    """Run a conversion on a Ray cluster as a job that needs neither this terminal nor this machine.

    Submitting the same conversion again while it runs gives the same job. No credential is sent: the cluster's machines
    read SRC and write DST with their own. Exit codes: 0 submitted, 2 bad usage; with --follow those of `convert`.
    """
    from jobs.submission import JobServer
    from jobs.supervise import LOGS_JSON

    if json and follow:
        raise ConfigError("--json and --follow contradict each other; drop one of the two")
    check_log_format(log_format)
    priced, prices = _with_prices(cost, has_budget=options.needs_price)
    options = options.priced(cost)
    config = options.config(src, dst, source_storage, destination_storage, executor="ray", address="auto")
    _require_sendable(src, dst, options.weights, cost.throughput_from)
    _require_apart(config)
    sent, weights = _with_weights(options)
    src, dst = opt.absolute(_without_slash(src)), opt.absolute(_without_slash(dst))
    arguments = [src, dst, "--address=auto"]
    groups = (sent, source_storage, destination_storage, priced)
    arguments += [text for group in groups for text in arguments_of(group)]
    says = [*(["--quiet"] if quiet else []), *([LOGS_JSON] if log_format == "json" else [])]
    server = JobServer(address)
    job, is_new = server.submit(src, dst, arguments, files=weights | prices, use_image=use_image, reporting=says)
    if json:
        _print_json(job, is_new=is_new)
        return
    typer.echo(f"{job.id} {'submitted' if is_new else 'is at work on it already'}", err=True)
    if not follow:
        typer.echo(f"hdrfleet logs -f {job.id} --address {address}   shows what it does")
        return
    _follow(server, job)


def list_jobs(address: Address, json: opt.Json = False) -> None:
    """List the conversions that a cluster runs, or remembers, the latest first."""
    from rich.markup import escape
    from rich.table import Table

    from jobs.submission import JobServer
    from jobs.tables import fitting_console, print_json

    found = JobServer(address).all_jobs()
    if json:
        print_json([asdict(job) for job in found])
        return
    table = Table("job", "status", "started", "took", "DST", box=None, pad_edge=False)
    for job in found:
        table.add_row(job.id, _outcome(job), _moment(job.started_at), _took(job), escape(job.dst))
    fitting_console().print(table)


def logs(
    job: IdOrDst,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Show what a job's driver wrote. With --follow the exit code is the job's."""
    from jobs.submission import JobServer, is_job_id

    server = JobServer(address)
    found = server.find(job if is_job_id(job) else opt.absolute(job))
    if follow:
        _follow(server, found)
    else:
        sys.stdout.write(server.logs(found))


def stop(job: IdOrDst, address: Address) -> None:
    """Stop a job. What it has committed stays; submitting it again carries on."""
    from jobs.submission import JobServer, is_job_id

    server = JobServer(address)
    found = server.find(job if is_job_id(job) else opt.absolute(job))
    was_active = found.is_active
    ended = server.stop(found)
    typer.echo(f"{ended.id} {'is stopped' if was_active else 'had ended'} ({_outcome(ended)})")


def _without_slash(url: str) -> str:
    """A prefix or folder as it is written without a slash at its end, so that one conversion is one job.

    What would be read otherwise then stays as it is: a pattern, or a folder that is named like a list.
    """
    from pipeline.sharding import SourceShape, source_shape

    bare = url.rstrip("/")
    is_place = bare and not bare.endswith(":")
    return bare if is_place and source_shape(bare) is source_shape(url) is SourceShape.PATH else url


def _require_sendable(src: str, dst: str, weights: str, throughput_from: str | None) -> None:
    """Raise ConfigError for places that no machine could use, and for what must not be told to a job server."""
    from pipeline.config import StorageConfig
    from pipeline.storage import open_store, redact_url
    from pipeline.storage.redact import without_userinfo

    given = (("SRC", src), ("DST", dst), ("--weights", weights), ("--throughput-from", throughput_from or ""))
    for name, url in given:
        text = url.rpartition("://")[2]  # of a whole URL, any query would go
        if without_userinfo(url) != url or redact_url(text) != text:
            raise ConfigError(f"{name}: holds a signature or a key, and what is sent to a cluster can be read there")
    if "://" in weights and "?" in weights:
        raise ConfigError("--weights: a weights URL cannot have a query; download the file and give its path")
    try:
        open_store(opt.absolute(dst), StorageConfig())
    except ConfigError as error:
        if not isinstance(error.__cause__, ImportError):  # which the cluster may have, and this machine need not
            raise


def _require_apart(config: ConversionConfig) -> None:
    """Raise ConfigError for a source that is the destination or lies inside it.

    Endpoints are told apart by the options alone: the cluster's machines have environments of their own, and the driver
    looks again.
    """
    from pipeline.sharding.locations import relative_to
    from pipeline.storage import redact_url
    from pipeline.storage.endpoints import may_overlap

    source, destination = config.source, config.destination
    if not may_overlap(source.url, source.storage, destination.url, destination.storage, environment={}):
        return
    if relative_to(source.url, destination.url) is not None or relative_to(destination.url, source.url) == "":
        raise ConfigError(f"SRC is DST or lies inside it: {redact_url(source.url)}; give another DST")


def _with_weights(options: ConversionOptions) -> tuple[ConversionOptions, dict[str, Path]]:
    """Local weights are sent along, in a folder, lest their name be a built-in's. Raises WeightsError for none."""
    from jobs.weights import read_weights
    from pipeline.models.builtin import BUILT_IN_WEIGHTS, DEFAULT

    if options.weights in {DEFAULT, *BUILT_IN_WEIGHTS} or "://" in options.weights:
        return options, {}
    read_weights(options.weights)
    path = Path(options.weights).expanduser()
    sent = f"weights/{path.name}"
    return replace(options, weights=sent), {sent: path}


def _with_prices(cost: CostOptions, *, has_budget: bool) -> tuple[CostOptions, dict[str, Path]]:
    """What the conversion may cost, checked as far as that can be done here; the cluster reckons and refuses.

    What a budget is reckoned with is its price alone, which is sent: the machine and the table serve a limit.
    """
    cost.require_sensible()
    cost.require_limit(has_budget=has_budget)
    if cost.max_cost is None:
        return CostOptions(), {}
    cost.price_per_worker_hour(None)  # for what it refuses: a table, a machine or a spot price that is not there
    if cost.throughput_from is not None:
        cost = replace(cost, throughput_from=opt.absolute(cost.throughput_from))
    if cost.prices is None:
        return cost, {}
    sent = f"prices/{cost.prices.name}"
    return replace(cost, prices=Path(sent)), {sent: cost.prices}


def _follow(server: JobServer, job: SubmittedJob) -> None:
    """Show the job's output to its end and leave with its exit code; Ctrl-C leaves the job alone."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        ended = server.follow(job, write)
    except KeyboardInterrupt:
        typer.echo(f"\n{job.id} goes on; `hdrfleet stop {job.id}` stops it", err=True)
        raise typer.Exit(_EXIT_DIED) from None
    except JobServerError as error:
        raise LostSightError(f"{error}; {job.id} may go on") from error
    typer.echo(f"{ended.id} {_outcome(ended)}", err=True)
    raise typer.Exit(_EXIT_DIED if ended.exit_code is None or ended.exit_code < 0 else ended.exit_code)


def _print_json(job: SubmittedJob, *, is_new: bool) -> None:
    from jobs.tables import print_json

    print_json({**asdict(job), "is_new": is_new})


def _moment(unix_s: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s)) if unix_s else ""


def _took(job: SubmittedJob) -> str:
    if job.started_at is None:
        return ""
    seconds = int((job.ended_at or time.time()) - job.started_at)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _outcome(job: SubmittedJob) -> str:
    """Its status in words: Ray calls every exit code but 0 a failure."""
    if job.is_active or job.exit_code is None:
        return job.status.lower()
    return {0: "done", 3: "done, some images failed"}.get(job.exit_code, f"{job.status.lower()}, exit {job.exit_code}")
