"""`hdrfleet train` from scenes in files to weights: locally, into a bucket, and told what is wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import environment, hdrfleet_here
from torch import distributed
from training_runs import HELD_OUT, SCENES, NumberedPatches, write_scenes

from pipeline.config import StorageConfig
from pipeline.driver_lease import DriverLease, acquire_lease
from pipeline.errors import LeaseLostError
from pipeline.models.checkpoint import load_weights
from pipeline.models.origin import learnt_scenes
from pipeline.storage import ObjectStore, open_store
from pipeline.training.batches import LoadedBatches, Share
from pipeline.training.checkpoints import BEST_WEIGHTS, FINAL_WEIGHTS
from pipeline.training.metrics import METRICS_CSV, VALIDATION_CSV
from pipeline.training.peers import Peers

SMALL = (
    *("--width", "8", "--patch-px", "16", "--batch-size", "4", "--warmup-steps", "2", "--validation-patches", "4"),
    *("--checkpoint-every", "4", "--validate-every", "4", "--log-every", "2", "--precision", "fp32", "--device", "cpu"),
    *("--lr", "2e-3", "--quiet"),
)
LEARNT = frozenset(SCENES) - {HELD_OUT}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def options(scenes: Path, *more: str | Path) -> list[str | Path]:
    return [*SMALL, "--holdout", scenes / "holdout.txt", *more]


def curve(store: ObjectStore, key: str = METRICS_CSV) -> list[dict[str, float]]:
    rows = csv.DictReader(store.read(key).decode().splitlines())
    return [{name: float(value) for name, value in row.items()} for row in rows]


def at(out: Path | str) -> ObjectStore:
    return open_store(str(out), StorageConfig())


def test_a_run_ends_with_weights_metrics_and_curves(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = options(scenes, "--executor", "local", "--steps", "10", "--json")
    assert hdrfleet_here("train", scenes, out, *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["num_steps_now"], result["num_skipped"]) == (10, 10, 0)
    assert result["best_step"] in {4, 8, 10}
    store = at(out)
    assert [row["step"] for row in curve(store)] == [2, 4, 6, 8, 10]
    assert [row["step"] for row in curve(store, VALIDATION_CSV)] == [4, 8, 10]
    for key in (FINAL_WEIGHTS, BEST_WEIGHTS, "weights/step-00000008.safetensors"):
        assert load_weights(key, store.read(key)).width == 8
    assert store.read("curves.png").startswith(b"\x89PNG")
    assert list(store.list("tensorboard"))
    record = json.loads(store.read("training.json"))
    assert (record["data.num_train_scenes"], record["data.num_holdout_scenes"]) == (3, 1)
    assert all(learnt_scenes(store.read(key)) == LEARNT for key in (FINAL_WEIGHTS, BEST_WEIGHTS))

    before = store.read(FINAL_WEIGHTS)
    assert hdrfleet_here("train", scenes, out, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["num_steps_now"] == 0
    assert store.read(FINAL_WEIGHTS) == before
    longer = options(scenes, "--executor", "local", "--steps", "13", "--json", "--checkpoint-every", "3")
    kept = sorted(info.key for info in store.list())
    assert hdrfleet_here("train", scenes, out, *longer, "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["step"], plan["num_patches"]) == (10, 3 * 4)
    assert sorted(info.key for info in store.list()) == kept
    assert hdrfleet_here("train", scenes, out, *longer) == 0
    assert json.loads(capsys.readouterr().out)["num_steps_now"] == 3
    assert [row["step"] for row in curve(store)] == [2, 4, 6, 8, 10, 12, 13]

    assert hdrfleet_here("train", scenes, out, *longer, "--lr", "1e-3", "--loss", "log_weight=1") == 2
    message = capsys.readouterr().err
    assert "learning_rate is 0.002, not 0.001; loss.log_weight is 0.0, not 1.0" in message
    assert "data.camera.srgb_probability" not in record, "as runs were recorded before there was a choice"
    assert hdrfleet_here("train", scenes, out, *longer, "--camera", "srgb_probability=0.9") == 2
    assert "data.camera.srgb_probability is null, not 0.9" in capsys.readouterr().err


def test_weights_name_the_scenes_of_the_runs_before_theirs(scenes: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = [
        *SMALL,
        "--executor",
        "local",
        "--steps",
        "1",
        "--no-tensorboard",
        "--no-plot",
    ]
    assert hdrfleet_here("train", scenes, first, *arguments, "--holdout", scenes / "holdout.txt") == 0
    (tmp_path / "other.txt").write_text("desk")
    arguments += ["--init", first / FINAL_WEIGHTS, "--holdout", tmp_path / "other.txt"]
    assert hdrfleet_here("train", scenes, second, *arguments) == 0
    assert learnt_scenes(at(second).read(FINAL_WEIGHTS)) == {*LEARNT, HELD_OUT}


@pytest.mark.long
@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
def test_a_run_lives_in_a_bucket(
    scenes: Path, s3_bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{s3_bucket.url}/runs/first"
    arguments = options(scenes, "--executor", "local", "--json")
    assert hdrfleet_here("train", scenes, out, *arguments, "--steps", "5") == 0
    capsys.readouterr()
    assert hdrfleet_here("train", scenes, out, *arguments, "--steps", "9") == 0
    assert json.loads(capsys.readouterr().out)["num_steps_now"] == 4
    listed = s3_bucket.client.list_objects_v2(Bucket=s3_bucket.name, Prefix="runs/first/")["Contents"]
    keys = {entry["Key"].removeprefix("runs/first/") for entry in listed}
    assert {FINAL_WEIGHTS, BEST_WEIGHTS, METRICS_CSV, VALIDATION_CSV, "curves.png", "training.json"} <= keys
    assert {key for key in keys if key.endswith(".json")} == {
        "training.json",
        *(f"_hdrfleet/lease/{epoch:06d}.json" for epoch in (1, 2)),
        *(f"checkpoints/step-{step:08d}.json" for step in (5, 8, 9)),
    }
    assert len([key for key in keys if key.startswith("tensorboard/")]) == 2
    assert [row["step"] for row in curve(at(out))] == [2, 4, 5, 6, 8, 9]


def test_it_runs_without_ray_and_what_only_conversion_needs(scenes: Path, tmp_path: Path) -> None:
    absent = ["ray", "pandas", "pyarrow", "duckdb", "s3fs", "botocore", "aiohttp", "tensorboardX", "matplotlib"]
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({absent}));"
        "runpy.run_module('jobs.train', run_name='__main__', alter_sys=True)"
    )
    arguments = options(scenes, "--executor", "local", "--steps", "2", "--no-tensorboard", "--no-plot")
    done = subprocess.run(
        [sys.executable, "-c", code, str(scenes), str(tmp_path / "out"), *map(str, arguments)],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / FINAL_WEIGHTS).is_file()


def test_data_processes_change_nothing() -> None:
    def taken(num_data_workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = LoadedBatches(
            NumberedPatches(), batch_size=6, share=Share(), num_data_workers=num_data_workers, pin_memory=False
        )
        return list(islice(batches.start_at(1), 3))

    for mine, theirs in zip(taken(0), taken(2), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def counts_to_divide_by(rank: int, folder: Path) -> list[float]:
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=180))
    try:
        counts = torch.tensor([3 * rank, 4 - rank, 0])
        return Peers(Share(rank, 2)).share_counts(counts).tolist()
    finally:
        distributed.destroy_process_group()


@pytest.mark.timeout(300)
def test_processes_divide_by_what_all_of_them_have(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        shared = list(processes.map(counts_to_divide_by, range(2), [tmp_path] * 2, timeout=240))
    assert shared == [[1.5, 3.5, 0.5]] * 2  # half of the sums, and of 1 where there is nothing


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    root = tmp_path_factory.mktemp("faults")
    write_scenes(root / "nan")
    import OpenEXR

    header = {"type": OpenEXR.scanlineimage}
    pixels = np.ones((96, 80, 3), np.float32)
    pixels[5, 5] = np.nan
    OpenEXR.File(header, {"RGB": pixels}).write(str(root / "nan" / "sunset.exr"))
    write_scenes(root / "ldr")
    levels = np.arange(96 * 80, dtype=np.float32).reshape(96, 80, 1) % 256 / 255
    OpenEXR.File(header, {"RGB": np.repeat(levels, 3, 2)}).write(str(root / "ldr" / "screenshot.exr"))
    (root / "empty").mkdir()
    (root / "file").write_text("a file")
    (root / "unknown.txt").write_text("no-such-scene\n")
    (root / "all.txt").write_text("desk\ngarden_01\nharbour\n" + HELD_OUT)
    (root / "none.txt").write_text("# nothing\n")
    return root


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{f}/missing", "{out}"], "no such folder"),
        (["{f}/empty", "{out}"], "no OpenEXR or Radiance files"),
        (["{f}/nan", "{out}"], "sunset.exr: holds 3 NaN"),
        (["{f}/ldr", "{out}"], "screenshot.exr: at most 256"),
        (["{s}", "{f}/file/out"], "cannot use OUT"),
        (["{s}", "{s}"], "OUT and DATA are the same folder"),
        (["{s}", "ftq://host/out"], "ftq"),
        (["{s}", "{out}", "--steps", "0"], "--steps: "),
        (["{s}", "{out}", "--batch-size", "0"], "--batch-size: "),
        (["{s}", "{out}", "--patch-px", "130"], "--patch-px: it should be a multiple of 4"),
        (["{s}", "{out}", "--lr", "-1"], "--lr: "),
        (["{s}", "{out}", "--time-budget", "soon"], "--time-budget: 'soon' is not a duration"),
        (["{s}", "{out}", "--loss", "log_weight"], "--loss: 'log_weight' is not NAME=VALUE"),
        (["{s}", "{out}", "--loss", "log_wait=1"], "--loss log_wait: no such field; there are area_weight, "),
        (["{s}", "{out}", "--loss", "log_weight=-1"], ": --loss log_weight is -1.0; give 0 or more [bad_config]"),
        (
            ["{s}", "{out}", "--loss", "overshoot_weight=2"],
            "--loss overshoot_weight: nothing heeds it; give log_weight or",
        ),
        (["{s}", "{out}", "--loss", "neutral_prior=1"], "--loss neutral_prior: nothing heeds it; give hue_weight"),
        (["{s}", "{out}", "--view-px", "0", "--crops-per-view", "4"], "crops_per_view 4 needs photographs larger"),
        (
            ["{s}", "{out}", "--pool-views", "9", "--crops-per-view", "4"],
            "crops_per_view means nothing with pool_views",
        ),
        (["{s}", "{out}", "--validate-every", "0"], "num_validation_patches means nothing where"),
        (
            ["{s}", "{out}", "--loss-preset", "best"],
            "--loss-preset: there is no 'best'; give paper or balanced or denoising",
        ),
        (["{s}", "{out}", "--loss", "log_weight=heavy"], "--loss log_weight: "),
        (["{s}", "{out}", "--camera", "iso=100"], "--camera iso: no such field"),
        (["{s}", "{out}", "--camera", "full_well_e=5"], "--camera full_well_e: give LOW,HIGH, not 5"),
        (["{s}", "{out}", "--camera", "max_clipped_fraction=2"], "max_clipped_fraction must be between 0 and 1"),
        (["{s}", "{out}", "--holdout", "{f}/unknown.txt"], "held-out scenes that are not there: no-such-scene"),
        (["{s}", "{out}", "--holdout", "{f}/all.txt"], "no scene is left for train"),
        (["{s}", "{out}", "--holdout", "{f}/none.txt"], "names no scene"),
        (["{s}", "{out}", "--holdout", "{f}/missing.txt"], "--holdout: cannot read"),
        (["{s}", "{out}", "--init", "{f}/no.pth"], "or one of: default, identity, srgb"),
        (["{s}", "{out}", "--init", "{f}/file"], "neither a PyTorch nor"),
        (["{s}", "{out}", "--workers", "2"], "the local executor is one process"),
        (["{s}", "{out}", "--address", "auto"], "--address needs the ray executor"),
        (["{s}", "{out}", "--executor", "slurm"], "--executor must be ray or local"),
        (["{s}", "{out}", "--executor", "ray", "--workers", "3"], "batch of 4 does not divide among 3 workers"),
        (["{s}", "{out}", "--executor", "ray", "--address", "127.0.0.1:1"], "cannot use Ray at 127.0.0.1:1"),
        (["{s}", "{out}", "--device", "cuda:7"], "cuda"),
        (["{s}", "{out}", "--precision", "fp16"], "fp16 needs a GPU"),
        (["{s}", "{out}", "--profile", "me"], "are for s3:// URLs"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_usage_is_exit_2_and_says_what_is_wrong(
    scenes: Path, faults: Path, tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(s=scenes, f=faults, out=tmp_path / "out") for argument in arguments]
    local = () if "--executor" in arguments else ("--executor", "local")
    holdout = () if "--holdout" in arguments else ("--holdout", scenes / "holdout.txt")
    for dry_run in ((), ("--dry-run",)):
        assert hdrfleet_here("train", *filled[:2], *SMALL, *local, *holdout, *filled[2:], *dry_run) == 2
        message = capsys.readouterr().err
        assert says in " ".join(message.split())
        assert len(message.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists(), "nothing may be left that binds a later, right command"


def test_a_second_training_in_one_place_is_refused_while_the_first_runs(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = options(scenes, "--executor", "local", "--steps", "8")
    with acquire_lease(at(tmp_path / "out"), timeout_s=60.0):
        assert hdrfleet_here("train", scenes, tmp_path / "out", *arguments) == 2
        assert "is in use by another hdrfleet" in capsys.readouterr().err
        assert not (tmp_path / "out" / "training.json").exists()
    assert hdrfleet_here("train", scenes, tmp_path / "out", *arguments) == 0
    assert [row["step"] for row in curve(at(tmp_path / "out"))] == [2, 4, 6, 8]


def test_a_training_that_was_taken_over_stops(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own look at the lease, which it takes every half minute, says so."""

    def lost(lease: DriverLease) -> None:
        raise LeaseLostError("another hdrfleet has taken over")

    monkeypatch.setattr(DriverLease, "check", lost)
    arguments = options(scenes, "--executor", "local", "--steps", "8")
    assert hdrfleet_here("train", scenes, tmp_path / "out", *arguments) == 1
    assert "lease_lost" in capsys.readouterr().err
    assert not (tmp_path / "out" / FINAL_WEIGHTS).exists()


def test_first_weights_may_be_named_otherwise_and_a_scene_may_not_change(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    base, out = tmp_path / "base", tmp_path / "out"
    assert hdrfleet_here("train", data, base, *options(data, "--executor", "local", "--steps", "4")) == 0
    weights = base / FINAL_WEIGHTS
    moved = Path(shutil.copy(weights, tmp_path / "moved.safetensors"))
    for steps, init in (("4", weights), ("8", moved)):
        arguments = options(data, "--executor", "local", "--steps", steps, "--init", init)
        assert hdrfleet_here("train", data, out, *arguments) == 0
    assert [row["step"] for row in curve(at(out))] == [2, 4, 6, 8]
    (data / "desk.exr").write_bytes((data / "harbour.exr").read_bytes())
    capsys.readouterr()
    longer = options(data, "--executor", "local", "--steps", "12", "--init", moved)
    assert hdrfleet_here("train", data, out, *longer) == 2
    assert "data.scenes_sha256 is" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = options(scenes, "--executor", "local", "--view-px", "64", "--steps", "100", "--dry-run")
    assert hdrfleet_here("train", scenes, tmp_path / "out", *arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    for wanted in (
        "from identity; nothing was written",
        "scenes 3 to learn from and 1 held out: 2 panoramas",
        "patches 400 of 16 px, 4 a step",
        "photographs 100 of 64 px, 4 patches from each",
        "network width 8, ",
        "runs on cpu, fp32, 1 worker",
        "memory about 0.0 GB",
    ):
        assert wanted in said
    assert not (tmp_path / "out").exists()
    pooled = ["--pool-views", "5000", "--json"]
    assert hdrfleet_here("train", scenes, tmp_path / "out", *arguments, *pooled) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_photographs"] == 5000
    assert plan["memory"]["pool_bytes"] == 9 * 5000 * 64**2


@pytest.mark.parametrize(
    ("package", "flag"),
    [("tensorboardX", "--no-tensorboard"), ("matplotlib", "--no-plot"), ("ray.train.torch", "--executor local")],
)
def test_a_missing_extra_is_named_before_work_starts(
    scenes: Path,
    tmp_path: Path,
    package: str,
    flag: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what importing it then raises is an ImportError
    assert hdrfleet_here("train", scenes, tmp_path / "out", *options(scenes)) == 2
    message = capsys.readouterr().err
    assert "pip install 'hdrfleet[train]'" in message
    assert flag in message
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert hdrfleet_here("train", scenes, tmp_path / "locked/out", *options(scenes, "--executor", "local")) == 2
    assert "cannot use OUT" in capsys.readouterr().err
