"""Options and output of `hdrfleet evaluate`; the work is done by `jobs.evaluate`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from jobs import options as opt
from jobs.signals import stopping_on_signals
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.evaluation_methods import Method
    from jobs.evaluation_views import Subset, ViewSource
    from jobs.progress import ConsoleReporter

_VIEWS = "Simulated views"
_NUM_NAMED = 3
_SUBSETS = ("holdout", "train", "all")


def evaluate(
    hdr_folder: Annotated[
        Path | None,
        typer.Argument(parser=opt.named_path, metavar="HDR_FOLDER", help="OpenEXR and Radiance files to photograph."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            parser=opt.named_path,
            metavar="PATH",
            help="Instead: a folder of LDR files with HDR truths of the same name.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="What `convert` takes, the same by default; repeatable: later ones are compared with earlier ones."
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="all, fast (ten quick ones), or metric names with commas between.")
    ] = "all",
    views_per_scene: Annotated[
        int | None, typer.Option(help="Views of each scene (by default 4).", rich_help_panel=_VIEWS)
    ] = None,
    view_px: Annotated[
        int | None, typer.Option(help="Side of a view, a multiple of 4 (by default 256).", rich_help_panel=_VIEWS)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides views and camera settings (by default 0).", rich_help_panel=_VIEWS)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="holdout, train or all (the default): which scenes of HDR_FOLDER.", rich_help_panel=_VIEWS),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option(
            help="File with the held-out scenes' names, one a line (by default a fifth, by name). The default weights "
            "were trained on all but those of docs/training/holdout.txt.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    records: Annotated[
        Path | None, typer.Option(help="Write one row per view and method: a .parquet or .csv file.")
    ] = None,
    sheets: Annotated[
        Path | None,
        typer.Option(parser=opt.named_path, metavar="PATH", help="Write one picture sheet per scene into this folder."),
    ] = None,
    cvvdp: Annotated[
        Path | None, typer.Option(help="The cvvdp program of an environment of its own: adds ColorVideoVDP.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and notes.")] = False,
    json: opt.Json = False,
) -> None:
    """Measure weights against HDR ground truth, beside the baselines: identity, sRGB decode, that blurred, Rempel 2007.

    Either photographs the scenes of HDR_FOLDER with a simulated camera, or takes files of PAIRS. Metrics are defined
    in docs/evaluation.md; differences come with paired bootstrap intervals over scenes. Exit codes: 0 measured, 2 bad
    usage or input, 1 stopped.
    """
    from jobs.evaluate import check_records_path, choose_metrics, prepare_sheets, progress, write_records
    from jobs.evaluate import evaluate as run
    from jobs.progress import ConsoleReporter, plural

    chosen = choose_metrics(metrics)
    source = _source(hdr_folder, pairs, views_per_scene, view_px, seed, split, holdout)
    vdp = None
    if cvvdp is not None:
        from jobs.colorvideovdp import ColorVideoVdp

        vdp = ColorVideoVdp(cvvdp)
    if records is not None:
        check_records_path(records)
    if sheets is not None:
        prepare_sheets(sheets)
    with stopping_on_signals(), contextlib.redirect_stdout(sys.stderr):
        from jobs.evaluation_methods import baseline_methods, network_methods
        from pipeline.config import ModelConfig

        default_weights: str = ModelConfig.model_fields["weights"].default
        networks = network_methods(weights or [default_weights], device, precision)
        reporter = ConsoleReporter(quiet=quiet)
        _warn_of_learnt_scenes(source, networks, reporter)
        _warn_of_truths_left_out(source, reporter)
        reporter.note(f"evaluating {plural(source.num_views, 'view')}")
        with progress(source.num_views, quiet=quiet) as on_view:
            evaluation = run(source, networks, baseline_methods(), chosen, sheets=sheets, vdp=vdp, on_view=on_view)
    if records is not None:
        write_records(evaluation, records)
    if json:
        from jobs.tables import print_json

        print_json(evaluation.to_json())
    else:
        from jobs.evaluation_tables import print_evaluation

        print_evaluation(evaluation)


def _warn_of_learnt_scenes(source: ViewSource, networks: Sequence[Method], reporter: ConsoleReporter) -> None:
    from jobs.evaluation_tables import learnt_text
    from pipeline.simulation.split import learnt_among

    for method in networks:
        if learnt := learnt_among(source.scenes, method.learnt_from):
            text = learnt_text(method.name, learnt, len(source.scenes))
            reporter.warn(f"{text}; give --split holdout with --holdout FILE, or scenes that it has not seen")


def _warn_of_truths_left_out(source: ViewSource, reporter: ConsoleReporter) -> None:
    from jobs.evaluation_views import PairedFiles
    from jobs.progress import plural

    if isinstance(source, PairedFiles) and (alone := source.left_out):
        more = f" and {len(alone) - _NUM_NAMED} more" if len(alone) > _NUM_NAMED else ""
        named = ", ".join(alone[:_NUM_NAMED]) + more
        reporter.warn(f"{plural(len(alone), 'HDR file')} without an LDR file of the same name, left out: {named}")


def _source(
    hdr_folder: Path | None,
    pairs: Path | None,
    views_per_scene: int | None,
    view_px: int | None,
    seed: int | None,
    split: str | None,
    holdout: Path | None,
) -> ViewSource:
    from jobs.evaluation_views import PairedFiles, SimulatedViews
    from pipeline.simulation.split import read_names

    if (hdr_folder is None) == (pairs is None):
        raise ConfigError("give either HDR_FOLDER or --pairs FOLDER")
    if pairs is not None:
        of_views = {"views-per-scene": views_per_scene, "view-px": view_px, "seed": seed, "split": split}
        for flag, value in (of_views | {"holdout": holdout}).items():
            if value is not None:
                raise ConfigError(f"--{flag} is about photographs of HDR_FOLDER, and --pairs brings its own; drop one")
        return PairedFiles(pairs)
    split = "all" if split is None else split
    if split not in _SUBSETS:
        raise ConfigError(f"--split must be holdout, train or all, not {split!r}")
    if holdout is not None and split == "all":
        raise ConfigError("--holdout needs --split holdout or --split train")
    assert hdr_folder is not None
    return SimulatedViews(
        hdr_folder,
        views_per_scene=4 if views_per_scene is None else views_per_scene,
        view_px=256 if view_px is None else view_px,
        seed=seed or 0,
        subset=cast("Subset", split),
        holdout=None if holdout is None else read_names(holdout, "--holdout"),
    )
