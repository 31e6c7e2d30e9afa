"""Options and output of `hdrfleet convert`; the work is done by `jobs.convert`."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from jobs import options as opt
from jobs.destination import finish
from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage, grouped
from jobs.signals import stopping_on_signals

_INFERENCE = "Inference"
_OUTPUT = "Output"
_RUNNING = "Running"


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
    cost: CostOptions,
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
    cost.require_sensible()
    cost.require_limit()
    # OpenEXR prints remarks about damaged files to standard output, which belongs to the result.
    with stopping_on_signals(), contextlib.redirect_stdout(sys.stderr):
        from jobs.convert import run_conversion
        from jobs.progress import ConsoleReporter

        reporter = ConsoleReporter(quiet=quiet)
        if cost.max_cost is not None:
            from jobs.plan_command import require_within_cost

            reporter.note(require_within_cost(config, cost, cost.max_cost, destination_storage))
        outcome = run_conversion(config, reporter)
    finish(outcome, json=json)
