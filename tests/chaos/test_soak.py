"""100,000 small images on local Ray with an engine that costs nothing, while everything dies that can.

Workers, nodes, the store and the driver fail at moments and in ways that one seed decides (`tests/soak_faults.py`): it
is printed, and `HDRFLEET_SOAK_SEED` gives it. `HDRFLEET_SOAK_IMAGES` is the number of images. `HDRFLEET_SOAK_FOLDER`
keeps the job between runs, so that a soak that was broken off goes on; `memory.csv` in that folder is what
`python -m bench.soak_plot` draws, and `faults.csv` what was done.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest
import soak_run
from commands import environment
from independent_checker import Folder, rows_in
from photographs import jpeg, picture
from ray_nodes import running_cluster
from soak_checks import Held, expectations, held_memory, require_as_undisturbed
from soak_faults import IMAGES_PER_FAULT, Chaos

NUM_IMAGES = int(os.environ.get("HDRFLEET_SOAK_IMAGES", "100000"))
NUM_SHARDS = -(-NUM_IMAGES // 64)
NUM_PICTURES = 200
BAD_ONE_IN = 100
TIMEOUT_S = 7200
SAMPLE_EVERY_S = 1.0
MAX_ENDS = 20  # of a driver that nobody killed: it may give up while the store is away
ROOM_BYTES, LEAK_BYTES_PER_IMAGE = 8 * 2**20, 256
REPOSITORY = Path(__file__).resolve().parents[2]
PYTHONPATH = f"{REPOSITORY}:{REPOSITORY / 'tests'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(os.environ.get("HDRFLEET_SOAK_FOLDER", tmp_path))


def seed_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """That of the soak that lies there, or the one that is given, or a new one."""
    given, kept = os.environ.get("HDRFLEET_SOAK_SEED"), folder / "seed"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(given or str(random.SystemRandom().getrandbits(32)))
    seed = int(kept.read_text())
    assert given is None or int(given) == seed, f"the soak in {folder} has another seed, {seed}"
    with capsys.disabled():
        sys.stdout.write(f"\nHDRFLEET_SOAK_SEED={seed} HDRFLEET_SOAK_IMAGES={NUM_IMAGES}\n")
    return seed


def write_sources(folder: Path, pictures: list[bytes]) -> None:
    """Write what is not there yet."""
    for index in range(NUM_IMAGES):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not a picture" if index % BAD_ONE_IN == 0 else pictures[index % NUM_PICTURES])


def run_driver(folder: Path, address: str, chaos: Chaos) -> int:
    """Run the job to its end, or to its death, and note how much memory its processes hold."""
    env = environment(folder / "home", {"PYTHONPATH": PYTHONPATH})
    command = [sys.executable, "-m", "soak_run", str(folder / "src"), str(folder / "out"), address]
    with (folder / "log").open("ab") as log, (folder / "memory.csv").open("a", newline="") as samples:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        driver = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                note_memory(csv.writer(samples), {"driver": [driver], **chaos.workers()})
                chaos.tend(driver, len(list(folder.glob("out/manifest/plan=1/*.parquet"))) / NUM_SHARDS)
                time.sleep(SAMPLE_EVERY_S)
        finally:
            process.kill()
            process.wait(30)
    return process.returncode


def note_memory(writer: object, processes: Mapping[str, list[psutil.Process]]) -> None:
    now = time.time()
    for role, each in processes.items():
        for process in each:
            try:
                row = [f"{now:.1f}", role, process.pid, process.memory_info().rss]
            except psutil.Error:
                continue
            writer.writerow(row)  # type: ignore[attr-defined]


def run_to_the_end(folder: Path, chaos: Chaos, address: str) -> list[int]:
    """Start the driver again and again, as its user would; the exit codes. It ends with 3: some images are none."""
    codes: list[int] = []
    while not codes or codes[-1] != 3:
        codes.append(run_driver(folder, address, chaos))
        said = (folder / "log").read_text()[-2000:]
        assert codes[-1] in {3, -signal.SIGKILL, 1}, said
        assert codes[-1] != 1 or "[storage_unavailable]" in said.splitlines()[-1], said
        assert codes.count(1) <= MAX_ENDS, said
        assert codes.count(-signal.SIGKILL) <= chaos.done["driver"], "somebody else killed it"
    return codes


def convert_undisturbed(folder: Path, pictures: list[bytes]) -> Folder:
    (folder / "pictures").mkdir(exist_ok=True)
    for index, data in enumerate(pictures):
        (folder / f"pictures/{index:03d}.jpg").write_bytes(data)
    command = [sys.executable, "-m", "soak_run", str(folder / "pictures"), str(folder / "whole")]
    env = environment(folder / "home", {"PYTHONPATH": PYTHONPATH})
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=300)
    return Folder(folder / "whole")


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_every_image_is_converted_once_as_if_nothing_had_happened_and_memory_stays_flat(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = seed_of(folder, capsys)
    pictures = [jpeg(picture(12, 16, seed=index)) for index in range(NUM_PICTURES)]
    write_sources(folder / "src", pictures)
    outage = folder / "away"
    with running_cluster(tmp_path, {"PYTHONPATH": PYTHONPATH, soak_run.OUTAGE: str(outage)}) as cluster:
        chaos = Chaos(cluster, folder / "faults.csv", outage, seed, NUM_IMAGES)
        try:
            codes = run_to_the_end(folder, chaos, cluster.address)
        finally:
            chaos.close()
    assert set(chaos.done) == set(IMAGES_PER_FAULT), f"not all kinds of faults: {chaos.done}"

    reader = Folder(folder / "out")
    rows = rows_in(reader)
    assert Counter(row["source"] for row in rows) == {
        f"{index // 1000:03d}/{index:06d}.jpg": 1 for index in range(NUM_IMAGES)
    }
    num_bad = len(range(0, NUM_IMAGES, BAD_ONE_IN))
    assert Counter((row["status"], row["error_code"]) for row in rows) == {
        ("ok", None): NUM_IMAGES - num_bad,
        ("failed", "unsupported_format"): num_bad,
    }
    good = [row for row in rows if row["status"] == "ok"]
    assert {key for key in reader.stamps() if key.startswith("images/")} == {row["output"] for row in good}
    whole = convert_undisturbed(folder, pictures)
    require_as_undisturbed(reader, good, expectations(whole, rows_in(whole)))

    num_workers, num_again = len({row["worker"] for row in rows}), sum(row["attempt"] > 1 for row in rows)
    held = held_memory(folder / "memory.csv", min_samples=20)
    kept = next(each for each in held if each.role == "kept")
    num_by_kept = sum(row["worker"].endswith(f":{kept.pid}") for row in rows)
    with capsys.disabled():
        sys.stdout.write(
            f"faults {dict(chaos.done)}, exit codes {dict(Counter(codes))}, {num_workers} workers, {num_again} rows of "
            f"a second attempt or later, {sum(row['adopted'] for row in good)} adopted\n"
            f"kept worker: {num_by_kept} images, {kept.num_bytes[0] / 2**20:.0f} MiB at first, "
            f"{kept.num_bytes[-1] / 2**20:.0f} at last, grown by {kept.grown_bytes / 2**20:+.1f} MiB\n"
        )
    require_flat(held, kept, num_by_kept)


def require_flat(held: Sequence[Held], kept: Held, num_images: int) -> None:
    """What a worker makes of one image has a thousand bytes at the least (its row, the pixels as halfs).

    Were any of it kept, the worker that lives on would grow by more than a quarter of that per image. The allocator and
    Python's own tables need room that has nothing to do with images.
    """
    allowed_bytes = ROOM_BYTES + LEAK_BYTES_PER_IMAGE * num_images / 2  # from the second quarter's middle to the last's
    assert kept.grown_bytes <= allowed_bytes, f"the worker that lives on grows: {kept.num_bytes}"
    for each in held:
        assert each.growth < 1.15, f"{each.role} {each.pid} grows: {each.num_bytes}"
