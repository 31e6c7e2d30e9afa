"""The options of a conversion, for every command that makes one or asks what one would be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import ConversionConfig

_DST = "Destination storage"
_INFERENCE = "Inference"
_OUTPUT = "Output"
_RUNNING = "Running"

Source = Annotated[
    str,
    typer.Argument(metavar="SRC", help="Folder, s3:// prefix, glob, list (.txt .csv .parquet) or S3 Inventory."),
]
Destination = Annotated[str, typer.Argument(metavar="DST", help="Folder or URL prefix for the EXRs and the manifest.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or warnings.", rich_help_panel=_RUNNING)]


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What is converted and how; where it runs and how its stores are reached are options of their own."""

    weights: Annotated[
        str,
        typer.Option(help="'default', 'identity' (a plain decode), or a .pth or .safetensors HDRUNet checkpoint."),
    ] = "default"
    include: Annotated[list[str] | None, typer.Option(help="Take only names that match this pattern; repeatable.")] = (
        None
    )
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out names that match; repeatable.")] = None
    limit: Annotated[int | None, typer.Option(help="Consider only the first this many images of SRC.")] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_INFERENCE)] = "auto"
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, bf16 or fp16; auto is fp16 on a GPU, and bf16 on a processor that has it.",
            rich_help_panel=_INFERENCE,
        ),
    ] = "auto"
    tile_px: Annotated[
        int | None,
        typer.Option(
            help="Side of a tile in pixels, a multiple of 4 (by default as large as memory allows, and no larger).",
            rich_help_panel=_INFERENCE,
        ),
    ] = None
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Memory for the network per worker, such as 4G (by default from the cgroup or the card).",
            rich_help_panel=_INFERENCE,
        ),
    ] = None
    max_pixels: Annotated[
        int, typer.Option(help="Refuse images with more pixels, before decoding.", rich_help_panel=_INFERENCE)
    ] = 256_000_000
    max_bytes: Annotated[
        str | None,
        typer.Option(help="Refuse files with more bytes, such as 512M (by default 2G).", rich_help_panel=_INFERENCE),
    ] = None
    isolate_decode: Annotated[
        bool,
        typer.Option(
            "--isolate-decode",
            help="Decode JPEG and PNG, too, in a child process that may crash.",
            rich_help_panel=_RUNNING,
        ),
    ] = False
    decode_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a child process that decodes one image is ended, and 2 more per megapixel; at "
            "most half of --image-timeout (by default 120).",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    pixel_type: Annotated[str, typer.Option(help="half or float.", rich_help_panel=_OUTPUT)] = "half"
    compression: Annotated[
        str,
        typer.Option(
            help="none, zip, piz, htj2k256, or dwaa:LEVEL, which loses detail (45 is usual).", rich_help_panel=_OUTPUT
        ),
    ] = "zip"
    exposure: Annotated[float, typer.Option(help="Multiply linear values by 2**EV.", rich_help_panel=_OUTPUT)] = 0.0
    keep_gps: Annotated[
        bool, typer.Option("--keep-gps", help="Write the capture position into the EXR.", rich_help_panel=_OUTPUT)
    ] = False
    verify: Annotated[
        str, typer.Option(help="Decode what was encoded: off, sample (1 in 20) or all.", rich_help_panel=_OUTPUT)
    ] = "sample"
    workers: Annotated[
        str,
        typer.Option(help="Number of workers, or auto: one per GPU, or one per CPU node.", rich_help_panel=_RUNNING),
    ] = "auto"
    max_workers: Annotated[
        int | None,
        typer.Option(help="Let workers come and go with the work, up to this many.", rich_help_panel=_RUNNING),
    ] = None
    min_workers: Annotated[
        int | None,
        typer.Option(help="Keep at least this many while the job runs (by default 0).", rich_help_panel=_RUNNING),
    ] = None
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Start as many of --max-workers as finish in this time, such as 90m or 6h.", rich_help_panel=_RUNNING
        ),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            help="Stop, resumable, when the workers of --max-workers have cost this much.", rich_help_panel=_RUNNING
        ),
    ] = None
    price_per_worker_hour: Annotated[
        float | None,
        typer.Option(
            help="What --budget reckons with; by default that of --node-type in the price table.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    workers_per_gpu: Annotated[
        int | None, typer.Option(help="Workers that share one GPU.", rich_help_panel=_RUNNING)
    ] = None
    accelerator_type: Annotated[
        str | None, typer.Option(help="Only GPUs of this type, as Ray names it: T4, A10G.", rich_help_panel=_RUNNING)
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only nodes with this Ray label; repeatable.", rich_help_panel=_RUNNING),
    ] = None
    fallback_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Where the cloud refuses nodes for workers of --max-workers, ask for nodes with this Ray label, too; "
            "repeatable.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    shard_images: Annotated[
        int, typer.Option(help="Images per shard, the unit of commit.", rich_help_panel=_RUNNING)
    ] = 64
    shard_megapixels: Annotated[
        float, typer.Option(help="Close a shard at this many estimated megapixels.", rich_help_panel=_RUNNING)
    ] = 256.0
    weak_store: Annotated[
        bool,
        typer.Option(
            "--weak-store",
            help="DST's store can let two creators of one object win (OpenStack Swift): recorded instead of tried.",
            rich_help_panel=_DST,
        ),
    ] = False
    max_failure_rate: opt.MaxFailureRate = "50%"
    image_timeout: opt.ImageTimeout = None
    shard_timeout: opt.ShardTimeout = None
    lease_timeout: opt.LeaseTimeout = 180.0

    @property
    def needs_price(self) -> bool:
        """Whether there is a budget without the price that it is reckoned with."""
        return self.budget is not None and self.price_per_worker_hour is None

    def priced(self, cost: CostOptions) -> ConversionOptions:
        """With the price that `budget` reckons with: the one given, or that of the machine. Raises ConfigError."""
        if not self.needs_price:
            return self
        return replace(self, price_per_worker_hour=cost.price_per_worker_hour(self.workers_per_gpu))

    def config(
        self,
        src: str,
        dst: str,
        source_storage: SourceStorage,
        destination_storage: DestinationStorage,
        **how: object,
    ) -> ConversionConfig:
        """The configuration; `how` are fields of its ExecutionConfig. Raises ConfigError, in words of the options."""
        from jobs.store_options import require_heeded, require_heeded_by_source

        require_heeded_by_source(src, source_storage.as_fields())
        require_heeded(dst, destination_storage.as_fields(), "--dst-")
        return opt.build(
            source={
                "url": src,
                "include": self.include or (),
                "exclude": self.exclude or (),
                "limit": self.limit,
                "storage": source_storage.as_fields(),
            },
            destination={
                "url": opt.absolute(dst),
                "storage": destination_storage.as_fields(),
                "is_weak": self.weak_store,
            },
            model={"weights": self.weights},
            inference={
                "device": self.device,
                "precision": self.precision,
                "tile_px": self.tile_px,
                "memory_budget_bytes": opt.parse_bytes(self.memory_budget, "--memory-budget"),
            },
            decode={"max_pixels": self.max_pixels, "isolate": self.isolate_decode}
            | opt.given(timeout_s=self.decode_timeout, max_bytes=opt.parse_bytes(self.max_bytes, "--max-bytes")),
            encode={
                "pixel_type": self.pixel_type,
                "compression": self.compression,
                "exposure_ev": self.exposure,
                "keep_gps": self.keep_gps,
                "verify": self.verify,
            },
            sharding={"max_images": self.shard_images, "max_megapixels": self.shard_megapixels},
            execution={
                **how,
                "num_workers": opt.parse_workers(self.workers),
                "max_failure_rate": opt.parse_share(self.max_failure_rate, "--max-failure-rate"),
                "lease_timeout_s": self.lease_timeout,
                **opt.given(image_timeout_s=self.image_timeout, shard_timeout_s=self.shard_timeout),
                "scaling": opt.scaling(
                    self.max_workers,
                    self.min_workers,
                    self.deadline,
                    budget=self.budget,
                    price_per_worker_hour=self.price_per_worker_hour,
                ),
                "placement": opt.given(workers_per_gpu=self.workers_per_gpu, accelerator_type=self.accelerator_type)
                | {"labels": opt.labels(self.label), "fallback_labels": self._fallback_labels()},
            },
        )

    def _fallback_labels(self) -> dict[str, str]:
        """Raises ConfigError without --max-workers."""
        fallback = opt.labels(self.fallback_label, "--fallback-label")
        if fallback and self.max_workers is None:
            raise ConfigError(
                "--fallback-label needs --max-workers: a fixed number of workers takes the nodes there are"
            )
        return fallback
