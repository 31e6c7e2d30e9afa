"""The evaluation itself, on fixed views and methods: records, comparisons, sheets, and the printed table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
from PIL import Image

from jobs.colorvideovdp import ColorVideoVdp
from jobs.evaluate import (
    ALL_METRICS,
    Evaluation,
    check_records_path,
    choose_metrics,
    evaluate,
    prepare_sheets,
    write_records,
)
from jobs.evaluation_methods import Method, baseline_methods, network_methods
from jobs.evaluation_tables import print_evaluation
from jobs.evaluation_views import View
from pipeline.codecs.color import linear_to_srgb
from pipeline.errors import ConfigError, DestinationError, WeightsError
from pipeline.evaluation import FAST_METRICS


class FixedViews:
    """Two scenes of two views each: noise, of which one scene is not clipped."""

    num_views = 4
    scenes = ("sub/bright", "dim")

    def describe(self) -> dict[str, object]:
        return {"source": "fixed"}

    def __iter__(self) -> Iterator[View]:
        for scene, scale in (("sub/bright", 1.0), ("dim", 0.1)):
            for number in range(2):
                rng = np.random.default_rng([len(scene), number])
                truth = (rng.lognormal(-1.5, 1.0, (32, 32, 3)) * scale).clip(0, 9 * scale).astype(np.float32)
                ldr = np.rint(linear_to_srgb(np.clip(truth, 0, 1)) * 255).astype(np.uint8)
                yield View(scene, f"{scene}#{number}", ldr, truth)


class Oracle:
    """Knows the truth of the view that is being measured, and errs by a factor."""

    def __init__(self, factor: float) -> None:
        self._views = {view.ldr.tobytes(): view.truth for view in FixedViews()}
        self._factor = factor

    def __call__(self, ldr: np.ndarray) -> np.ndarray:
        return self._views[ldr.tobytes()] * np.float32(self._factor)


@pytest.fixture
def evaluation() -> Evaluation:
    networks = [
        Method("good", Oracle(1.05), {"sha256": "0"}),
        Method("bad", Oracle(3.0), {}, frozenset({"bright", "desk"})),
    ]
    return evaluate(FixedViews(), networks, baseline_methods(), choose_metrics("fast"))


def test_networks_are_compared_with_baselines_and_with_those_before(evaluation: Evaluation) -> None:
    assert evaluation.references("good") == ("identity", "srgb", "srgb_blur", "rempel2007")
    assert evaluation.references("bad") == ("identity", "srgb", "srgb_blur", "rempel2007", "good")
    found = {(d.method, d.baseline, d.metric): d for d in evaluation.differences()}
    assert len(found) == 9 * len(FAST_METRICS)
    against = found["bad", "good", "mu_psnr_db"]
    assert against.mean < 0
    assert against.high < 0
    assert against.worst_view in {view.view for view in evaluation.views}
    assert found["good", "srgb", "clipped_error_stops"].num_scenes == 1, "one scene is clipped nowhere"


def test_means_are_over_scenes(evaluation: Evaluation) -> None:
    metric = ALL_METRICS["exposure_error_ev"]
    assert evaluation.mean("bad", metric) == pytest.approx(math.log2(3), abs=1e-3)
    assert evaluation.num_scenes == 2


def test_json_holds_everything_and_is_json(evaluation: Evaluation) -> None:
    report = json.loads(json.dumps(evaluation.to_json()))
    assert report["num_views"] == 4
    assert report["num_scenes"] == 2
    assert set(report["means"]) == {"good", "bad", "identity", "srgb", "srgb_blur", "rempel2007"}
    assert set(report["scenes"]) == {"sub/bright", "dim"}
    assert "clipped_error_stops" not in report["scenes"]["dim"]["good"]
    assert report["settings"]["methods"]["good"] == {"sha256": "0"}
    assert report["learnt_scenes"] == {"good": [], "bad": ["sub/bright"]}
    assert {d["metric"] for d in report["differences"]} == set(FAST_METRICS)


@pytest.mark.parametrize("extension", [".parquet", ".csv"])
def test_records_have_a_row_per_view_and_method(evaluation: Evaluation, tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"records{extension}"
    check_records_path(path)
    write_records(evaluation, path)
    table = pa_parquet.read_table(path) if extension == ".parquet" else pa_csv.read_csv(path)
    assert table.num_rows == 4 * 6
    assert table.column_names == ["scene", "view", "method", "clipped_fraction", *FAST_METRICS]
    rows = table.to_pylist()
    dim = [row for row in rows if row["scene"] == "dim"]
    assert all(row["clipped_error_stops"] is None and row["clipped_fraction"] == 0 for row in dim)
    assert all(row["mu_psnr_db"] > 0 for row in rows)


def test_records_elsewhere_are_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.parquet or \.csv"):
        check_records_path(tmp_path / "records.xlsx")
    with pytest.raises(DestinationError, match="no folder"):
        check_records_path(tmp_path / "missing/records.csv")
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError, match="cannot be created"):
        prepare_sheets(tmp_path / "file/sheets")


class FakeVdp(ColorVideoVdp):
    def __init__(self) -> None:
        pass

    def measure(self, outputs: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, float]:
        return {name: 10 - float(np.abs(output - truth).mean()) for name, output in outputs.items()}


def test_colorvideovdp_is_one_more_metric() -> None:
    networks = [Method("good", Oracle(1.0), {})]
    found = evaluate(FixedViews(), networks, baseline_methods(), choose_metrics("mu_psnr_db"), vdp=FakeVdp())
    assert [metric.name for metric in found.metrics] == ["mu_psnr_db", "cvvdp_jod"]
    assert found.to_json()["means"]["good"]["cvvdp_jod"] == 10  # type: ignore[index]
    assert found.mean("srgb", found.metrics[-1]) < 10


def test_a_sheet_per_scene(tmp_path: Path) -> None:
    names: list[str] = []
    networks = [Method("good", Oracle(1.0), {})]
    evaluate(
        FixedViews(), networks, baseline_methods(), choose_metrics("mu_psnr_db"), sheets=tmp_path, on_view=names.append
    )
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")) == [
        Path("dim.png"),
        Path("sub/bright.png"),
    ]
    with Image.open(tmp_path / "dim.png") as sheet:
        assert sheet.height > 6 * 256, "two views of input, network and truth"
    assert len(names) == 4


def test_the_table_names_methods_metrics_and_worst_views(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    print_evaluation(evaluation)
    printed = capsys.readouterr().out
    for wanted in ("good", "bad", "rempel2007", "mu-PSNR (+)", "error, clipped area (-)", "[95 %]"):
        assert wanted in printed
    clipped = next(line for line in printed.splitlines() if line.startswith("error, clipped area"))
    assert clipped.count(" of 1 scene") == 4, "one of the two scenes is clipped nowhere"
    lines = printed.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("good, by view")) + 2
    rows = [line.split() for line in lines[first : first + 4 * (len(FAST_METRICS) - 2)]]
    assert not lines[first + len(rows)].strip(), "without rows of the two metrics that these views do not define"
    assert all(row[-1] in {"dim#0", "dim#1", "sub/bright#0", "sub/bright#1"} for row in rows), "where it does worst"
    start = next(number for number, row in enumerate(rows) if row[:3] == ["error,", "clipped", "area"])
    for row, baseline in zip(rows[start : start + 4], ("identity", "srgb", "srgb_blur", "rempel2007"), strict=True):
        _, better, word, views, cut, _, _ = row[row.index(baseline) + 1 :]
        assert (better, word, views) == ("2", "of", "2"), "two views are clipped nowhere"
        difference = next(
            d
            for d in evaluation.differences()
            if (d.method, d.baseline, d.metric) == ("good", baseline, "clipped_error_stops")
        )
        assert cut == f"{difference.share_cut:z.0%}"
        assert difference.share_cut > 0.5
    assert "4 views of 2 scenes" in printed
    assert "bad learnt from 1 of these 2 scenes: its figures flatter it" in printed
    assert "good learnt from" not in printed


@pytest.mark.parametrize(
    ("text", "names"),
    [("fast", FAST_METRICS), ("all", tuple(ALL_METRICS)), ("banding, hdr_flip,banding", ("banding", "hdr_flip"))],
)
def test_metrics_are_chosen_by_name(text: str, names: tuple[str, ...]) -> None:
    assert tuple(metric.name for metric in choose_metrics(text)) == names


def test_an_unknown_metric_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'ssim'.*pu21_ssim"):
        choose_metrics("mu_psnr_db,ssim")


def test_networks_are_named_by_their_files(tmp_path: Path) -> None:
    (method,) = network_methods(["identity"], "cpu", "fp32")
    assert method.name == "network:identity"
    assert method.details["num_parameters"] == 1_651_494
    output = method.run(np.full((8, 8, 3), 128, np.uint8))
    assert output == pytest.approx((128 / 255) ** 2.24, rel=1e-4)
    with pytest.raises(ConfigError, match="twice"):
        network_methods(["identity", "identity"], "cpu", "fp32")
    with pytest.raises(ConfigError, match="--precision"):
        network_methods(["identity"], "cpu", "half")
    with pytest.raises(ConfigError, match="--device"):
        network_methods(["identity"], "gpu", "fp32")
    with pytest.raises(WeightsError):
        network_methods([str(tmp_path / "no.pth")], "cpu", "fp32")


def test_files_of_one_stem_keep_their_paths(tmp_path: Path) -> None:
    from fakes import tiny_network
    from safetensors.torch import save_file

    paths = [tmp_path / folder / "weights.safetensors" for folder in ("a", "b")]
    for seed, path in enumerate(paths):
        path.parent.mkdir()
        save_file(tiny_network(seed).state_dict(), path)
    named = network_methods([*map(str, paths)], "cpu", "fp32")
    assert [method.name for method in named] == [*map(str, paths)]
    (single,) = network_methods([str(paths[0])], "cpu", "fp32")
    assert single.name == "weights"
