"""`hdrfleet plan` against reality: predicted and measured wall time of three jobs on the local executor.

    python -m bench.plan_accuracy --csv accuracy.csv

Each job: pictures are generated, the first dozen are converted, `plan --throughput-from` that part predicts the whole,
and the whole is converted into another destination. Processes of their own, timed from start to end, the network in one
thread. Where other work shares the processors, a thread waits for one: (run + wait) / run of the busiest thread, by
/proc/PID/task/*/schedstat, is the slow-down of a run, and the second error compares the two runs at the same slow-down.
Exits with 1 where that error is more than 20 % for any of them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NUM_PART = 12
MAX_ERROR = 0.2


@dataclass(frozen=True)
class Job:
    name: str
    kinds: tuple[str, ...]
    sides: tuple[tuple[int, int], ...]  # height, width
    num_images: int


JOBS = (
    Job("JPEG, one size", ("JPEG",), ((480, 640),), 48),
    Job("PNG and WebP, five sizes", ("PNG", "WEBP"), ((120, 200), (300, 400), (512, 768), (700, 500), (256, 256)), 60),
    Job("TIFF, JPEG and AVIF, large and small", ("TIFF", "JPEG", "AVIF"), ((90, 120), (900, 1200), (200, 300)), 36),
)
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "AVIF": "avif"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    rows = []
    for job in JOBS:
        with tempfile.TemporaryDirectory(prefix="hdrfleet-plan-") as folder:
            rows.append(compare(job, Path(folder)))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    wrong = [row["job"] for row in rows if abs(row["error_at_equal_slow_down"]) > MAX_ERROR]
    if wrong:
        print(f"more than {MAX_ERROR:.0%} off: {'; '.join(wrong)}")
    return 1 if wrong else 0


def compare(job: Job, folder: Path) -> dict[str, Any]:
    write_pictures(job, folder / "src")
    _, slow_part = convert(folder / "src", folder / "part", "--limit", str(NUM_PART))
    plan = ("plan", folder / "src", "--throughput-from", folder / "part", "--workers", "1", "--json")
    found = json.loads(subprocess.run(command(*plan), check=True, capture_output=True, text=True).stdout)  # noqa: S603
    predicted_s = found["machines"][0]["predictions"][0]["wall_s"]
    wall_s, slow_whole = convert(folder / "src", folder / "whole")
    return {
        "job": job.name,
        "images": job.num_images,
        "megapixels": round(found["source"]["megapixels"], 1),
        "predicted_s": round(predicted_s, 1),
        "measured_s": round(wall_s, 1),
        "error": round(predicted_s / wall_s - 1, 3),
        "slow_down_of_part": round(slow_part, 2),
        "slow_down_of_whole": round(slow_whole, 2),
        "error_at_equal_slow_down": round(predicted_s / slow_part * slow_whole / wall_s - 1, 3),
    }


def convert(src: Path, dst: Path, *more: str) -> tuple[float, float]:
    """Wall time in seconds, and the slow-down of the busiest thread."""
    run = command("convert", src, dst, "--executor", "local", "--quiet", *more)
    began = time.perf_counter()
    with subprocess.Popen(run, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as process:  # noqa: S603
        threads: dict[str, tuple[int, int]] = {}
        while process.poll() is None:
            threads |= thread_times(process.pid)
            time.sleep(0.1)
    assert process.returncode == 0, run
    run_ns, wait_ns = max(threads.values())
    return time.perf_counter() - began, (run_ns + wait_ns) / max(1, run_ns)


def thread_times(pid: int) -> dict[str, tuple[int, int]]:
    """Nanoseconds that each thread ran, and waited for a processor."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            run_ns, wait_ns, _ = path.read_text().split()
        except (OSError, ValueError):  # the thread has just ended
            continue
        found[path.parent.name] = int(run_ns), int(wait_ns)
    return found


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *map(str, arguments)]


def write_pictures(job: Job, folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(7)
    for index in range(job.num_images):
        height, width = job.sides[index % len(job.sides)]
        kind = job.kinds[index % len(job.kinds)]
        rows, columns = np.mgrid[0:height, 0:width]
        waves = [np.sin(rows / rng.uniform(5, 90)) * np.cos(columns / rng.uniform(5, 90)) for _ in range(3)]
        pixels = np.clip(128 + 140 * np.stack(waves, 2) + rng.normal(0, 4, (height, width, 3)), 0, 255)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
        (folder / f"{index:04d}.{EXTENSIONS[kind]}").write_bytes(file.getvalue())


if __name__ == "__main__":
    sys.exit(main())
