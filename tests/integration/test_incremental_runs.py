"""A library that changes, converted again and again, compacted and collected: on files and on moto."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import hdrfleet_here
from forked import forked
from independent_checker import Row, current, require_whole, rows_in
from photographs import jpeg, picture, write_library

from jobs.progress import ConsoleReporter
from jobs.store_check import check_if_moved
from pipeline.collection import collect
from pipeline.config import StorageConfig
from pipeline.driver_lease import acquire_lease
from pipeline.job import read_job
from pipeline.manifest import compact, open_manifest, run_query, tiers
from pipeline.manifest.head import list_heads, newest_head
from pipeline.manifest.snapshot import take_snapshot
from pipeline.storage import ObjectStore, open_store
from pipeline.verification import verify_destination

NUM_PHOTOS = 4


@dataclass(frozen=True)
class Objects:
    """A destination, for the independent checker."""

    store: ObjectStore

    def stamps(self) -> dict[str, object]:
        return {info.key: info.etag for info in self.store.list()}

    def read(self, key: str) -> bytes:
        return self.store.read(key)

    def leftovers(self) -> list[str]:
        return list(self.store.unfinished())


def raw_rows(store: ObjectStore) -> dict[tuple[int, str], Row]:
    """Every committed row by (plan, source), read from the store's Parquet files by none of the manifest's code."""
    return {(row["plan"], row["source"]): row for row in rows_in(Objects(store))}


def unmarked(rows: dict[tuple[int, str], Row]) -> dict[tuple[int, str], Row]:
    return {key: {name: value for name, value in row.items() if name != "collected_at"} for key, row in rows.items()}


def is_sound(store: ObjectStore) -> bool:
    record = read_job(store)
    assert record is not None
    return verify_destination(store, record, share=1.0).is_sound


def images(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list("images")}


def convert(photos: Path, dst: str, *more: str) -> int:
    arguments = ("--weights", "identity", "--executor", "local", "--shard-images", "3")
    return hdrfleet_here("convert", photos, dst, *arguments, *more)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_library(tmp_path / "photos", NUM_PHOTOS)
    for path in (tmp_path / "photos/bad").iterdir():
        path.unlink()
    return tmp_path / "photos"


@pytest.fixture(params=["files", "moto"])
def dst(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "files":
        return str(tmp_path / "hdr")
    kind, _, keeps_versions = request.param.partition(" ")
    bucket = request.getfixturevalue("s3_bucket_on")(request.getfixturevalue(f"{kind}_server"))
    if keeps_versions:
        bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    return f"{bucket.url}/hdr"


def change(photos: Path, name: str, seed: int) -> None:
    path = photos / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(jpeg(picture(24, 32, seed=seed)))
    os.utime(path, (10_000 + seed, 10_000 + seed))


@pytest.mark.parametrize(
    "dst",
    ["files", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("moto", "moto with versions", "swift"))],
    indirect=True,
)
def test_a_library_that_changes_is_followed_compacted_and_collected(
    photos: Path, dst: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(dst, StorageConfig())
    assert convert(photos, dst, "-q") == 0
    first = raw_rows(store)
    gone, touched, changed = "dot.png", "deep/alpha.png", "trip 0/photo_000.jpg"
    gone_bytes = (photos / gone).read_bytes()
    (photos / gone).unlink()
    os.utime(photos / touched, (1, 1))
    change(photos, changed, 50)
    change(photos, "new.jpg", 51)
    capsys.readouterr()
    assert convert(photos, dst, "--json") == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["num_planned"], result["num_vanished"], result["vanished_examples"]) == (3, 1, [gone])
    assert f"no longer in the source: 1 image, for example {gone}; their rows and outputs stay" in told.err
    assert convert(photos, dst, "--limit", "2", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["num_vanished"] == 0
    assert "no longer" not in told.err

    rows = raw_rows(store)
    assert {key: row for key, row in rows.items() if key[0] == 1} == first
    assert {source for plan, source in rows if plan == 2} == {touched, changed, "new.jpg"}
    assert (rows[2, touched]["revision"], rows[2, changed]["revision"]) == (1, 2)
    assert f"images/{gone}.exr" in images(store)

    assert hdrfleet_here("compact", dst) == 0
    assert "generation 1: 10 rows in 1 file, 4 parts merged" in capsys.readouterr().out
    assert raw_rows(store) == rows
    assert is_sound(store)
    change(photos, changed, 52)
    assert convert(photos, dst, "-q") == 0
    rows = raw_rows(store)
    assert len(rows) == 11
    capsys.readouterr()
    assert hdrfleet_here("query", dst, "select count(*) n from manifest_history", "--format", "csv") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "11"

    # What is young stays; then the two old revisions go.
    before = images(store)
    assert hdrfleet_here("gc", dst, "--keep-revisions", "1") == 0
    assert "nothing to delete" in capsys.readouterr().out
    assert hdrfleet_here("gc", dst, "--keep-revisions", "1", "--older-than", "0", "--dry-run") == 0
    told_dry = capsys.readouterr().out
    assert "would delete 2 outputs" in told_dry
    assert f"images/{changed}.v2.exr" in told_dry
    assert images(store) == before
    assert hdrfleet_here("gc", dst, "--keep-revisions", "1", "--older-than", "0", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["num_marked"], done["num_outputs"], done["is_dry_run"]) == (2, 2, False)
    assert before - images(store) == {f"images/{changed}.exr", f"images/{changed}.v2.exr"}
    # On S3 times have whole seconds: what has just been committed can count as younger than now.
    head = newest_head(store)
    assert head is not None
    assert head.generation == 2
    after = raw_rows(store)
    assert unmarked(after) == unmarked(rows)
    assert {key for key, row in after.items() if row["collected_at"]} == {(1, changed), (2, changed)}
    table = run_query(
        open_manifest(store), "select source, collected_at is null kept from manifest where source like '%000%'"
    )
    assert table.to_pylist() == [{"source": changed, "kept": True}]
    capsys.readouterr()
    assert hdrfleet_here("verify", dst, "--deep") == 0
    assert "sound; 11 rows of 3 plans" in capsys.readouterr().out

    # The bytes of a collected revision come back: made anew under a new name, for its own is taken by history.
    change(photos, changed, 50)
    assert convert(photos, dst, "-q") == 0
    row = raw_rows(store)[4, changed]
    assert (row["output"], row["adopted"]) == (f"images/{changed}.v4.exr", False)
    capsys.readouterr()
    assert convert(photos, dst, "--json") == 0
    assert json.loads(capsys.readouterr().out)["did_work"] is False, "covered shards count as committed"
    assert hdrfleet_here("status", dst) == 0
    assert "complete" in capsys.readouterr().out
    assert is_sound(store)
    inputs = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.*g")}
    everything = require_whole(Objects(store), inputs | {gone: gone_bytes})
    assert {row["source"]: row["plan"] for row in current(everything)}[changed] == 4


def test_an_image_with_an_unusable_name_is_not_lost_silently(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst = str(tmp_path / "hdr")
    (photos / "dot.png").rename(photos / "two\nlines.png")
    for num_planned in (6, 0):
        capsys.readouterr()
        assert convert(photos, dst, "--json") == 3
        told = capsys.readouterr()
        result = json.loads(told.out)
        assert (result["num_planned"], result["num_unusable"]) == (num_planned, 1)
        assert result["unusable_examples"] == ["two\\nlines.png"]
        assert r"left out 1 image whose names cannot be used, for example two\nlines.png; rename them" in told.err
    (photos / "two\nlines.png").rename(photos / "dot.png")
    assert convert(photos, dst, "-q") == 0


@pytest.mark.parametrize("dst", ["files", pytest.param("moto", marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize("file_rows", [131_072, 4])
def test_compactors_queries_and_commits_run_beside_each_other(
    photos: Path, dst: str, file_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files of a few rows as well, so that heads share them with heads that collections remove."""
    for name, value in (("MAX_FILE_ROWS", file_rows), ("FULL_ROWS", file_rows // 4), ("SMALL_ROWS", file_rows // 32)):
        monkeypatch.setattr(tiers, name, value)
    assert convert(photos, dst, "-q") == 0
    expected = raw_rows(open_store(dst, StorageConfig()))
    stop = threading.Event()

    def ask() -> int:
        """Query until told to stop; every answer holds every row of the first plan, and each row once."""
        store, num_asked = open_store(dst, StorageConfig()), 0
        while not stop.is_set() or not num_asked:
            rows = open_manifest(store).history.to_pylist()
            found = {(row["plan"], row["source"]): row for row in rows}
            assert len(found) == len(rows)
            assert {key: row for key, row in found.items() if key[0] == 1} == expected
            num_asked += 1
        return num_asked

    def keep_small() -> int:
        store, num_won = open_store(dst, StorageConfig()), 0
        while not stop.is_set():
            num_won += compact(store).did_work
            assert hdrfleet_collect(store)
        return num_won

    with ThreadPoolExecutor(4) as pool:
        others: list[Any] = [pool.submit(work) for work in (ask, keep_small, keep_small)]
        try:
            for seed in range(3):
                change(photos, "trip 0/photo_000.jpg", 60 + seed)
                change(photos, f"new {seed}.jpg", 70 + seed)
                assert convert(photos, dst, "-q") == 0
        finally:
            stop.set()
        asked, won, also_won = (future.result(timeout=60) for future in others)
    assert asked >= 1
    assert won + also_won >= 1
    store = open_store(dst, StorageConfig())
    compact(store)
    rows = raw_rows(store)
    assert len(rows) == len(expected) + 6
    assert {key: row for key, row in rows.items() if key[0] == 1} == expected
    assert is_sound(store)


@pytest.mark.parametrize("dst", ["files", pytest.param("moto", marks=pytest.mark.long)], indirect=True)
def test_outputs_are_collected_beside_a_job_and_queries(photos: Path, dst: str) -> None:
    """What newer revisions replace is deleted at once, while the next ones are made."""
    changed = "trip 0/photo_000.jpg"
    assert convert(photos, dst, "-q") == 0
    stop = threading.Event()

    def ask() -> int:
        """Whatever is deleted meanwhile: every image has its current row, and what did not change its output."""
        store, num_asked, num_sources = open_store(dst, StorageConfig()), 0, 0
        while not stop.is_set() or not num_asked:
            rows = open_manifest(store).current.to_pylist()
            assert len({row["source"] for row in rows}) == len(rows) >= num_sources
            num_sources = len(rows)
            for row in rows:
                assert row["source"] == changed or store.stat(row["output"]).size_bytes == row["output_bytes"]
            num_asked += 1
        return num_asked

    deleted: list[int] = []

    def collect_all() -> None:
        store = open_store(dst, StorageConfig())
        while not stop.is_set():
            deleted.append(collect(store, keep_revisions=1, older_than=timedelta(0)).num_outputs)

    num_changes = num_beside = 0
    with ThreadPoolExecutor(3) as pool:
        asking, collecting = pool.submit(ask), pool.submit(collect_all)
        try:
            # A collector on a busy machine may come by seldom.
            while num_changes < 5 or (num_beside < 2 and num_changes < 30):
                change(photos, changed, 60 + num_changes)
                before = sum(deleted)
                assert convert(photos, dst, "-q") == 0
                num_changes += 1
                num_beside += sum(deleted) > before
        finally:
            stop.set()
        assert asking.result(timeout=60) >= 1
        collecting.result(timeout=60)
    assert num_beside >= 2, "nothing was deleted while a job ran"
    store = open_store(dst, StorageConfig())
    collect(store, keep_revisions=1, older_than=timedelta(0))
    rows = open_manifest(store).current.to_pylist()
    assert {row["output"] for row in rows} == images(store)
    assert max(row["revision"] for row in rows) == 1 + num_changes
    assert is_sound(store)


def hdrfleet_collect(store: ObjectStore) -> bool:
    return collect(store, older_than=timedelta(0)).num_outputs == 0


def test_of_compactors_that_start_together_one_wins(photos: Path, dst: str) -> None:
    assert convert(photos, dst, "-q") == 0
    rows = raw_rows(open_store(dst, StorageConfig()))
    num_racers = 4
    start = threading.Barrier(num_racers)

    def race() -> bool:
        store = open_store(dst, StorageConfig())
        start.wait(30)
        done = compact(store)
        return done.did_work and done.won

    with ThreadPoolExecutor(num_racers) as pool:
        won = list(pool.map(lambda _: race(), range(num_racers)))
    store = open_store(dst, StorageConfig())
    assert sum(won) == 1
    assert list(list_heads(store)) == [1]
    assert raw_rows(store) == rows


STEPS = {
    "compact": (
        "file.written=kill:1",
        "file.named=kill:1",
        "generation.written=kill",
        "file.written=kill:2",
        "head.created=kill",
    ),
    "gc": (
        "file.named=kill:1",
        "file.named=kill:2",
        "generation.written=kill",
        "head.created=kill",
        *(f"collection.deleted=kill:{number}" for number in (1, 2, 4, 6)),
    ),
}
COMMANDS = {"compact": (), "gc": ("--keep-revisions", "1", "--older-than", "0")}


@pytest.fixture(scope="module")
def changed_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/, and hdr/ that followed two changes of one of them and was compacted ahead of each."""
    root = tmp_path_factory.mktemp("killed")
    write_library(root / "photos", NUM_PHOTOS)
    for path in (root / "photos/bad").iterdir():
        path.unlink()
    assert convert(root / "photos", str(root / "hdr"), "-q") == 0
    for seed in (80, 81):
        compact(open_store(str(root / "hdr"), StorageConfig()))
        change(root / "photos", "trip 0/photo_000.jpg", seed)
        assert convert(root / "photos", str(root / "hdr"), "-q") == 0
    return root


@pytest.mark.parametrize(("command", "fault"), [(command, fault) for command in STEPS for fault in STEPS[command]])
def test_a_killed_process_leaves_what_the_next_one_finishes(
    changed_library: Path, tmp_path: Path, command: str, fault: str
) -> None:
    """SIGKILL at each step of a compaction and of a collection."""
    dst, log = tmp_path / "hdr", tmp_path / "log"
    shutil.copytree(changed_library / "hdr", dst)
    store = open_store(str(dst), StorageConfig())
    record = read_job(store)
    assert record is not None
    check_if_moved(store, record, ConsoleReporter(quiet=True))  # its files are not those that are counted
    rows, changed = raw_rows(store), "images/trip 0/photo_000.jpg"
    old = {f"{changed}.exr", f"{changed}.v2.exr"}
    assert forked(command, dst, *COMMANDS[command], log=log, faults=fault) == -signal.SIGKILL, log.read_text()
    assert unmarked(raw_rows(store)) == unmarked(rows)
    marked = {row["output"] for row in raw_rows(store).values() if row["collected_at"]}
    assert marked in (set(), old)
    findings = verify_destination(store, record).findings
    assert {finding.code for finding in findings} <= {"orphan", "unfinished_write"}
    assert {finding.key for finding in findings if finding.code == "orphan"} == marked & images(store)
    assert old - images(store) <= marked, "deleted before its rows said so"

    assert forked(command, dst, *COMMANDS[command], log=log) == 0, log.read_text()
    assert unmarked(raw_rows(store)) == unmarked(rows)
    assert verify_destination(store, record, share=1.0).num_by_code().keys() <= {"unfinished_write"}
    if command == "gc":
        assert not old & images(store)
    else:
        assert not take_snapshot(store).parts


@pytest.mark.long
@pytest.mark.parametrize("dst", ["swift"], indirect=True)
def test_on_a_weak_store_a_killed_process_leaves_what_the_next_one_finishes(
    photos: Path, dst: str, tmp_path: Path
) -> None:
    """The same on a server that is no stand-in, where compact and gc own the destination while they run."""
    store, log = open_store(dst, StorageConfig()), tmp_path / "log"
    assert convert(photos, dst, "-q") == 0
    record, changed = read_job(store), "trip 0/photo_000.jpg"
    assert record is not None
    assert record.store_weakness is not None
    for number, fault in enumerate(("lease.created", "generation.written", "head.created")):
        change(photos, changed, 90 + number)
        assert convert(photos, dst, "-q") == 0
        rows = raw_rows(store)
        assert forked("compact", dst, log=log, faults=f"{fault}=kill") == -signal.SIGKILL, log.read_text()
        assert raw_rows(store) == rows
        assert is_sound(store)
    rows, old = raw_rows(store), {f"images/{changed}.exr", f"images/{changed}.v2.exr", f"images/{changed}.v3.exr"}
    for fault in ("generation.written=kill", "head.created=kill", "collection.deleted=kill", "collection.deleted=kill"):
        assert forked("gc", dst, *COMMANDS["gc"], log=log, faults=fault) == -signal.SIGKILL, log.read_text()
        assert unmarked(raw_rows(store)) == unmarked(rows)
        marked = {row["output"] for row in raw_rows(store).values() if row["collected_at"]}
        assert marked in (set(), old)
        assert old - images(store) <= marked
    assert forked("gc", dst, *COMMANDS["gc"], log=log) == 0, log.read_text()
    assert unmarked(raw_rows(store)) == unmarked(rows)
    assert not old & images(store)
    assert is_sound(store)


def test_on_a_weak_store_nothing_runs_beside_a_driver(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst = tmp_path / "hdr"
    assert convert(photos, str(dst), "-q", "--lease-timeout", "1") == 0
    job = dst / "_hdrfleet/job.json"
    record = json.loads(job.read_text())
    with acquire_lease(open_store(str(dst), StorageConfig()), timeout_s=1):
        assert hdrfleet_here("compact", dst) == 0, "a store that decides races takes both"
        job.write_text(json.dumps({**record, "store_weakness": "several creators won"}))
        capsys.readouterr()
        for command in ("compact", "gc"):
            assert hdrfleet_here(command, dst) == 2
            assert "destination_in_use" in capsys.readouterr().err
    assert hdrfleet_here("gc", dst, "--older-than", "0") == 0
    assert is_sound(open_store(str(dst), StorageConfig()))


def test_bad_usage_fails_before_work(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("compact", tmp_path) == 2
    assert hdrfleet_here("gc", tmp_path) == 2
    assert capsys.readouterr().err.count("holds no conversion") == 2
    assert convert(photos, str(tmp_path / "hdr"), "-q") == 0
    capsys.readouterr()
    assert hdrfleet_here("gc", tmp_path / "hdr", "--keep-revisions", "0") == 2
    assert hdrfleet_here("gc", tmp_path / "hdr", "--older-than", "later") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "--keep-revisions must be at least 1" in lines[0]
    assert "--older-than: 'later' is not a duration" in lines[1]
    assert hdrfleet_here("compact", tmp_path / "hdr") == 0
    assert hdrfleet_here("compact", tmp_path / "hdr") == 0
    assert "nothing new since generation 1" in capsys.readouterr().out


def test_a_schema_of_plain_columns_reads_back_from_a_generation(photos: Path, tmp_path: Path) -> None:
    """Any engine reads the files: plain strings, times in UTC, and the columns of the documentation."""
    dst = str(tmp_path / "hdr")
    assert convert(photos, dst, "-q") == 0
    store = open_store(dst, StorageConfig())
    compact(store)
    head = newest_head(store)
    assert head is not None
    table = pq.read_table(io.BytesIO(store.read(head.files[0].key)))
    assert table.schema.names == open_manifest(store).history.schema.names
    assert not any(pa.types.is_dictionary(field.type) for field in table.schema)
    assert str(table.schema.field("collected_at").type) == "timestamp[us, tz=UTC]"
