"""A sound destination, and one that was damaged in every way that verification promises to see."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import hdrfleet_here
from fakes import FakeEngine, HookedStore
from photographs import write_library
from written_parts import written_part

from jobs.options import parse_share
from jobs.progress import ConsoleReporter
from jobs.repair import RepairOutcome, hint, run_repair
from jobs.verify import print_report
from pipeline.codecs.exr import HdrImage, decode_exr, encode_exr
from pipeline.config import EncodeConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import (
    ConfigError,
    DestinationError,
    ManifestError,
    ObjectDeniedError,
    StorageError,
    TransientStorageError,
)
from pipeline.job import Job, open_job, read_job
from pipeline.lease_record import newest_epoch
from pipeline.manifest import SCHEMA, part_key
from pipeline.manifest.compaction import compact
from pipeline.records import Provenance
from pipeline.scaling_record import ScalingEvent, append_event
from pipeline.sharding import open_source
from pipeline.storage import ObjectStore, open_store
from pipeline.storage.local import LocalStore
from pipeline.verification import VerifyReport, verify_destination
from pipeline.verification.findings import FINDING_CODES

WEIGHTS = "f" * 64
SHARD = 1  # of the first plan: images that all convert


def plan(photos: Path, destination: Path) -> tuple[Job, ShardConverter]:
    """Plan what is new in `photos` (a folder or a list), in shards of 4; the converter has no network."""
    config = build_config(
        source={"url": str(photos)}, destination={"url": str(destination)}, sharding={"max_images": 4}
    )
    listing, store = open_source(config.source), open_store(str(destination), StorageConfig())
    job = open_job(store, config, source_root=str(photos), weights_name="fake", weights_sha256=WEIGHTS)
    converter = ShardConverter(
        source=listing.store,
        destination=store,
        engine=FakeEngine(),
        config=config,
        provenance=Provenance("0", "fake", WEIGHTS, config.pixel_digest(), "w", "n"),
    )
    job.extend(listing)
    return job, converter


def convert(photos: Path, destination: Path) -> Job:
    """Plan what is new in `photos`, and convert what is planned."""
    job, converter = plan(photos, destination)
    for work in job.pending():
        for shard in job.shards(work):
            converter.run(shard)
    return job


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ and hdr/, converted in two plans: one source was changed after the first."""
    root = tmp_path_factory.mktemp("pristine")
    write_library(root / "photos")
    convert(root / "photos", root / "hdr")
    changed = root / "photos" / "dot.png"
    changed.write_bytes((root / "photos" / "deep" / "alpha.png").read_bytes())
    convert(root / "photos", root / "hdr")
    return root


@pytest.fixture
def destination(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine / "hdr", tmp_path / "hdr")
    return tmp_path / "hdr"


def verify(destination: Path, share: float = 1.0) -> VerifyReport:
    store = open_store(str(destination), StorageConfig())
    record = read_job(store)
    assert record is not None
    return verify_destination(store, record, share=share)


def codes(destination: Path, share: float = 1.0) -> dict[str, str]:
    """What was found, code by key."""
    findings = verify(destination, share).findings
    found = {finding.key: finding.code for finding in findings}
    assert len(found) == len(findings), "more than one finding of one key"
    return found


def test_a_finished_job_is_sound(destination: Path) -> None:
    report = verify(destination)
    assert report.is_sound, report.findings
    assert (report.num_plans, report.num_rows, report.num_outputs) == (2, 15, 12)
    assert report.num_decoded == 12
    assert report.num_bytes_read == sum(path.stat().st_size for path in (destination / "images").rglob("*.exr"))
    assert report.to_json()["num_by_code"] == {}


def test_without_a_sample_no_output_is_read(destination: Path) -> None:
    report = verify(destination, share=0.0)
    assert (report.num_decoded, report.num_bytes_read) == (0, 0)
    assert report.is_sound


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    path.write_bytes(written_part(change(table), table.schema.metadata))


def part(destination: Path, plan: int = 1, shard: int = SHARD) -> Path:
    return destination / part_key(plan, shard)


def some_output(destination: Path) -> tuple[Path, str]:
    key = "images/trip 0/photo_000.jpg.exr"
    return destination / key, key


def set_cell(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        return table.set_column(
            table.schema.get_field_index(name),
            table.schema.field(name),
            pa.array(values, table.schema.field(name).type),
        )

    return change


def first_ok(destination: Path) -> tuple[int, dict[str, Any]]:
    rows = pq.read_table(part(destination)).to_pylist()
    return next((index, row) for index, row in enumerate(rows) if row["status"] == "ok")


def test_a_missing_output_is_found_without_reading(destination: Path) -> None:
    path, key = some_output(destination)
    path.unlink()
    assert codes(destination, 0.0) == {key: "output_missing"}
    assert codes(destination) == {key: "output_missing"}


def test_an_output_of_another_size_is_found_without_reading(destination: Path) -> None:
    path, key = some_output(destination)
    path.write_bytes(path.read_bytes()[:-1])
    assert codes(destination, 0.0) == {key: "output_size"}
    found = {finding.code for finding in verify(destination).findings}
    assert {"output_size", "output_sha256"} <= found


def test_flipped_bits_are_found_by_reading(destination: Path) -> None:
    path, key = some_output(destination)
    data = bytearray(path.read_bytes())
    data[-1000] ^= 0xFF
    path.write_bytes(data)
    assert codes(destination, 0.0) == {}
    assert "output_sha256" in {finding.code for finding in verify(destination).findings if finding.key == key}


def rewritten(destination: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace an output by another valid one and let its row agree in size and digest."""
    path, key = some_output(destination)
    data = change(path.read_bytes())
    path.write_bytes(data)
    for parquet in destination.glob("manifest/plan=1/*.parquet"):
        outputs = pq.read_table(parquet)["output"].to_pylist()
        if key in outputs:
            row = outputs.index(key)
            rewrite(parquet, set_cell("output_bytes", row, len(data)))
            rewrite(parquet, set_cell("output_sha256", row, hashlib.sha256(data).hexdigest()))


def test_an_output_of_another_size_in_pixels_or_with_alpha_is_found(destination: Path) -> None:
    def cropped(data: bytes) -> bytes:
        old = decode_exr(data)
        assert old.identity is not None
        assert old.provenance is not None
        pixels = np.ascontiguousarray(old.image.pixels[:-1])
        image = HdrImage(pixels, np.ones(pixels.shape[:2], pixels.dtype))
        return encode_exr(image, EncodeConfig(), old.identity, old.provenance)

    rewritten(destination, cropped)
    report = verify(destination)
    assert report.num_by_code() == {"output_dimensions": 2}


def test_an_output_of_another_source_is_found(destination: Path) -> None:
    other = destination / "images/trip 1/photo_001.jpg.exr"
    rewritten(destination, lambda _: other.read_bytes())
    assert codes(destination) == {some_output(destination)[1]: "output_identity"}


def test_what_is_no_exr_is_found(destination: Path) -> None:
    rewritten(destination, lambda data: b"\0" * len(data))
    assert codes(destination) == {some_output(destination)[1]: "output_undecodable"}


def test_orphans_and_what_killed_writers_left_are_found(destination: Path) -> None:
    (destination / "images" / "stranger.exr").write_bytes(b"x")
    (destination / "images" / ".hdrfleet-tmp-1-ab").write_bytes(b"x")
    assert codes(destination) == {"images/stranger.exr": "orphan", "images/.hdrfleet-tmp-1-ab": "unfinished_write"}


def plant_strays(destination: Path) -> Path:
    """Make links, a pipe and files whose names cannot be keys below images/; returns what a link points to."""
    images, elsewhere = destination / "images", destination.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.exr").write_bytes(b"x")
    (images / "folder\x02").mkdir()
    for name in ("bell\x07.exr", "folder\x02/in it.exr", os.fsdecode(b"raw\xff.exr")):
        (images / name).write_bytes(b"x")
    (images / "to-folder").symlink_to(elsewhere)
    (images / "to-nothing.exr").symlink_to("gone.exr")
    (images / "line\nfeed").symlink_to(elsewhere)
    os.mkfifo(images / "pipe.exr")
    return elsewhere / "kept.exr"


STRAYS = {
    r"images/bell\x07.exr",
    r"images/folder\x02/in it.exr",
    r"images/raw\udcff.exr",
    r"images/line\nfeed",
    "images/to-folder",
    "images/to-nothing.exr",
    "images/pipe.exr",
}


def test_links_devices_and_names_that_cannot_be_keys_are_found(
    destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_strays(destination)
    assert codes(destination) == dict.fromkeys(STRAYS, "orphan_unusable")
    report = verify(destination)
    print_report(report, show_all=True)
    told = capsys.readouterr().out
    assert told.isprintable() or set(filter(lambda char: not char.isprintable(), told)) == {"\n"}
    assert sum(line.startswith("orphan_unusable  images/") for line in told.splitlines()) == len(STRAYS)
    assert json.dumps(report.to_json(), ensure_ascii=False).isprintable()


def test_links_devices_and_names_that_cannot_be_keys_are_removed_on_demand(destination: Path) -> None:
    before = contents(destination)
    kept = plant_strays(destination)
    assert repair(destination).num_deleted == 0
    outcome = repair(destination, delete_orphans=True)
    assert (outcome.num_deleted, outcome.after.findings) == (len(STRAYS), ())
    assert kept.read_bytes() == b"x", "what a link points to was removed"
    assert contents(destination) == before


def test_a_store_that_cannot_remove_what_has_no_key_says_that_a_person_has_to(destination: Path) -> None:
    plant_strays(destination)
    (destination / "images/stranger.exr").write_bytes(b"x")
    store = HookedStore(open_store(str(destination), StorageConfig()))
    record = read_job(store)
    assert record is not None
    quiet = ConsoleReporter(quiet=True)
    outcome = run_repair(store, record, record.config, quiet, share=0.0, delete_orphans=True, quiet=True)
    assert outcome.num_deleted == 1, "the one that has a key"
    assert {finding.key for finding in outcome.after.findings} == STRAYS
    assert all("removed by hand" in finding.message for finding in outcome.after.findings)
    assert "by hand" in hint(outcome.after)


def test_a_link_behind_which_rows_have_their_outputs_is_left_alone(destination: Path) -> None:
    moved = destination.parent / "other disk"
    (destination / "images/trip 0").rename(moved)
    (destination / "images/trip 0").symlink_to(moved)
    report = verify(destination)
    assert report.is_sound, report.findings
    assert [note.partition(";")[0] for note in report.notes] == ["images/trip 0 is a link"]
    assert repair(destination, delete_orphans=True).num_deleted == 0
    assert verify(destination).num_decoded == 12


def test_what_has_no_key_in_our_other_folders_is_found(destination: Path) -> None:
    (destination / "manifest/bell\x07.parquet").write_bytes(b"x")
    (destination / "_hdrfleet/to-nothing").symlink_to("gone")
    unknown = {r"manifest/bell\x07.parquet", "_hdrfleet/to-nothing"}
    assert codes(destination, 0.0) == dict.fromkeys(unknown, "unknown_object")


def test_unfinished_writes_that_cannot_be_looked_for_are_told(
    destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with failing("manifest", ObjectDeniedError("403"), "unfinished"):
        assert codes(destination, 0.0) == {"manifest": "unfinished_denied"}
    with failing("manifest", StorageError("501"), "unfinished"):
        report = verify(destination, 0.0)
    assert report.is_sound, "nobody could ever mend it"
    assert list(report.to_json()["notes"]) == ["unfinished writes were not looked for: 501"]
    print_report(report, show_all=False)
    assert capsys.readouterr().out.splitlines()[1:] == ["note: unfinished writes were not looked for: 501"]
    with failing("manifest", TransientStorageError("503"), "unfinished"), pytest.raises(TransientStorageError):
        verify(destination, 0.0)


def test_leftovers_are_deleted_though_unfinished_writes_may_not_be_looked_for(destination: Path) -> None:
    with failing("images", ObjectDeniedError("403"), "unfinished"):
        assert repair(destination, delete_orphans=True).num_deleted == 0
        (destination / "images" / "stranger.exr").write_bytes(b"x")
        outcome = repair(destination, delete_orphans=True)
    assert (outcome.num_deleted, outcome.after.num_by_code()) == (1, {"unfinished_denied": 1})
    assert verify(destination).is_sound


def test_nothing_is_deleted_where_the_plans_are_gone(destination: Path) -> None:
    shutil.rmtree(destination / "manifest")
    shutil.rmtree(destination / "_hdrfleet/plan")
    before = contents(destination)
    outcome = repair(destination, delete_orphans=True)
    assert outcome.after.num_by_code() == {"plan_missing": 1, "orphan": 12}
    assert outcome.num_deleted == 0
    assert contents(destination) == before


def test_what_is_left_of_a_last_plan_that_is_gone_is_not_deleted(destination: Path) -> None:
    key = "images/later.jpg.v2.exr"
    shutil.copy(some_output(destination)[0], destination / key)
    (destination / "images" / "stranger.exr").write_bytes(b"x")
    shutil.copy(some_output(destination)[0], destination / "images/dot.png.v7.exr")
    before = contents(destination)
    expected = {key: "orphan_unplanned", "images/stranger.exr": "orphan", "images/dot.png.v7.exr": "orphan"}
    assert codes(destination) == expected
    assert repair(destination, delete_orphans=True).num_deleted == 0
    assert contents(destination) == before
    with failing(key, ObjectDeniedError("403"), "read_range"):
        assert codes(destination)[key] == "orphan_unplanned"
    (destination / key).unlink()
    assert repair(destination, delete_orphans=True).num_deleted == 2
    assert verify(destination).is_sound


def test_a_job_without_plans_and_outputs_is_not_called_sound(
    destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("manifest", "images", "_hdrfleet/plan"):
        shutil.rmtree(destination / folder)
    print_report(verify(destination), show_all=True)
    assert capsys.readouterr().out == f"{destination}: nothing was planned yet; there is nothing to verify\n"


def test_a_small_share_of_few_outputs_reads_one(destination: Path) -> None:
    assert verify(destination, 0.0001).num_decoded == 1
    assert verify(destination, 0.0).num_decoded == 0


UNKNOWN = (
    "manifest/plan=1/garbage.parquet",
    "manifest/plan=01/shard-000000.parquet",
    "manifest/gen-3/garbage.parquet",
    "manifest/head/x.json",
    "_hdrfleet/lease/garbage",
    "_hdrfleet/lease/0000009.json",
    "_hdrfleet/plan/3/notes.txt",
    "_hdrfleet/distrusted/x.parquet",
)


@pytest.mark.parametrize("key", UNKNOWN)
def test_what_hdrfleet_never_writes_is_found_and_left(destination: Path, key: str) -> None:
    (destination / key).parent.mkdir(parents=True, exist_ok=True)
    (destination / key).write_bytes(b"x")
    assert codes(destination, 0.0) == {key: "unknown_object"}
    repair(destination, delete_orphans=True)
    assert (destination / key).exists()
    assert newest_epoch(open_store(str(destination), StorageConfig())) == 0


@pytest.mark.parametrize(
    "key",
    [
        "_hdrfleet/plan/3/part-00000-0123456789ab.parquet",
        "manifest/gen-1/part-00000-0123456789ab.parquet",
        "_hdrfleet/probe/0123456789abcdef-0",
    ],
)
def test_what_killed_planners_compactions_and_probes_leave_is_no_finding(destination: Path, key: str) -> None:
    (destination / key).parent.mkdir(parents=True)
    (destination / key).write_bytes(b"x")
    assert verify(destination, 0.0).is_sound


def test_a_lease_that_cannot_be_read_is_found(destination: Path) -> None:
    (destination / "_hdrfleet/lease").mkdir()
    (destination / "_hdrfleet/lease/000007.json").write_bytes(b"\xff garbage")
    assert codes(destination, 0.0) == {"_hdrfleet/lease/000007.json": "lease_damaged"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pixel_digest": "0" * 64}, "pixel_digest"),
        ({"pixel_fields": {"pixel_type": "float"}}, "pixel_digest"),
        ({"config": {"encode": {"pixel_type": "float"}}}, "pixel_type"),
    ],
)
def test_a_job_that_contradicts_itself_is_found_and_refused(
    destination: Path, pristine: Path, change: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = destination / "_hdrfleet/job.json"
    job = json.loads(path.read_text())
    for name, value in change.items():
        if name == "config":
            job["config"]["encode"] |= value["encode"]
        else:
            job[name] = value if isinstance(value, str) else job[name] | value
    path.write_text(json.dumps(job))
    before = contents(destination)
    (finding,) = (finding for finding in verify(destination, 0.0).findings if finding.code == "job_damaged")
    assert says in finding.message
    with pytest.raises(DestinationError, match=r"job\.json was changed"):
        convert(pristine / "photos", destination)
    for command in ("retry", "repair"):
        assert hdrfleet_here(command, destination, "--quiet") == 2
        message = capsys.readouterr().err
        assert says in message
        assert len(message.strip().splitlines()) == 1
    assert contents(destination) == before


def test_an_uncommitted_shard_is_found_and_its_outputs_are_orphans(destination: Path) -> None:
    outputs = [name for name in pq.read_table(part(destination))["output"].to_pylist() if name]
    part(destination).unlink()
    assert codes(destination) == {part_key(1, SHARD): "shard_uncommitted", **dict.fromkeys(outputs, "orphan")}


def test_a_damaged_part_is_found_and_the_others_are_read(destination: Path) -> None:
    part(destination).write_bytes(b"PAR1 no more")
    report = verify(destination)
    assert report.num_by_code()["part_damaged"] == 1
    assert report.num_rows == 11


def test_a_missing_row_is_found(destination: Path) -> None:
    index, row = first_ok(destination)
    rewrite(
        part(destination), lambda table: table.slice(0, index).take(list(range(index))) if index else table.slice(1)
    )
    assert codes(destination)[row["source"]] == "row_missing"


def test_a_row_that_is_there_twice_is_found(destination: Path) -> None:
    _, row = first_ok(destination)
    index = pq.read_table(part(destination))["source"].to_pylist().index(row["source"])
    rewrite(part(destination), lambda table: pa.concat_tables([table, table.slice(index, 1)]))
    assert codes(destination) == {row["source"]: "row_twice"}


def test_a_row_that_nobody_planned_is_found(destination: Path) -> None:
    index, row = first_ok(destination)
    rewrite(part(destination), set_cell("source", index, "stranger.jpg"))
    found = codes(destination)
    assert found["stranger.jpg"] == "row_unplanned"
    assert found[row["source"]] == "row_missing"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("error_code", "empty"),
        ("output_sha256", None),
        ("width", None),
        ("source_sha256", None),
        ("weights_sha256", "0" * 64),
        ("pixel_digest", "0" * 64),
        ("revision", 2),
        ("revision", 0),
        ("output", "../s/p0.jpg"),
        ("output", "/etc/passwd"),
        ("output", "images/../../x.exr"),
        ("output", "manifest/x.exr"),
    ],
)
def test_a_row_that_contradicts_itself_or_the_job_is_found(destination: Path, column: str, value: object) -> None:
    index, row = first_ok(destination)
    rewrite(part(destination), set_cell(column, index, value))
    assert codes(destination)[row["source"]] == "row_contradictory"


PLACES = [
    ("plan", 2, "row_misplaced"),
    ("shard", SHARD + 1, "row_misplaced"),
    ("attempt", 2, "row_misplaced"),
    ("source_etag", "another", "row_contradictory"),
    ("source_etag", None, "row_contradictory"),
    ("source_bytes", 1, "row_contradictory"),
]


@pytest.mark.parametrize(("column", "value", "code"), PLACES)
def test_a_row_that_contradicts_its_part_or_its_plan_is_found(
    destination: Path, column: str, value: object, code: str
) -> None:
    index, row = first_ok(destination)
    rewrite(part(destination), set_cell(column, index, value))
    assert codes(destination, 0.0) == {row["source"]: code}
    if column in {"plan", "shard"}:
        with pytest.raises(ManifestError, match="not compacted"):
            compact(open_store(str(destination), StorageConfig()))


def rewrite_generation(destination: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of the one compacted file, and let the head name what is there then."""
    (head_path,) = destination.glob("manifest/head/*.json")
    head = json.loads(head_path.read_text())
    (file,) = head["files"]
    rewrite(destination / file["key"], change)
    data = (destination / file["key"]).read_bytes()
    file |= {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    head_path.write_text(json.dumps(head))


@pytest.mark.parametrize(("column", "value", "code"), PLACES[2:])
def test_a_compacted_row_that_contradicts_its_shard_or_its_plan_is_found(
    destination: Path, column: str, value: object, code: str
) -> None:
    compact(open_store(str(destination), StorageConfig()))
    assert verify(destination, 0.0).is_sound
    (path,) = destination.glob("manifest/gen-1/*.parquet")
    rows = pq.read_table(path).to_pylist()
    # The second of its shard: of the first, the others would be those that say another attempt.
    index = next(number for number, row in enumerate(rows) if (row["plan"], row["shard"]) == (1, SHARD)) + 1
    rewrite_generation(destination, set_cell(column, index, value))
    assert codes(destination, 0.0) == {rows[index]["source"]: code}


@pytest.mark.parametrize(("column", "value"), [("plan", 2), ("shard", SHARD + 1), ("shard", 77)])
def test_a_compacted_row_of_another_shard_is_found(destination: Path, column: str, value: int) -> None:
    compact(open_store(str(destination), StorageConfig()))
    (path,) = destination.glob("manifest/gen-1/*.parquet")
    rows = pq.read_table(path).to_pylist()
    index = next(number for number, row in enumerate(rows) if (row["plan"], row["shard"]) == (1, SHARD))
    rewrite_generation(destination, set_cell(column, index, value))
    assert not verify(destination, 0.0).is_sound


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["worker"]),
        lambda table: table.set_column(
            table.schema.get_field_index("node"), "node", pa.nulls(table.num_rows, pa.string())
        ),
    ],
    ids=["missing", "null"],
)
def test_a_column_that_only_other_commands_read_is_looked_at(
    destination: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    rewrite(part(destination), change)
    assert codes(destination, 0.0)[part_key(1, SHARD)] == "part_damaged"
    with pytest.raises(ManifestError):
        compact(open_store(str(destination), StorageConfig()))


def test_two_rows_that_disagree_about_one_output_are_found(destination: Path) -> None:
    index, _ = first_ok(destination)
    rows = pq.read_table(part(destination)).to_pylist()
    other = next(row for number, row in enumerate(rows) if number != index and row["status"] == "ok")
    rewrite(part(destination), set_cell("output", index, other["output"]))
    assert "row_contradictory" in codes(destination).values()


def test_a_part_without_a_plan_and_a_plan_that_is_gone_are_found(destination: Path) -> None:
    data = part(destination, 2, 0).read_bytes()
    part(destination, 2, 7).write_bytes(data)
    assert codes(destination)[part_key(2, 7)] == "part_unplanned"
    (destination / "_hdrfleet/plan/1/plan.json").unlink()
    assert codes(destination)["_hdrfleet/plan/1/plan.json"] == "plan_missing"


def test_a_last_plan_that_is_gone_is_found_by_its_parts(destination: Path) -> None:
    (destination / "_hdrfleet/plan/2/plan.json").unlink()
    assert codes(destination)["_hdrfleet/plan/2/plan.json"] == "plan_missing"


@contextmanager
def failing(key: str, error: StorageError, method: str = "read") -> Iterator[None]:
    """Let every local store fail to read `key`."""
    read = getattr(LocalStore, method)

    def fail(self: LocalStore, name: str, *arguments: Any, **options: Any) -> bytes:
        if name == key:
            raise error
        data: bytes = read(self, name, *arguments, **options)
        return data

    with patch.object(LocalStore, method, fail):
        yield


UNREAD = [(ObjectDeniedError("403"), "output_denied"), (StorageError("no certificate"), "output_unreadable")]


@pytest.mark.parametrize(("error", "code"), UNREAD)
def test_an_output_that_cannot_be_read_is_a_finding_and_the_others_are_checked(
    destination: Path, error: StorageError, code: str
) -> None:
    key = some_output(destination)[1]
    with failing(key, error):
        report = verify(destination)
    assert [(finding.code, finding.key) for finding in report.findings] == [(code, key)]
    size_bytes = (destination / key).stat().st_size
    assert (report.num_decoded, report.num_bytes_read) == (11, verify(destination).num_bytes_read - size_bytes)


def test_what_was_not_read_is_not_counted_as_decoded(destination: Path) -> None:
    path, _ = some_output(destination)
    path.unlink()
    assert verify(destination).num_decoded == 11
    path.write_bytes(b"")
    assert verify(destination).num_decoded == 12, "read, though no decoder takes it"


def repair(destination: Path, *, delete_orphans: bool = False) -> RepairOutcome:
    store = open_store(str(destination), StorageConfig())
    record = read_job(store)
    assert record is not None
    config = record.config
    return run_repair(
        store, record, config, ConsoleReporter(quiet=True), share=1.0, delete_orphans=delete_orphans, quiet=True
    )


def contents(destination: Path) -> dict[str, bytes]:
    paths = (path for path in destination.rglob("*") if path.is_file() and "lease" not in path.parts)
    return {path.relative_to(destination).as_posix(): path.read_bytes() for path in paths}


def test_an_outage_ends_verification_and_repair_and_is_no_damage(destination: Path) -> None:
    before = contents(destination)
    with failing(some_output(destination)[1], TransientStorageError("503 SlowDown")):
        with pytest.raises(TransientStorageError, match="503"):
            verify(destination)
        with pytest.raises(TransientStorageError, match="503"):
            repair(destination)
    assert contents(destination) == before
    assert verify(destination).is_sound


@pytest.mark.parametrize(("error", "code"), UNREAD)
def test_a_refused_read_distrusts_and_replaces_nothing(destination: Path, error: StorageError, code: str) -> None:
    before = contents(destination)
    with failing(some_output(destination)[1], error):
        outcome = repair(destination, delete_orphans=True)
    assert outcome.after.num_by_code() == {code: 1}
    assert (outcome.run, outcome.num_replaced) == (None, 0)
    assert contents(destination) == before


@pytest.mark.parametrize("pattern", ["plan.json", "part-*.parquet"])
def test_a_damaged_plan_is_found(destination: Path, pattern: str) -> None:
    (damaged,) = (destination / "_hdrfleet/plan/2").glob(pattern)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert codes(destination)["_hdrfleet/plan/2"] == "plan_damaged"


def test_progress_counts_the_sample(destination: Path) -> None:
    store: ObjectStore = open_store(str(destination), StorageConfig())
    record, seen = read_job(store), []
    assert record is not None
    verify_destination(store, record, share=1.0, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 12) for number in range(1, 13)]
    with pytest.raises(ValueError, match="share"):
        verify_destination(store, record, share=1.1)


def test_every_code_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/operations.md").read_text(encoding="utf-8")
    assert [code for code in FINDING_CODES if f"\n| `{code}` |" not in text] == []


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5", 0.5), (" 100% ", 1.0), ("0", 0.0), ("0.5%", 0.005)])
def test_shares_are_read(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "many", "101%", "-1%", "1%%", "1", "5", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--sample"):
        parse_share(text)


def test_what_scaling_decisions_leave_is_known(destination: Path) -> None:
    event = ScalingEvent(at="2026-11-28T12:00:00+00:00", delta=2, num_workers=2, reason="start 2 beside 0")
    append_event(open_store(str(destination), StorageConfig()), event)
    assert codes(destination, 0.0) == {}


def test_a_plan_that_contradicts_its_parts_is_found(destination: Path) -> None:
    path = destination / "_hdrfleet/plan/2/plan.json"
    document = json.loads(path.read_text())
    for change in ({"num_shards": 9}, {"num_images": 77}, {"adopts_earlier": False}):
        path.write_text(json.dumps(document | change))
        assert codes(destination)["_hdrfleet/plan/2"] == "plan_damaged"


def test_a_bit_that_a_part_has_lost_is_found(destination: Path) -> None:
    """Also in what verification has nothing to compare with."""
    damaged = part(destination)
    data = bytearray(damaged.read_bytes())
    column = pq.ParquetFile(damaged).metadata.row_group(0).column(SCHEMA.get_field_index("clipped_fraction"))
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    damaged.write_bytes(data)
    assert codes(destination)[part_key(1, SHARD)] == "part_damaged"
