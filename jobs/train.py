"""`hdrfleet train`: options in, a training run out. Also runs where Ray is not installed: `python -m jobs.train`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.signals import stopping_on_signals
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from jobs.train_plan import TrainingPlan
    from jobs.train_run import RunOutcome

_RECIPE = "Recipe"
_DATA = "Data"
_RUNNING = "Running"
# OpenMP threads then sleep at barriers instead of spinning. Measured on two cores, per step: 6 % slower on an idle
# machine, a quarter to two thirds faster beside other work, because a waiting thread burns the core that the late one
# needs.
# Read when torch loads.
THREADS_ENV = {"OMP_WAIT_POLICY": "passive"}

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhd]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def train(
    data: Annotated[
        Path,
        typer.Argument(
            parser=opt.named_path, metavar="DATA", help="Folder of HDR photographs and panoramas (.exr, .hdr)."
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL prefix for checkpoints, weights, metrics.")],
    steps: Annotated[int, typer.Option(help="Train this many steps in all.")] = 20_000,
    time_budget: Annotated[
        str | None, typer.Option(help="End after this time in all starts together, such as 90m or 2.5h.")
    ] = None,
    init: Annotated[
        str, typer.Option(help="'identity', 'srgb', or HDRUNet weights to go on from (path or URL).")
    ] = "identity",
    seed: Annotated[int, typer.Option(help="Decides the first weights and every patch.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Patches per step, over all workers.", rich_help_panel=_RECIPE)] = 8,
    patch_px: Annotated[int, typer.Option(help="Side of a patch, a multiple of 4.", rich_help_panel=_RECIPE)] = 128,
    view_px: Annotated[
        int,
        typer.Option(
            help="Side of the photographs that patches are cropped from; 0 for none.", rich_help_panel=_RECIPE
        ),
    ] = 256,
    crops_per_view: Annotated[
        int | None, typer.Option(help="Patches from each photograph (by default 4).", rich_help_panel=_RECIPE)
    ] = None,
    pool_views: Annotated[
        int,
        typer.Option(
            help="Take this many photographs first and crop them on the device, for GPUs.", rich_help_panel=_RECIPE
        ),
    ] = 0,
    width: Annotated[int, typer.Option(help="Features of the network; 64 as published.", rich_help_panel=_RECIPE)] = 64,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_RECIPE)] = 4e-4,
    final_lr_share: Annotated[
        float, typer.Option(help="Share of it that the cosine ends at.", rich_help_panel=_RECIPE)
    ] = 0.01,
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear warm-up.", rich_help_panel=_RECIPE)] = 200,
    weight_decay: Annotated[float, typer.Option(help="AdamW's; 0 is Adam.", rich_help_panel=_RECIPE)] = 0.0,
    grad_clip: Annotated[float, typer.Option(help="Largest norm of a gradient.", rich_help_panel=_RECIPE)] = 1.0,
    ema_decay: Annotated[float, typer.Option(help="Of the averaged weights.", rich_help_panel=_RECIPE)] = 0.999,
    loss_preset: Annotated[
        str,
        typer.Option(
            help="paper (Tanh_L1), balanced or denoising (what the default weights began and ended with).",
            rich_help_panel=_RECIPE,
        ),
    ] = "paper",
    loss: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Change a field of the preset; repeatable.", rich_help_panel=_RECIPE),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Set a field of CameraRanges, ranges as LOW,HIGH; repeatable.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option(
            help="File with the names of the scenes to hold out, one a line (by default a fifth, by name).",
            rich_help_panel=_DATA,
        ),
    ] = None,
    validation_patches: Annotated[
        int | None, typer.Option(help="Held-out patches, the same in every run (by default 64).", rich_help_panel=_DATA)
    ] = None,
    validate_every: Annotated[
        int, typer.Option(help="Steps between validations; 0 for none.", rich_help_panel=_DATA)
    ] = 500,
    data_workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that prepare patches, per worker (by default none on a CPU, the free cores beside a GPU).",
            rich_help_panel=_DATA,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that share each batch; with a GPU each where there are GPUs.")
    ] = 1,
    executor: Annotated[
        str, typer.Option(help="ray, or local: this process, without Ray.", rich_help_panel=_RUNNING)
    ] = "ray",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use (by default Ray is started here).", rich_help_panel=_RUNNING)
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(help="How often lost workers are replaced, with ray (by default 3).", rich_help_panel=_RUNNING),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_RUNNING)] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16; auto is bf16 where it is native.", rich_help_panel=_RUNNING)
    ] = "auto",
    compile: Annotated[  # noqa: A002
        bool, typer.Option("--compile", help="Use torch.compile.", rich_help_panel=_RUNNING)
    ] = False,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints, the most that a kill costs.", rich_help_panel=_RUNNING)
    ] = 250,
    keep_checkpoints: Annotated[int, typer.Option(help="How many of them to keep.", rich_help_panel=_RUNNING)] = 3,
    log_every: Annotated[int, typer.Option(help="Steps per row of metrics.", rich_help_panel=_RUNNING)] = 10,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events.", rich_help_panel=_RUNNING)] = True,
    plot: Annotated[bool, typer.Option(help="Draw the curves at the end.", rich_help_panel=_RUNNING)] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check options and data, say what would be trained, and write nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or warnings.")] = False,
    json: opt.Json = False,
    endpoint_url: Annotated[str | None, typer.Option(help="S3 endpoint of OUT.")] = None,
    profile: Annotated[str | None, typer.Option(help="AWS profile for OUT.")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region of OUT.")] = None,
) -> None:
    """Train HDRUNet on simulated photographs of the HDR scenes in DATA.

    Run the same command again to carry on after a stop; a larger --steps or --time-budget goes on after the end. The
    weights are OUT/hdrunet.safetensors, those of the best validation OUT/weights/best.safetensors. Exit codes: 0
    trained (or checked, with --dry-run), 2 bad usage, 1 the run stopped and can be resumed.
    """
    for name, value in THREADS_ENV.items():
        os.environ.setdefault(name, value)
    with stopping_on_signals():
        from jobs.train_progress import TrainingReporter
        from jobs.train_request import TrainingRequest
        from jobs.train_run import run_training

        request = TrainingRequest(
            data=data,
            out=opt.absolute(out),
            storage=opt.storage(endpoint_url, profile, region),
            config={
                "steps": steps,
                "time_budget_s": parse_duration(time_budget, "--time-budget"),
                "init": init,
                "seed": seed,
                "batch_size": batch_size,
                "patch_px": patch_px,
                "view_px": view_px,
                "pool_views": pool_views,
                "width": width,
                "learning_rate": lr,
                "final_learning_rate_share": final_lr_share,
                "warmup_steps": warmup_steps,
                "weight_decay": weight_decay,
                "grad_clip_norm": grad_clip,
                "ema_decay": ema_decay,
                "loss": parse_assignments(loss, "--loss"),
                "validate_every_steps": validate_every,
                "num_data_workers": data_workers,
                "device": device,
                "precision": precision,
                "compile": compile,
                "checkpoint_every_steps": checkpoint_every,
                "keep_checkpoints": keep_checkpoints,
                "log_every_steps": log_every,
                **given(crops_per_view=crops_per_view, num_validation_patches=validation_patches),
            },
            loss_preset=loss_preset,
            camera=parse_assignments(camera, "--camera"),
            holdout=holdout,
            executor=executor,
            num_workers=workers,
            address=address,
            max_failures=max_failures,
            tensorboard=tensorboard,
            plot=plot,
        )
        reporter = TrainingReporter(quiet=quiet)
        result: RunOutcome | TrainingPlan
        if dry_run:
            from jobs.train_plan import plan_training

            result = plan_training(request, reporter)
        else:
            result = run_training(request, reporter)
    if json:
        from json import dumps

        typer.echo(dumps(result.to_json(), indent=2))
    else:
        typer.echo(result.text())


def given(**options: int | None) -> dict[str, object]:
    """Return the options that were given: some mean nothing beside others, which a default does not claim."""
    return {name: value for name, value in options.items() if value is not None}


def parse_duration(text: str | None, flag: str) -> float | None:
    """Read a duration such as `90m`, `2.5h` or `5400` (seconds). Raises ConfigError, naming `flag`."""
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match["number"]) * _SECONDS[match["unit"]] if match else 0.0
    if not seconds:
        raise ConfigError(f"{flag}: {text!r} is not a duration; write for example 90m or 2.5h")
    return seconds


def parse_assignments(texts: list[str] | None, flag: str) -> dict[str, object]:
    """Read `NAME=VALUE` options; `LOW,HIGH` becomes a pair. Raises ConfigError, naming `flag`."""
    values: dict[str, object] = {}
    for text in texts or []:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise ConfigError(f"{flag}: {text!r} is not NAME=VALUE")
        values[name.strip()] = value.split(",") if "," in value else value
    return values


if __name__ == "__main__":
    from jobs.cli import main

    sys.argv.insert(1, "train")
    main()
