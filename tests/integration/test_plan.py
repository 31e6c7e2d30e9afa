"""`hdrfleet plan`: what a user sees before anything is started, and what keeps a conversion from starting."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from commands import hdrfleet_here, rows_of
from photographs import jpeg, picture, png, tiff

from pipeline.execution.base import WorkSize
from pipeline.execution.tail import num_worth_starting

MINE = """
[[node_type]]
name = "mine"
gpus = 0
cpus = 2
network_gbit_per_s = 1.0
price_per_h = 360.0
megapixels_per_s = 0.05
source = "measured"
start_s = 10.0
"""


# Of JPEG, by its bytes: 8 pixels each, for a worker with two cores that is believed to do 0.3 MP/s on each.
BYTES_OF_A_MINUTE = 36_000_000 // 8


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(9):
        (folder / f"{index}.jpg").write_bytes(jpeg(picture(100 + 10 * index, 200, index)))
    (folder / "p.png").write_bytes(png(picture(60, 50)))
    (folder / "t.tif").write_bytes(tiff(picture(60, 50)))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    (tmp_path / "mine.toml").write_text(MINE)
    return folder


def plan_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> dict[str, object]:
    capsys.readouterr()
    assert hdrfleet_here("plan", *arguments, "--json") == code
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_plan_says_what_there_is_and_what_it_costs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan_of(capsys, photos, "--prices", tmp_path / "mine.toml", "--workers", "1,2")
    source = found["source"]
    pixels = sum((100 + 10 * index) * 200 for index in range(9)) + 2 * 60 * 50
    assert isinstance(source, dict)
    assert source["megapixels"] == pytest.approx(pixels / 1e6)
    assert (source["num_images"], source["num_shards"], source["num_ignored"]) == (12, 1, 1)
    assert source["unreadable_examples"] == ["broken.jpg"]
    (machine,) = found["machines"]  # type: ignore[misc]
    assert machine["predictions"][0]["wall_s"] == pytest.approx(10 + pixels / 1e6 / 0.05)
    assert machine["predictions"][0]["cost"] == pytest.approx(machine["predictions"][0]["wall_s"] / 10)


def test_a_plan_for_a_person(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("plan", photos) == 0
    printed = capsys.readouterr().out
    assert "12 images" in printed
    assert "no GPU has been measured" in printed
    assert "p5.48xlarge H100" in printed
    assert "1 of these cannot be read, for example broken.jpg" in printed
    assert "no more than 1 worker: others would have too little work; --shard-images" in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--workers", "4"),
            "no more than 3 workers: others would have too little work; --shard-images makes more shards",
        ),
        (("--workers", "2"), None),
        (("--workers", "20", "--shard-images", "1"), "no more than 12 workers"),
    ],
)
def test_a_plan_starts_as_many_workers_as_the_scheduler_does(
    photos: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str | None
) -> None:
    """Twelve images of one shard that are believed to take a minute: a worker for each 20 s."""
    prices = photos.parent / "mine.toml"
    for file in photos.glob("[0-9].jpg"):
        file.write_bytes(file.read_bytes() + bytes(BYTES_OF_A_MINUTE // 8))
    assert hdrfleet_here("plan", photos, "--prices", prices, *options) == 0
    printed = capsys.readouterr().out
    assert ("the job starts no more than" in printed) == (says is not None)
    assert says is None or says in printed
    assert ("--shard-images" in printed) == (options == ("--workers", "4"))
    source = plan_of(capsys, photos, "--prices", prices, *options)["source"]
    assert isinstance(source, dict)
    assert num_worth_starting(WorkSize(12, source["megapixels_by_bytes"]), 1, 0.6) == 3
    limit = ("--prices", prices, "--node-type", "mine", "--max-cost", "0.01", *options)
    assert hdrfleet_here("convert", photos, photos.parent / "out", *limit) == 2
    num = {"4": 3, "2": 2, "20": 12}[options[1]]
    assert f"on {num} workers of mine are above" in capsys.readouterr().err


def test_an_earlier_job_gives_the_speed(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dst = tmp_path / "out"
    assert hdrfleet_here("convert", photos, dst, "--executor", "local", "--weights", "identity", "-q") == 3
    found = plan_of(capsys, photos, "--throughput-from", dst)
    measured, (machine, *others) = found["measured"], found["machines"]  # type: ignore[misc]
    assert measured["num_images"] == 11  # type: ignore[index]
    assert measured["device"] == "cpu"  # type: ignore[index]
    assert machine["node_type"] is None
    assert machine["speed"]["source"].startswith("measured on cpu")
    assert machine["predictions"][0]["cost"] is None
    assert len(others) >= 4
    there = sum(path.stat().st_size for path in (dst / "images").rglob("*.exr"))
    assert found["output_bytes"]["zip"] == pytest.approx(there, rel=0.01)  # type: ignore[index]
    (priced,) = plan_of(  # type: ignore[misc]
        capsys, photos, "--throughput-from", dst, "--prices", tmp_path / "mine.toml", "--node-type", "mine"
    )["machines"]
    assert priced["predictions"][0]["cost"] > 0
    assert priced["speed"]["worker_s"] == machine["speed"]["worker_s"]


def test_the_start_that_was_measured_is_that_of_the_run_however_long_the_job_had_lain_before(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst = tmp_path / "out"
    assert hdrfleet_here("convert", photos, dst, "--executor", "local", "--weights", "identity", "-q") == 3
    record = json.loads((dst / "_hdrfleet/job.json").read_text())
    created = datetime.fromisoformat(record["created_at"]) - timedelta(days=1)
    (dst / "_hdrfleet/job.json").write_text(json.dumps(record | {"created_at": created.isoformat()}))
    start_s = plan_of(capsys, photos, "--throughput-from", dst)["measured"]["start_s"]  # type: ignore[index]
    (lease,) = (dst / "_hdrfleet/lease").glob("*.json")
    acquired = datetime.fromisoformat(json.loads(lease.read_text())["acquired_at"])
    first = min(row["started_at"] for row in rows_of(dst))
    assert start_s == pytest.approx((first - acquired).total_seconds(), abs=0.01)
    assert start_s < 3600

    lease.unlink()
    assert plan_of(capsys, photos, "--throughput-from", dst)["measured"]["start_s"] is None  # type: ignore[index]
    assert hdrfleet_here("plan", photos, "--throughput-from", dst) == 0
    assert "start not known, and not in the times" in " ".join(capsys.readouterr().out.split())


def test_above_the_limit_a_plan_exits_with_3(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "mine.toml"
    assert plan_of(capsys, photos, "--prices", prices, "--max-cost", "1", code=3)["is_above_max_cost"] is True
    assert plan_of(capsys, photos, "--prices", prices, "--max-cost", "10")["is_above_max_cost"] is False
    assert hdrfleet_here("plan", photos, "--prices", prices, "--max-cost", "1") == 3
    assert "the cheapest, mine, costs about" in capsys.readouterr().err


def test_a_conversion_above_its_limit_does_not_start(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = ["--prices", tmp_path / "mine.toml", "--node-type", "mine", "--executor", "local", "--weights", "identity"]
    assert hdrfleet_here("convert", photos, tmp_path / "out", *limit, "--max-cost", "0.5") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "are above the limit of 0.50; nothing was started" in line
    (tmp_path / "four.toml").write_text(MINE.replace("gpus = 0", "gpus = 4"))
    four = ["--prices", tmp_path / "four.toml", *limit[2:], "--shard-images", "1", "--max-cost", "0.5"]
    assert hdrfleet_here("convert", photos, tmp_path / "out", *four) == 2
    assert "on 1 workers of mine are above" in capsys.readouterr().err  # it takes one, whatever the machine has
    elastic = [word for word in limit if word not in {"--executor", "local"}]
    many = ("--max-workers", "40", "--shard-images", "1")
    assert hdrfleet_here("convert", photos, tmp_path / "out", *elastic, "--max-cost", "0.5", *many) == 2
    assert "on 12 workers of mine are above" in capsys.readouterr().err  # as many as there are shards
    shared = ("--workers-per-gpu", "2", "--prices", tmp_path / "four.toml")
    assert (
        hdrfleet_here("convert", photos, tmp_path / "out", *elastic[2:], *shared, "--max-cost", "0.01", *many[2:]) == 2
    )
    assert "on 8 workers of mine are above" in capsys.readouterr().err  # two on each of one machine's four cards
    assert not (tmp_path / "out").exists()
    assert hdrfleet_here("convert", photos, tmp_path / "out", *limit, "--max-cost", "50") == 3  # broken.jpg
    assert "of 50.00 allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "{photos}", "--workers", "none"], "--workers: 'none' are no numbers"),
        (["plan", "{photos}", "--workers", "0"], "--workers: '0'"),
        (["plan", "{photos}", "--sample-headers", "-1"], "--sample-headers: "),
        (["plan", "{photos}", "--node-type", "x"], "--node-type x: not in the table"),
        (["plan", "{photos}", "--prices", "/none.toml"], "cannot be read"),
        (["plan", "{photos}", "--prices", "{photos}/../mine.toml", "--workers-per-gpu", "2"], "mine has no GPU"),
        (["plan", "{photos}", "--workers-per-gpu", "0"], "--workers-per-gpu"),
        (["plan", "{photos}", "--max-cost", "-1"], "--max-cost: -1 is no limit"),
        (
            ["plan", "{photos}", "--max-cost", "1", "--spot", "--prices", "{photos}/../mine.toml"],
            "nothing has such a price",
        ),
        (["plan", "{photos}", "--throughput-from", "{photos}"], "holds no conversion"),
        (["plan", "{photos}/none"], "there is nothing at"),
        (["plan", "{photos}", "--include", "*.gif"], "no image to convert"),
        (["convert", "{photos}", "{photos}/../out", "--max-cost", "1"], "--max-cost needs --node-type"),
        (["convert", "{photos}", "{photos}/../out", "--node-type", "x"], "give it, too"),
        (["convert", "{photos}", "{photos}/../out", "--max-cost", "1", "--node-type", "x"], "not in the table"),
    ],
)
def test_bad_usage_is_one_line(
    photos: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here(*[argument.format(photos=photos) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (photos.parent / "out").exists()


def test_a_bucket_is_measured_by_ranges(
    photos: Path, s3_bucket_on: object, moto_server: object, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.config import StorageConfig
    from pipeline.storage import open_store

    bucket = s3_bucket_on(moto_server)  # type: ignore[operator]
    store = open_store(f"{bucket.url}/photos", StorageConfig())
    for path in photos.iterdir():
        store.create(path.name, path.read_bytes())
    found, local = plan_of(capsys, f"{bucket.url}/photos/"), plan_of(capsys, photos)
    assert found["source"] == local["source"]
