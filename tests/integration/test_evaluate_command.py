"""`hdrfleet evaluate` as a user runs it: simulated views, pairs, several weights, records, sheets, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pa_parquet
import pytest
from commands import hdrfleet, hdrfleet_here
from fakes import tiny_network
from hdr_scenes import write_exr, write_scenes
from photographs import png
from safetensors.torch import save_file

from pipeline.codecs.color import linear_to_srgb
from pipeline.models.origin import training_metadata

SMALL = ["--view-px", "64", "--views-per-scene", "2", "--device", "cpu"]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "hdri", 3)
    return tmp_path / "hdri"


def test_the_command_prints_the_table(scenes: Path, tmp_path: Path) -> None:
    result = hdrfleet("evaluate", scenes, *SMALL, "--metrics", "fast", home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("default ")
    assert "network:identity" not in result.stdout
    assert "6 views of 3 scenes" in result.stdout
    assert "rempel2007" in result.stdout


def test_all_metrics_as_json_with_records_and_sheets(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "tiny.safetensors"
    save_file(tiny_network().state_dict(), weights)
    arguments = ["evaluate", scenes, *SMALL, "--weights", "identity", "--weights", weights, "--json"]
    outputs = ["--records", tmp_path / "records.parquet", "--sheets", tmp_path / "sheets"]
    assert hdrfleet_here(*arguments, *outputs) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_views"] == 6
    means = report["means"]
    assert set(means) == {"network:identity", "tiny", "identity", "srgb", "srgb_blur", "rempel2007"}
    for name, value in means["identity"].items():
        if value is not None:
            assert means["network:identity"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert means["tiny"]["mu_psnr_db"] < means["srgb"]["mu_psnr_db"], "random weights must not look good"
    # The wrong tone curve of `identity` is mostly an exposure error, and alignment takes that out.
    assert means["identity"]["aligned_mu_psnr_db"] > means["identity"]["mu_psnr_db"]
    ours = {d["metric"]: d for d in report["differences"] if (d["method"], d["baseline"]) == ("tiny", "srgb")}
    assert ours["mu_psnr_db"]["high"] < 0
    table = pa_parquet.read_table(tmp_path / "records.parquet")
    assert table.num_rows == 6 * 6
    assert {"hdr_flip", "pu21_ssim", "banding", "noise_left"} <= set(table.column_names)
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 3


def test_scenes_that_weights_have_learnt_from_are_warned_of(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "tiny.safetensors"
    save_file(tiny_network().state_dict(), weights, metadata=training_metadata(3, ["c_place", "a_place", "desk"]))
    (tmp_path / "kept.txt").write_text("b_place")
    arguments = ["evaluate", scenes, *SMALL, "--metrics", "fast", "--weights", weights]
    assert hdrfleet_here(*arguments) == 0
    printed = capsys.readouterr()
    warnings = [line for line in printed.err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "tiny learnt from 2 of these 3 scenes" in warnings[0]
    assert "--holdout FILE" in warnings[0]
    assert "tiny learnt from 2 of these 3 scenes" in printed.out
    assert hdrfleet_here(*arguments, "--split", "holdout", "--holdout", tmp_path / "kept.txt") == 0
    assert "learnt from" not in "".join(capsys.readouterr())


def test_the_same_seed_gives_the_same_numbers(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for seed in ("3", "3", "4"):
        assert hdrfleet_here("evaluate", scenes, *SMALL, "--metrics", "fast", "--seed", seed, "--json") == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["means"] != reports[2]["means"]


def test_pairs_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        truth = rng.lognormal(-1.5, 1.2, (48, 64, 3)).astype(np.float32)
        write_exr(tmp_path / f"{name}.exr", truth)
        (tmp_path / f"{name}.png").write_bytes(
            png(np.rint(linear_to_srgb(np.clip(truth, 0, 1)) * 255).astype(np.uint8))
        )
    write_exr(tmp_path / "c.exr", truth)
    assert hdrfleet_here("evaluate", "--pairs", tmp_path, "--metrics", "fast", "--json", "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert "1 HDR file without an LDR file of the same name, left out: c" in " ".join(printed.err.split())
    report = json.loads(printed.out)
    assert set(report["scenes"]) == {"a", "b"}
    assert report["means"]["srgb"]["unclipped_error_stops"] < 0.05
    unclipped = {name: values["unclipped_pu21_psnr_db"] for name, values in report["means"].items()}
    assert unclipped["srgb"] > unclipped["identity"] + 3, "the pictures are plain sRGB"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either HDR_FOLDER or --pairs"),
        (["{root}/hdri", "--pairs", "{root}/hdri"], "give either HDR_FOLDER or --pairs"),
        (["{root}/missing"], "no such folder"),
        (["{root}/texts"], "no OpenEXR or Radiance files"),
        (["{root}/hdri", "--metrics", "psnr"], "no metric 'psnr'"),
        (["{root}/hdri", "--split", "test"], "--split must be"),
        (["{root}/hdri", "--holdout", "{root}/texts/a.txt"], "--holdout needs --split"),
        (
            ["{root}/hdri", "--split", "holdout", "--holdout", "{root}/texts/a.txt"],
            "held-out scenes that are not there",
        ),
        (["{root}/hdri", "--view-px", "50"], "--view-px"),
        (["{root}/hdri", "--records", "{root}/a.txt"], ".parquet or .csv"),
        (["{root}/hdri", "--sheets", "{root}/texts/a.txt"], "cannot be created"),
        (["{root}/hdri", "--weights", "{root}/no.pth"], "cannot read weights"),
        (["{root}/hdri", "--device", "tpu"], "--device"),
        (["{root}/flat"], "an LDR image in an HDR container"),
        (["--pairs", "{root}/texts"], "no pairs"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_usage_is_exit_2_and_says_what_is_wrong(
    scenes: Path, tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("nowhere")
    write_exr(tmp_path / "flat/flat.exr", np.ones((64, 64, 3), np.float32))
    filled = [argument.format(root=tmp_path) for argument in arguments]
    assert hdrfleet_here("evaluate", *filled) == 2
    assert says in " ".join(capsys.readouterr().err.split())
