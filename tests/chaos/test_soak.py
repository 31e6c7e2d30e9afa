"""100,000 small images on local Ray with an engine that costs nothing, while workers and the driver are killed.

`HDRFLEET_SOAK_FOLDER` keeps the job between runs, so that a soak that was broken off goes on; `HDRFLEET_SOAK_IMAGES`
is their number. `memory.csv` in that folder is what `python -m bench.soak_plot` draws.
"""

from __future__ import annotations

import csv
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import OpenEXR
import psutil
import pytest
from commands import descendants, end, environment
from independent_checker import Folder, rows_in
from photographs import jpeg, picture

NUM_IMAGES = int(os.environ.get("HDRFLEET_SOAK_IMAGES", "100000"))
NUM_PICTURES = 200
BAD_ONE_IN = 100
TIMEOUT_S = 5400
SAMPLE_EVERY_S = 2.0
# Each worker dies again and again at two steps, the driver once.
WORKER_FAULTS = "output.created=kill:7001,part.ready=kill:151"
DRIVER_DIES_AFTER_SHARDS = NUM_IMAGES // 64 // 3
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(os.environ.get("HDRFLEET_SOAK_FOLDER", tmp_path))


def write_sources(folder: Path) -> None:
    pictures = [jpeg(picture(12, 16, seed=index)) for index in range(NUM_PICTURES)]
    for index in range(NUM_IMAGES):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not a picture" if index % BAD_ONE_IN == 0 else pictures[index % NUM_PICTURES])


def sample_memory(driver: psutil.Process, writer: object) -> None:
    now = time.time()
    for role, processes in (("driver", [driver]), ("worker", descendants(driver.pid, "RayWorker"))):
        for process in processes:
            try:
                writer.writerow([f"{now:.1f}", role, process.pid, process.memory_info().rss])  # type: ignore[attr-defined]
            except psutil.Error:
                continue


def run(folder: Path, faults: str) -> int:
    """Run the job to its end, or to its death, and note how much memory its processes hold."""
    env = environment(
        folder / "home", {"HDRFLEET_FAULTS": faults, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    )
    command = [sys.executable, "-m", "soak_run", str(folder / "src"), str(folder / "out")]
    with (folder / "log").open("ab") as log, (folder / "memory.csv").open("a", newline="") as samples:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        everything: dict[int, psutil.Process] = {}
        deadline = time.monotonic() + TIMEOUT_S
        try:
            driver = psutil.Process(process.pid)
            while process.poll() is None and time.monotonic() < deadline:
                sample_memory(driver, csv.writer(samples))
                everything |= {child.pid: child for child in descendants(process.pid)}
                time.sleep(SAMPLE_EVERY_S)
        except psutil.NoSuchProcess:
            pass
        finally:
            process.kill()
            process.wait(30)
            end(list(everything.values()))
    return process.returncode


def growth(samples: list[int]) -> float:
    """The median of the last quarter over that of the second: 1 where memory is flat, whatever starting takes."""
    quarter = len(samples) // 4
    return statistics.median(samples[-quarter:]) / statistics.median(samples[quarter : 2 * quarter])


@pytest.mark.long
@pytest.mark.timeout(2 * TIMEOUT_S)
def test_every_image_is_converted_once_and_memory_stays_flat(folder: Path) -> None:
    write_sources(folder / "src")
    if not (folder / "out").exists():
        code = run(folder, f"{WORKER_FAULTS},shard.settled=kill:{DRIVER_DIES_AFTER_SHARDS}")
        assert code == -9, (folder / "log").read_text()[-2000:]
    assert run(folder, WORKER_FAULTS) == 3, (folder / "log").read_text()[-2000:]

    reader = Folder(folder / "out")
    rows = rows_in(reader)
    assert Counter(row["source"] for row in rows) == {
        f"{index // 1000:03d}/{index:06d}.jpg": 1 for index in range(NUM_IMAGES)
    }
    statuses = Counter((row["status"], row["error_code"]) for row in rows)
    num_bad = len(range(0, NUM_IMAGES, BAD_ONE_IN))
    assert statuses == {("ok", None): NUM_IMAGES - num_bad, ("failed", "unsupported_format"): num_bad}
    stored = {key for key in reader.stamps() if key.startswith("images/")}
    assert stored == {row["output"] for row in rows if row["status"] == "ok"}
    assert len({row["worker"] for row in rows}) > NUM_IMAGES // 20_000, "no worker died"
    for row in random.Random(0).sample([row for row in rows if row["output"]], 500):
        pixels = OpenEXR.File(str(folder / "out" / row["output"])).channels()["RGB"].pixels
        assert pixels.shape == (12, 16, 3)

    held: dict[tuple[str, str], list[int]] = defaultdict(list)
    with (folder / "memory.csv").open(newline="") as samples:
        for _, role, pid, num_bytes in csv.reader(samples):
            held[role, pid].append(int(num_bytes))
    long_lived = {key: values for key, values in held.items() if len(values) >= 20}
    assert {role for role, _ in long_lived} == {"driver", "worker"}
    for key, values in long_lived.items():
        assert growth(values) < 1.15, f"{key} grows: {values}"
