"""What a destination records, and what follows from it for the next driver."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from photographs import jpeg, picture

from pipeline.config import ConversionConfig, SourceConfig, StorageConfig, build_config
from pipeline.driver_lease import acquire_lease
from pipeline.errors import DestinationError, ManifestError, ObjectExistsError, ObjectMissingError, SourceError
from pipeline.job import JOB_KEY, Job, confirm_job, open_job, read_job
from pipeline.manifest import commit_part, part_key
from pipeline.records import ConversionStatus, ImageResult, Provenance
from pipeline.sharding import open_source
from pipeline.storage import ObjectInfo, ObjectStore, open_store
from pipeline.storage.memory import MemoryStore
from pipeline.store_verdict import STORE_PREFIX, StoreVerdict, keep_verdict


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}", StorageConfig())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abcde":
        (folder / f"{name}.jpg").write_bytes(jpeg(picture(8, 8)))
    return folder


def config_for(photos: Path, **parts: object) -> ConversionConfig:
    return build_config(
        source={"url": str(photos)}, destination={"url": "memory://d"}, sharding={"max_images": 2}, **parts
    )


def opened(store: ObjectStore, photos: Path, *, weights: str = "w" * 64, root: str = "r", **parts: object) -> Job:
    return open_job(
        store, config_for(photos, **parts), source_root=root, weights_name="identity", weights_sha256=weights
    )


def names(job: Job) -> list[list[list[str]]]:
    return [[[task.source for task in shard.tasks] for shard in job.shards(work)] for work in job.pending()]


def test_a_job_is_created_once_and_joined_afterwards(store: ObjectStore, photos: Path) -> None:
    first = opened(store, photos)
    second = opened(store, photos)
    assert first.record.job_id == second.record.job_id


def test_a_job_that_is_joined_uses_todays_options_where_they_change_no_pixel(store: ObjectStore, photos: Path) -> None:
    opened(store, photos)
    assert opened(store, photos, encode={"compression": "piz"}).record.config.encode.compression == "piz"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encode": {"pixel_type": "float"}}, "pixel_type is 'half' there and 'float' here"),
        ({"weights": "v" * 64}, "weights are identity (wwwwwwwwwwww) there and identity (vvvvvvvvvvvv) here"),
        ({"root": "elsewhere"}, "the source root is r there and elsewhere here"),
    ],
)
def test_another_job_is_refused_by_the_name_of_what_differs(
    store: ObjectStore, photos: Path, change: dict[str, object], says: str
) -> None:
    opened(store, photos)
    with pytest.raises(DestinationError) as caught:
        opened(store, photos, **change)
    assert says in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"not json"])
def test_a_damaged_record_is_an_error_not_a_new_job(store: ObjectStore, photos: Path, content: bytes) -> None:
    store.create(JOB_KEY, content)
    with pytest.raises(ManifestError, match="is not a job record"):
        opened(store, photos)


def test_a_record_of_a_newer_version_asks_for_an_upgrade(store: ObjectStore, photos: Path) -> None:
    opened(store, photos)
    raw = {**json.loads(store.read(JOB_KEY)), "schema_version": 99, "something": "new"}
    store.replace(JOB_KEY, json.dumps(raw).encode())
    with pytest.raises(ManifestError, match="upgrade"):
        read_job(store)


def test_a_record_of_before_workers_could_fall_back_is_read(store: ObjectStore, photos: Path) -> None:
    opened(store, photos)
    raw = json.loads(store.read(JOB_KEY))
    del raw["config"]["execution"]["placement"]["fallback_labels"]
    store.replace(JOB_KEY, json.dumps(raw).encode())
    assert opened(store, photos).record.config.execution.placement.fallback_labels == {}


def test_a_destination_of_a_release_with_other_pixels_is_refused_and_says_so(
    store: ObjectStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(store, photos)
    monkeypatch.setattr("pipeline.config.PIXEL_PIPELINE_VERSION", 1_000)
    with pytest.raises(DestinationError, match="made by another release of hdrfleet") as caught:
        opened(store, photos)
    assert "same options" not in str(caught.value)


def test_work_is_what_is_planned_and_not_committed(store: ObjectStore, photos: Path) -> None:
    job = opened(store, photos)
    assert job.pending() == []
    work = job.extend(open_source(job.record.config.source))
    assert work is not None
    assert (work.num_shards, work.resuming) == (3, False)
    assert names(job) == [[["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"], ["e.jpg"]]]
    store.create(part_key(1, 1), b"committed")
    (rest,) = job.pending()
    assert (rest.num_shards, rest.resuming) == (2, True)
    assert names(job) == [[["a.jpg", "b.jpg"], ["e.jpg"]]]


def test_the_next_plan_holds_only_what_is_new_or_changed(store: ObjectStore, photos: Path) -> None:
    job = opened(store, photos)
    source = open_source(job.record.config.source)
    job.extend(source)
    assert job.extend(source) is None
    (photos / "b.jpg").write_bytes(jpeg(picture(9, 9)))
    (photos / "f.jpg").write_bytes(jpeg(picture(8, 8)))
    work = job.extend(source)
    assert work is not None
    assert [(task.source, task.revision) for shard in job.shards(work) for task in shard.tasks] == [
        ("b.jpg", 2),
        ("f.jpg", 1),
    ]
    assert [pending.plan.plan for pending in job.pending()] == [1, 2]


def vanished(job: Job, **source: object) -> tuple[int, list[str]]:
    listing = open_source(job.record.config.source.model_copy(update=source))
    job.extend(listing)
    return listing.counts.num_vanished, listing.counts.vanished_examples


def test_what_is_no_longer_listed_is_counted_where_the_listing_would_have_it(store: ObjectStore, photos: Path) -> None:
    (photos / "sub").mkdir()
    (photos / "sub/g.jpg").write_bytes(jpeg(picture(8, 8)))
    (photos / "scan").write_bytes(jpeg(picture(8, 8)))  # no image by its name: only a list takes it
    (photos / "wanted.txt").write_text("a.jpg\nscan\n/elsewhere/x.jpg\n")
    job = opened(store, photos)
    assert vanished(job) == (0, [])
    assert vanished(job, url=str(photos / "wanted.txt")) == (0, []), "what a list does not name may still be there"
    for name in ("a.jpg", "b.jpg", "sub/g.jpg"):
        (photos / name).unlink()
    assert vanished(job) == (3, ["a.jpg", "b.jpg", "sub/g.jpg"])
    assert vanished(job, exclude=("b*",)) == (2, ["a.jpg", "sub/g.jpg"])
    assert vanished(job, include=("c.jpg", "sub/*")) == (1, ["sub/g.jpg"])
    assert vanished(job, url=str(photos / "*.jpg")) == (2, ["a.jpg", "b.jpg"])
    assert vanished(job, limit=2) == (0, [])
    assert vanished(job, limit=100) == (0, [])
    assert vanished(job, url=str(photos / "c.jpg")) == (0, [])
    (photos / "a.jpg").write_bytes(jpeg(picture(8, 8)))
    assert vanished(job) == (2, ["b.jpg", "sub/g.jpg"])


def test_failures_that_lie_outside_the_file_are_planned_again(store: ObjectStore, photos: Path) -> None:
    for name in ("e.jpg", "f.jpg", "g.jpg"):
        (photos / name).write_bytes(name.encode())
    job = opened(store, photos)
    source = open_source(job.record.config.source)
    work = job.extend(source)
    assert work is not None
    codes = {"a.jpg": "source_missing", "b.jpg": "decode_corrupt", "c.jpg": "source_denied", "d.jpg": "too_large"}
    codes |= {"e.jpg": "source_unreadable", "f.jpg": "output_refused"}
    now = datetime.now(UTC)
    provenance = Provenance("0", "identity", "w" * 64, "p", "w", "n")
    for shard in job.shards(work):
        results = [
            ImageResult(task, ConversionStatus.FAILED, now, now, codes.get(task.source, "empty"), "why")
            for task in shard.tasks
        ]
        commit_part(store, results, shard, 1, provenance)
    again = job.extend(source)
    assert again is not None
    tasks = [task for shard in job.shards(again) for task in shard.tasks]
    assert [(task.source, task.revision) for task in tasks] == [
        (name, 1) for name in ("a.jpg", "c.jpg", "e.jpg", "f.jpg")
    ]
    for name in ("a.jpg", "c.jpg", "e.jpg", "f.jpg"):
        (photos / name).unlink()
    # Plan 2 is not committed; once it is, nothing that is still listed is left to retry.
    for shard in job.shards(again):
        results = [
            ImageResult(task, ConversionStatus.FAILED, now, now, "source_missing", "why") for task in shard.tasks
        ]
        commit_part(store, results, shard, 1, provenance)
    assert job.extend(source) is None


def test_a_listed_file_that_stays_missing_makes_no_further_plan(store: ObjectStore, photos: Path) -> None:
    (photos / "wanted.txt").write_text("a.jpg\nnever-there.jpg\n")
    job = opened(store, photos)
    source = open_source(SourceConfig(url=str(photos / "wanted.txt")))
    work = job.extend(source)
    assert work is not None
    now = datetime.now(UTC)
    for shard in job.shards(work):
        results = [
            ImageResult(task, ConversionStatus.FAILED, now, now, "source_missing", "why") for task in shard.tasks
        ]
        commit_part(store, results, shard, 1, Provenance("0", "identity", "w" * 64, "p", "w", "n"))
    again = job.extend(source)
    assert again is not None
    assert [task.source for shard in job.shards(again) for task in shard.tasks] == ["a.jpg"]
    (photos / "a.jpg").unlink()
    for shard in job.shards(again):
        results = [
            ImageResult(task, ConversionStatus.FAILED, now, now, "source_missing", "why") for task in shard.tasks
        ]
        commit_part(store, results, shard, 1, Provenance("0", "identity", "w" * 64, "p", "w", "n"))
    assert job.extend(source) is None


def test_a_listed_file_that_was_converted_and_is_missing_keeps_its_row(store: ObjectStore, photos: Path) -> None:
    """Its server may be down: a failed row after the good one would say that there is no output."""
    (photos / "wanted.txt").write_text("a.jpg\nb.jpg\n")
    job = opened(store, photos)
    source = open_source(SourceConfig(url=str(photos / "wanted.txt")))
    work = job.extend(source)
    assert work is not None
    now = datetime.now(UTC)
    for shard in job.shards(work):
        results = [ImageResult(task, ConversionStatus.FAILED, now, now, "empty", "why") for task in shard.tasks]
        commit_part(store, results, shard, 1, Provenance("0", "identity", "w" * 64, "p", "w", "n"))
    content = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").unlink()
    assert job.extend(source) is None
    (photos / "a.jpg").write_bytes(content + b" ")
    again = job.extend(source)
    assert again is not None
    assert [(task.source, task.revision) for shard in job.shards(again) for task in shard.tasks] == [("a.jpg", 2)]


def test_the_record_holds_no_query_string(store: ObjectStore) -> None:
    config = build_config(
        source={"url": "https://host/list.txt?token=SECRET"},
        destination={"url": "memory://d"},
        model={"weights": "https://host/w.pth?sig=SECRET"},
    )
    job = open_job(store, config, source_root="r", weights_name="w", weights_sha256="w" * 64)
    assert b"SECRET" not in store.read(JOB_KEY)
    assert job.record.config.source.url.endswith("SECRET"), "the running job still needs it"


def test_an_empty_source_is_no_plan(store: ObjectStore, photos: Path) -> None:
    job = opened(store, photos)
    for path in photos.iterdir():
        path.unlink()
    with pytest.raises(SourceError):
        job.extend(open_source(job.record.config.source))
    assert not list(store.list("_hdrfleet/plan"))


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("s3://b/photo_?.jpg", "s3://b/photo_?.jpg"),
        ("s3://b/list.csv?X-Amz-Signature=secret", "s3://b/list.csv"),
        ("https://h/list.csv?id=7&token=secret", "https://h/list.csv?id=7"),
        ("/data/scans.csv/", "/data/scans.csv/"),
        ("photos/*.jpg", "{cwd}/photos/*.jpg"),
    ],
)
def test_the_recorded_source_is_what_another_folder_would_name(
    store: ObjectStore, photos: Path, url: str, recorded: str
) -> None:
    config = build_config(source={"url": url}, destination={"url": "memory://d"}, model={"weights": "runs/best"})
    open_job(store, config, source_root="r", weights_name="w", weights_sha256="w" * 64)
    job = read_job(store)
    assert job is not None
    assert job.config.source.url == recorded.format(cwd=Path.cwd())
    assert job.config.model.weights == str(Path.cwd() / "runs/best")


def test_built_in_weights_are_recorded_by_name(store: ObjectStore, photos: Path) -> None:
    opened(store, photos, model={"weights": "identity"})
    job = read_job(store)
    assert job is not None
    assert job.config.model.weights == "identity"


def test_a_part_that_the_plan_lacks_finishes_no_shard(store: ObjectStore, photos: Path) -> None:
    job = opened(store, photos)
    job.extend(open_source(job.record.config.source))
    for shard in (0, 1, 7):
        store.create(part_key(1, shard), b"committed")
    (rest,) = job.pending()
    assert rest.done == {0, 1}
    assert names(job) == [[["e.jpg"]]]


class CreatesLate(MemoryStore):
    """As Swift does it: the condition is looked at first, and what is created is written later. The first two wait."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.slow = ""  # the thread that writes last
        self._looked = threading.Barrier(2)
        self._written = threading.Event()

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        if key != JOB_KEY:
            return super().create(key, data, metadata=metadata)
        with contextlib.suppress(ObjectMissingError):
            self.stat(key)
            raise ObjectExistsError(key)
        self._looked.wait(30)
        is_slow = threading.current_thread().name == self.slow
        if is_slow:
            self._written.wait(30)
        info = self.replace(key, data)
        self._written.set()
        return info


WEAK = StoreVerdict(place=None, weakness="several creators won", has_conditional_create=True)


@pytest.mark.parametrize("other", ["float", "half"])
def test_on_a_weak_store_the_job_is_the_one_that_is_there_once_it_is_owned(photos: Path, other: str) -> None:
    """Two drivers create job.json at once; the lease is won by the one whose job was written over."""
    store = CreatesLate(f"memory://{uuid4().hex}")
    store.slow = "loser"
    opened_by: dict[str, Job] = {}

    def create(name: str, pixel_type: str) -> None:
        config = config_for(photos, encode={"pixel_type": pixel_type})
        opened_by[name] = open_job(
            store, config, source_root="r", weights_name="identity", weights_sha256="w" * 64, verdict=WEAK
        )

    drivers = [
        threading.Thread(target=create, args=pair, name=pair[0]) for pair in (("winner", "half"), ("loser", other))
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    there = read_job(store)
    assert there is not None
    assert there.job_id == opened_by["loser"].record.job_id != opened_by["winner"].record.job_id
    with acquire_lease(store, timeout_s=60, is_weak=True, sleep=lambda _: None):
        if other == "half":
            assert confirm_job(opened_by["winner"]).record.job_id == there.job_id
        else:
            with pytest.raises(DestinationError, match="pixel_type is 'float' there and 'half' here"):
                confirm_job(opened_by["winner"])
    assert confirm_job(opened_by["loser"]).record.job_id == there.job_id


def test_a_job_that_vanished_is_not_gone_on_with(store: ObjectStore, photos: Path) -> None:
    job = opened(store, photos)
    store.delete(JOB_KEY)
    with pytest.raises(ManifestError, match="vanished"):
        confirm_job(job)


def with_rows(store: ObjectStore, photos: Path) -> Job:
    """A job of which one shard is committed."""
    job = opened(store, photos)
    work = job.extend(open_source(SourceConfig(url=str(photos))))
    assert work is not None
    now = datetime.now(UTC)
    shard = next(iter(job.shards(work)))
    results = [ImageResult(task, ConversionStatus.FAILED, now, now, "empty", "why") for task in shard.tasks]
    commit_part(store, results, shard, 1, Provenance("0", "identity", "w" * 64, "p", "w", "n"))
    return job


@pytest.mark.parametrize("left", ["plans", "rows"])
def test_what_is_left_of_a_job_without_its_record_is_not_taken_for_another(
    left: str, store: ObjectStore, photos: Path
) -> None:
    with_rows(store, photos)
    store.delete(JOB_KEY)
    if left == "rows":
        for info in list(store.list("_hdrfleet/plan")):
            store.delete(info.key)
    before = {info.key for info in store.list()}
    with pytest.raises(DestinationError, match=rf"holds {left} of a job, but not its _hdrfleet/job\.json"):
        opened(store, photos)
    assert {info.key for info in store.list()} == before


def test_rows_of_a_plan_that_is_gone_stop_the_job(store: ObjectStore, photos: Path) -> None:
    job = with_rows(store, photos)
    store.delete("_hdrfleet/plan/1/plan.json")
    with pytest.raises(DestinationError, match=r"holds rows of plan 1, but not _hdrfleet/plan/1/plan\.json"):
        job.pending()


def test_a_verdict_that_is_kept_makes_a_job_weak_and_none_makes_it_strong(store: ObjectStore, photos: Path) -> None:
    opened(store, photos)
    keep_verdict(store, WEAK.model_copy(update={"place": "s3://elsewhere"}))
    keep_verdict(store, StoreVerdict(place="s3://third", weakness=None, has_conditional_create=True))
    keep_verdict(store, StoreVerdict(place="s3://third", weakness=None, has_conditional_create=True))
    record = read_job(store)
    assert record is not None
    assert (record.store_weakness, record.has_conditional_create) == ("several creators won", True)
    assert opened(store, photos).record.store_weakness == "several creators won"
    assert len(list(store.list(STORE_PREFIX))) == 2


def test_a_verdict_that_cannot_be_read_is_an_error(store: ObjectStore, photos: Path) -> None:
    opened(store, photos)
    store.create(f"{STORE_PREFIX}/{'0' * 64}.json", b"{}")
    with pytest.raises(ManifestError, match="no verdict on a store"):
        read_job(store)
