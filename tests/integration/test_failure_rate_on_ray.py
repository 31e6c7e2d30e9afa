"""Most images fail on real workers: the job stops, keeps what is committed, and goes on when it is told to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import hdrfleet_here
from independent_checker import Durable, Folder, comparable, require_whole, rows_in
from photographs import jpeg, picture

NUM_IMAGES = 480
SHARD_IMAGES = 20
NUM_BEFORE_IT_IS_TOLD = 200
NUM_HELD = 2 * 2 * SHARD_IMAGES  # two workers, two leases each
GOOD_ONE_IN = 4


def write_mostly_broken(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    good = jpeg(picture(16, 16))
    inputs = {f"{index:03}.jpg": b"no picture" if index % GOOD_ONE_IN else good for index in range(NUM_IMAGES)}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    return inputs


@pytest.mark.timeout(240)
def test_a_job_in_which_most_images_fail_stops_and_its_next_run_does_the_rest(
    ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_mostly_broken(tmp_path / "photos")
    options = ("--device", "cpu", "--weights", "identity", "--workers", "2", "--shard-images", str(SHARD_IMAGES))
    command = ("convert", tmp_path / "photos", tmp_path / "out", *options)
    assert hdrfleet_here(*command, "--max-failure-rate", "60%", "--quiet") == 1
    out, err = capsys.readouterr()
    assert out == ""
    said = re.fullmatch(
        r"hdrfleet: [78]\d% of (?P<seen>\d+) images failed, more than --max-failure-rate 60%; (?P<failed>\d+) of them "
        r"with unsupported_format; committed work is kept, run the same command again once this is mended, "
        r"then hdrfleet retry with the same change for the images that failed \[too_many_failures\]\n",
        err,
    )
    assert said, err
    assert int(said["seen"]) >= NUM_BEFORE_IT_IS_TOLD
    # Three in four, and more while the good ones of the shards at work are on their way.
    assert 0.7 < int(said["failed"]) / int(said["seen"]) < 0.9

    reader = Folder(tmp_path / "out")
    kept, durable = rows_in(reader), Durable.of(reader)
    # What the workers held when it stopped was counted, and is not committed.
    assert NUM_BEFORE_IT_IS_TOLD - NUM_HELD <= len(kept) < NUM_IMAGES
    assert len(kept) % SHARD_IMAGES == 0

    assert hdrfleet_here(*command, "--max-failure-rate", "100%", "--quiet", "--json") == 3
    outcome = json.loads(capsys.readouterr().out)
    # A worker that was at its commit when its driver stopped may have made it a moment after we looked.
    num_late = NUM_IMAGES - len(kept) - outcome["num_planned"]
    assert 0 <= num_late <= NUM_HELD
    assert num_late % SHARD_IMAGES == 0
    assert outcome["manifest"]["num_by_status"] == {
        "ok": NUM_IMAGES // GOOD_ONE_IN,
        "failed": NUM_IMAGES - NUM_IMAGES // GOOD_ONE_IN,
    }
    rows = require_whole(reader, inputs, num_leftovers=len(reader.leftovers()))
    durable.require_kept(reader, rows)
    before = {row["source"] for row in kept}
    assert comparable([row for row in rows if row["source"] in before]) == comparable(kept)
