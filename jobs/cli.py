"""The `hdrfleet` command: options in, exit codes out. Work is done by the modules beside it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import pipeline
from jobs import options as opt
from jobs.cluster.command import app as cluster_app
from jobs.destination import finish, open_destination
from jobs.evaluate_command import evaluate
from jobs.maintenance import repair, retry, verify
from jobs.option_groups import DestinationStorage, SourceStorage, grouped
from jobs.signals import stopping_on_signals
from jobs.train import train
from jobs.upkeep import compact, gc
from pipeline.errors import (
    HdrfleetError,
    InterruptedJobError,
    ManifestError,
    StuckError,
    SystemicError,
    TransientStorageError,
    UsageError,
    WorkerLostError,
)

EXIT_DIED, EXIT_USAGE = 1, 2

app = typer.Typer(
    name="hdrfleet",
    help="Convert image libraries from LDR to HDR: linear OpenEXR out, and a manifest that can be queried.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(no_args_is_help=True, help="Look at network weights.")
app.add_typer(weights_app, name="weights")
app.add_typer(cluster_app, name="cluster")
app.command()(evaluate)
app.command()(train)
for command in (verify, retry, repair, compact, gc):
    app.command()(command)

_INFERENCE = "Inference"
_OUTPUT = "Output"
_RUNNING = "Running"


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
@grouped
def convert(
    src: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Folder, s3:// prefix, glob, list (.txt .csv .parquet) or S3 Inventory."),
    ],
    dst: Annotated[str, typer.Argument(metavar="DST", help="Folder or URL prefix for the EXRs and the manifest.")],
    weights: Annotated[
        str,
        typer.Option(help="'default', 'identity' (a plain decode), or a .pth or .safetensors HDRUNet checkpoint."),
    ] = "default",
    include: Annotated[
        list[str] | None, typer.Option(help="Take only names that match this pattern; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out names that match; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="Consider only the first this many images of SRC.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_INFERENCE)] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="auto, fp32, bf16 or fp16; auto is fp16 on a GPU.", rich_help_panel=_INFERENCE),
    ] = "auto",
    tile_px: Annotated[
        int | None,
        typer.Option(
            help="Side of a tile in pixels, a multiple of 4 (by default from the memory budget).",
            rich_help_panel=_INFERENCE,
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Memory for the network per worker, such as 4G (by default from the cgroup or the card).",
            rich_help_panel=_INFERENCE,
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse images with more pixels, before decoding.", rich_help_panel=_INFERENCE)
    ] = 256_000_000,
    isolate_decode: Annotated[
        bool,
        typer.Option(
            "--isolate-decode",
            help="Decode JPEG and PNG, too, in a child process that may crash.",
            rich_help_panel=_RUNNING,
        ),
    ] = False,
    decode_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a child process that decodes one image is ended, and 2 more per megapixel; at "
            "most half of --image-timeout (by default 120).",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    pixel_type: Annotated[str, typer.Option(help="half or float.", rich_help_panel=_OUTPUT)] = "half",
    compression: Annotated[
        str, typer.Option(help="none, zip, piz, dwaa:LEVEL or htj2k256.", rich_help_panel=_OUTPUT)
    ] = "zip",
    exposure: Annotated[float, typer.Option(help="Multiply linear values by 2**EV.", rich_help_panel=_OUTPUT)] = 0.0,
    keep_gps: Annotated[
        bool, typer.Option("--keep-gps", help="Write the capture position into the EXR.", rich_help_panel=_OUTPUT)
    ] = False,
    verify: Annotated[
        str, typer.Option(help="Decode what was encoded: off, sample (1 in 20) or all.", rich_help_panel=_OUTPUT)
    ] = "sample",
    workers: Annotated[
        str,
        typer.Option(help="Number of workers, or auto: one per GPU, or one per CPU node.", rich_help_panel=_RUNNING),
    ] = "auto",
    executor: Annotated[
        str, typer.Option(help="ray, or local: one worker in this process, without Ray.", rich_help_panel=_RUNNING)
    ] = "ray",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use (by default Ray is started here).", rich_help_panel=_RUNNING)
    ] = None,
    shard_images: Annotated[
        int, typer.Option(help="Images per shard, the unit of commit.", rich_help_panel=_RUNNING)
    ] = 64,
    shard_megapixels: Annotated[
        float, typer.Option(help="Close a shard at this many estimated megapixels.", rich_help_panel=_RUNNING)
    ] = 256.0,
    max_failure_rate: opt.MaxFailureRate = "50%",
    image_timeout: opt.ImageTimeout = None,
    shard_timeout: opt.ShardTimeout = None,
    lease_timeout: opt.LeaseTimeout = 180.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or warnings.")] = False,
    json: opt.Json = False,
    *,
    source_storage: SourceStorage,
    destination_storage: DestinationStorage,
) -> None:
    """Convert every image of SRC into a linear OpenEXR under DST, with one manifest row per image.

    Run the same command again to carry on after a stop, or to pick up new and changed images: what is done is not
    done again. Exit codes: 0 all converted, 3 some images failed, 2 bad usage, 1 the job stopped and can be resumed.
    """
    config = opt.build(
        source={
            "url": src,
            "include": include or (),
            "exclude": exclude or (),
            "limit": limit,
            "storage": source_storage.as_fields(),
        },
        destination={"url": opt.absolute(dst), "storage": destination_storage.as_fields()},
        model={"weights": weights},
        inference={
            "device": device,
            "precision": precision,
            "tile_px": tile_px,
            "memory_budget_bytes": opt.parse_bytes(memory_budget, "--memory-budget"),
        },
        decode={"max_pixels": max_pixels, "isolate": isolate_decode} | opt.given(timeout_s=decode_timeout),
        encode={
            "pixel_type": pixel_type,
            "compression": compression,
            "exposure_ev": exposure,
            "keep_gps": keep_gps,
            "verify": verify,
        },
        sharding={"max_images": shard_images, "max_megapixels": shard_megapixels},
        execution={
            "executor": executor,
            "num_workers": None if workers == "auto" else workers,
            "address": address,
            "max_failure_rate": opt.parse_share(max_failure_rate, "--max-failure-rate"),
            "lease_timeout_s": lease_timeout,
            **opt.given(image_timeout_s=image_timeout, shard_timeout_s=shard_timeout),
        },
    )
    # OpenEXR prints remarks about damaged files to standard output, which belongs to the result.
    with stopping_on_signals(), contextlib.redirect_stdout(sys.stderr):
        from jobs.convert import run_conversion
        from jobs.progress import ConsoleReporter

        outcome = run_conversion(config, ConsoleReporter(quiet=quiet))
    finish(outcome, json=json)


@app.command()
def query(
    dst: Annotated[str, typer.Argument(metavar="DST", help="Destination of a conversion.")],
    sql: Annotated[
        str | None,
        typer.Argument(
            metavar="[SQL]", help="A SELECT over manifest (one current row per source) or manifest_history."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",  # noqa: A002
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Ask the manifest. Without SQL, print a summary.

    Example: hdrfleet query DST "select source, stops_gained_clipped from manifest order by 2 desc limit 10"
    """
    from jobs.tables import print_arrow, print_json, print_summary
    from pipeline.errors import ConfigError
    from pipeline.manifest import SUMMARY_COLUMNS, open_manifest, run_query, summarise

    style = "json" if json else format
    if json and format not in {"table", "json"}:
        raise ConfigError(f"--json and --format {format} contradict each other; drop one of the two")
    if style not in {"table", "csv", "json"}:
        raise ConfigError("--format must be table, csv or json")
    store, _ = open_destination(dst, endpoint_url, profile, region)
    if sql is not None:
        print_arrow(run_query(open_manifest(store), sql), style)
        return
    if style == "csv":
        raise ConfigError('--format csv needs SQL, for example "select * from manifest"')
    summary = summarise(open_manifest(store, columns=SUMMARY_COLUMNS))
    if style == "json":
        print_json(summary.to_json())
    else:
        print_summary(summary, title=f"manifest of {store.url}")


@app.command()
def status(
    dst: Annotated[str, typer.Argument(metavar="DST", help="Destination of a conversion.")],
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Say how far a job is, from what its destination records; needs no cluster."""
    from jobs.status import job_status, print_status
    from jobs.tables import print_json

    report = job_status(*open_destination(dst, endpoint_url, profile, region))
    if json:
        print_json(report.to_json())
    else:
        print_status(report)


@weights_app.command("inspect")
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
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where the demo puts its files.")] = Path(
        "demo-output"
    ),
    executor: Annotated[str, typer.Option(help="ray or local.")] = "ray",
) -> None:
    """Make photographs of a rendered scene, one of them broken, convert them, and show the result."""
    with stopping_on_signals():
        from jobs.demo import run_demo

        run_demo(folder, executor)


def main() -> NoReturn:
    """Entry point: every expected error is one line on standard error and an exit code."""
    try:
        app()
    except StuckError as error:
        code = _explain(error)
        sys.stderr.flush()
        os._exit(code)  # a thread of this process will not end: the interpreter would wait for it
    except HdrfleetError as error:
        sys.exit(_explain(error))
    sys.exit(0)


def _explain(error: HdrfleetError) -> int:
    from pipeline.storage import redact_url

    hint = ""
    if isinstance(error, InterruptedJobError):
        hint = "; committed work is kept, run the same command again to carry on"
    elif isinstance(error, SystemicError) and not isinstance(error, WorkerLostError | StuckError | ManifestError):
        hint = "; committed work is kept, run the same command again once this is mended"
    elif isinstance(error, TransientStorageError):
        hint = "; committed work is kept, run the same command again once the store answers"
    text = " ".join(redact_url(f"{error}{hint}").split())
    typer.echo(f"hdrfleet: {text} [{error.code}]", err=True)
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_DIED


if __name__ == "__main__":
    main()
