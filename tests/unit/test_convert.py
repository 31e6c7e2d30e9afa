"""The data path on in-memory stores, with an engine that is not a network."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from fakes import FakeEngine, HookedStore
from photographs import jpeg, picture, write_library
from PIL import Image

from pipeline.codecs.exr import decode_exr
from pipeline.config import ConversionConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import (
    CredentialsError,
    DeviceLostError,
    DiskFullError,
    InferenceError,
    InterruptedJobError,
    LeaseLostError,
    ObjectDeniedError,
    SourceLostError,
    TransientStorageError,
)
from pipeline.execution.splits import SplitShard
from pipeline.inference.base import Engine, Inference, LdrPixels
from pipeline.manifest import RUN_COLUMNS, completed_shards, open_manifest
from pipeline.records import ImageTask, Provenance, Quarantine, Shard
from pipeline.storage import ObjectInfo, ObjectStore, open_store

WEIGHTS = hashlib.sha256(b"weights").hexdigest()


def new_store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}", StorageConfig())


def put(store: ObjectStore, files: Mapping[str, bytes]) -> tuple[ImageTask, ...]:
    tasks = []
    for name, data in files.items():
        info = store.create(name, data)
        tasks.append(ImageTask(name, name, info.size_bytes, info.etag))
    return tuple(tasks)


class FaultyStore(HookedStore):
    """Passes everything on, but raises the given errors for keys that contain the given text."""

    def __init__(
        self,
        inner: ObjectStore,
        on_read: dict[str, Exception] | None = None,
        on_create: dict[str, Exception] | None = None,
    ) -> None:
        super().__init__(inner)
        self.on_read, self.on_create = on_read or {}, on_create or {}
        self.before = self._fail

    def _fail(self, operation: str, key: str) -> None:
        faults = {"read": self.on_read, "create": self.on_create}.get(operation, {})
        for text, error in faults.items():
            if text in key:
                raise error


@dataclass
class CountingEngine:
    """A FakeEngine that counts, checks that one thread at a time is in it, and fails on demand."""

    device: str = "cpu"
    precision: str = "fp32"
    num_calls: int = 0
    error: Exception | None = None
    _inside: threading.Lock = field(default_factory=threading.Lock)

    def infer(self, pixels: LdrPixels) -> Inference:
        assert self._inside.acquire(blocking=False), "two threads use the device"
        try:
            self.num_calls += 1
            if self.error:
                raise self.error
            return FakeEngine().infer(pixels)
        finally:
            self._inside.release()


_opened: list[ShardConverter] = []


def converter(
    source: ObjectStore,
    destination: ObjectStore,
    engine: Engine | None = None,
    source_is_there: Callable[[], bool] = lambda: True,
    ask_owner: Callable[[], None] = lambda: None,
    **parts: object,
) -> ShardConverter:
    config: ConversionConfig = build_config(source={"url": "s"}, destination={"url": "d"}, **parts)
    provenance = Provenance("0", "fake", WEIGHTS, config.pixel_digest(), "w", "n")
    subject = ShardConverter(
        source=source,
        destination=destination,
        engine=engine or FakeEngine(),
        config=config,
        provenance=provenance,
        source_is_there=source_is_there,
        ask_owner=ask_owner,
    )
    _opened.append(subject)
    return subject


@pytest.fixture(autouse=True)
def _converters_are_closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


@pytest.fixture
def source() -> ObjectStore:
    return new_store()


@pytest.fixture
def destination() -> ObjectStore:
    return new_store()


def rows(destination: ObjectStore) -> dict[str, dict[str, object]]:
    return {str(row["source"]): row for row in open_manifest(destination).current.to_pylist()}


def library(tmp_path: Path) -> tuple[dict[str, bytes], dict[str, str | None]]:
    expected = write_library(tmp_path)
    return {name: (tmp_path / name).read_bytes() for name in expected}, expected


def test_every_task_becomes_one_row(source: ObjectStore, destination: ObjectStore, tmp_path: Path) -> None:
    files, expected = library(tmp_path)
    engine = CountingEngine()
    result = converter(source, destination, engine).run(Shard(1, 0, put(source, files)))
    found = rows(destination)
    assert {name: row["error_code"] for name, row in found.items()} == expected
    assert (result.num_ok, result.num_failed) == (11, 3)
    assert engine.num_calls == 11
    assert completed_shards(destination, 1) == {0}
    for name, row in found.items():
        assert row["source_sha256"] == (hashlib.sha256(files[name]).hexdigest() if files[name] else None)
        if row["status"] == "ok":
            data = destination.read(str(row["output"]))
            assert row["output_sha256"] == hashlib.sha256(data).hexdigest()
            decoded = decode_exr(data)
            assert decoded.image.pixels.shape == (row["height"], row["width"], 3)
            assert (decoded.image.alpha is not None) == row["has_alpha"]


def test_pixels_are_the_networks_linear_output(source: ObjectStore, destination: ObjectStore) -> None:
    pixels = np.full((5, 7, 3), (51, 128, 254), np.uint8)
    from photographs import png

    converter(source, destination).run(Shard(1, 0, put(source, {"flat.png": png(pixels)})))
    stored = decode_exr(destination.read("images/flat.png.exr")).image.pixels
    np.testing.assert_allclose(stored, (pixels / 255.0) ** 2.24, rtol=1e-3)


class OverflowingEngine:
    """Three samples of which the decode of the gamma made infinities, and two that were before it: Inf, -Inf."""

    device, precision = "cpu", "fp32"

    def infer(self, pixels: LdrPixels) -> Inference:
        made = FakeEngine().infer(pixels)
        made.linear.reshape(-1)[:4] = np.inf
        made.linear.reshape(-1)[4:6] = 70_000, 0
        return Inference(made.linear, replace(made.info, num_inf=2), num_positive_inf=1)


def test_every_sample_that_was_clamped_is_counted(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16))})
    converter(source, destination, OverflowingEngine()).run(Shard(1, 0, tasks))
    row = rows(destination)["a.jpg"]
    assert (row["num_inf"], row["num_half_overflow"]) == (2, 3 + 1)
    decoded = decode_exr(destination.read("images/a.jpg.exr"))
    assert int((decoded.image.pixels == 65504).sum()) == 5
    assert decoded.provenance is not None
    assert decoded.provenance.num_half_overflow == 4


def test_exposure_and_lossy_compression_are_undone_or_measured(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(64, 64))})
    plain, bright, lossy = new_store(), new_store(), new_store()
    converter(source, plain).run(Shard(1, 0, tasks))
    converter(source, bright, encode={"exposure_ev": 2.0}).run(Shard(1, 0, tasks))
    converter(source, lossy, encode={"compression": "dwaa:45", "verify": "all"}).run(Shard(1, 0, tasks))
    one, other = (decode_exr(store.read("images/a.jpg.exr")).image.pixels for store in (plain, bright))
    np.testing.assert_allclose(other, one.astype(np.float32) * 4, rtol=2e-3)
    assert [rows(store)["a.jpg"]["exposure_ev"] for store in (plain, bright)] == [0.0, 2.0]
    assert rows(bright)["a.jpg"]["luminance_p50"] == pytest.approx(rows(plain)["a.jpg"]["luminance_p50"], rel=1e-2)
    row = rows(lossy)["a.jpg"]
    assert row["verified"]
    assert row["fidelity_psnr_db"] < rows(plain)["a.jpg"]["fidelity_psnr_db"]


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda store, key: store.delete(key), "source_missing"),
        (lambda store, key: store.replace(key, jpeg(picture(9, 9, 5))), "source_changed"),
    ],
)
def test_a_source_that_is_not_what_was_planned_costs_its_row(
    source: ObjectStore, destination: ObjectStore, break_it: object, code: str
) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16)), "b.jpg": jpeg(picture(16, 16, 1))})
    break_it(source, "a.jpg")  # type: ignore[operator]
    converter(source, destination).run(Shard(1, 0, tasks))
    assert {name: row["error_code"] for name, row in rows(destination).items()} == {"a.jpg": code, "b.jpg": None}


def test_a_source_that_is_gone_as_a_whole_stops_the_job(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16)), "b.jpg": jpeg(picture(16, 16, 1))})
    source.delete("a.jpg")
    subject = converter(source, destination, source_is_there=lambda: False)
    subject.run(Shard(1, 0, tasks))
    assert rows(destination)["a.jpg"]["error_code"] == "source_missing", "one image that is missing is a row"
    source.delete("b.jpg")
    with pytest.raises(SourceLostError, match="mounted"):
        subject.run(Shard(1, 1, tasks))
    assert completed_shards(destination, 1) == {0}


def test_a_source_that_refuses_to_be_listed_stops_the_job(source: ObjectStore, destination: ObjectStore) -> None:
    def refuse() -> bool:
        raise CredentialsError("the source may not be read any more")

    tasks = put(source, {"a.jpg": jpeg(picture(16, 16)), "b.jpg": jpeg(picture(16, 16, 1))})
    faulty = FaultyStore(source, on_read={"b.jpg": ObjectDeniedError("b.jpg: access denied")})
    with pytest.raises(CredentialsError, match="any more"):
        converter(faulty, destination, source_is_there=refuse).run(Shard(1, 0, tasks))
    assert completed_shards(destination, 1) == set(), "no row, although one image was stored"
    converter(source, destination, source_is_there=refuse).run(Shard(1, 0, tasks), 2, adopt=True)
    assert {name: row["adopted"] for name, row in rows(destination).items()} == {"a.jpg": True, "b.jpg": False}


def test_limits_and_denied_sources_cost_their_rows(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {"big.jpg": jpeg(picture(200, 200)), "wide.jpg": jpeg(picture(30, 30)), "no.jpg": b"x"})
    faulty = FaultyStore(source, on_read={"no.jpg": ObjectDeniedError("no.jpg: access denied")})
    limits = {"max_bytes": len(source.read("big.jpg")) - 1, "max_pixels": 899}
    converter(faulty, destination, decode=limits).run(Shard(1, 0, tasks))
    too_many = limits["max_bytes"]
    said = f"it has {too_many + 1} bytes, more than the limit of {too_many}"
    assert rows(destination)["big.jpg"]["error_message"] == said
    codes = {name: row["error_code"] for name, row in rows(destination).items()}
    assert codes == {"big.jpg": "too_large", "wide.jpg": "too_large", "no.jpg": "source_denied"}


def test_an_image_the_network_cannot_take_costs_its_row(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16))})
    engine = CountingEngine()
    engine.error = InferenceError("no tile is small enough")
    converter(source, destination, engine).run(Shard(1, 0, tasks))
    assert rows(destination)["a.jpg"]["error_code"] == "inference_failed"


@pytest.mark.parametrize(
    ("faults", "raised"),
    [
        ({"on_read": {"a.jpg": TransientStorageError("no answer")}}, TransientStorageError),
        ({"on_read": {"a.jpg": CredentialsError("expired")}}, CredentialsError),
        ({"on_create": {"images/": DiskFullError("no space left")}}, DiskFullError),
        ({"on_create": {"images/": ObjectDeniedError("denied")}}, CredentialsError),
        ({"on_create": {"manifest/": TransientStorageError("no answer")}}, TransientStorageError),
    ],
)
def test_a_broken_environment_is_never_a_row(
    source: ObjectStore, destination: ObjectStore, faults: dict[str, dict[str, Exception]], raised: type[Exception]
) -> None:
    shard = Shard(1, 0, put(source, {f"{name}.jpg": jpeg(picture(16, 16, seed)) for seed, name in enumerate("abc")}))
    broken = FaultyStore(source, on_read=dict(faults.get("on_read", {})))
    full = FaultyStore(destination, on_create=dict(faults.get("on_create", {})))
    subject = converter(broken, full)
    with pytest.raises(raised):
        subject.run(shard)
    assert completed_shards(destination, 1) == set()
    # The fault is gone: the same converter finishes the shard, and adopts what was stored before.
    broken.on_read.clear()
    full.on_create.clear()
    stored = {info.key for info in destination.list("images")}
    result = subject.run(shard, 2, adopt=True)
    assert result.num_ok == 3
    assert {row["output"] for row in rows(destination).values() if row["adopted"]} == stored


@pytest.mark.parametrize("fails_when", ["all are queued", "the first is"])
def test_a_store_that_fails_is_not_waited_for_once_per_image(
    source: ObjectStore, destination: ObjectStore, fails_when: str
) -> None:
    """The second output hangs until what is queued behind it has been dropped: a queue of them would take for ever."""
    num_images = 24
    tasks = put(source, {f"{index:02d}.jpg": jpeg(picture(16, 16, index)) for index in range(num_images)})
    may_fail, failed, dropped = threading.Event(), threading.Event(), threading.Event()
    futures: list[Future[Any]] = []
    creates: list[str] = []

    class Dying(FaultyStore):
        def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
            creates.append(key)
            assert (may_fail if len(creates) == 1 else dropped).wait(20), "nothing was dropped"
            raise TransientStorageError("no answer")

    class Waiting(CountingEngine):
        def infer(self, pixels: LdrPixels) -> Inference:
            if self.num_calls and fails_when == "the first is":
                may_fail.set()
                assert failed.wait(20)
            return super().infer(pixels)

    engine = Waiting()
    subject = converter(source, Dying(destination), engine, execution={"num_encode_threads": 1})
    submit = subject._encoders.submit

    def watched(*arguments: Any) -> Future[Any]:
        futures.append(submit(*arguments))
        futures[-1].add_done_callback(lambda done: (dropped if done.cancelled() else failed).set())
        if len(futures) == num_images:
            may_fail.set()
        return futures[-1]

    subject._encoders.submit = watched  # type: ignore[method-assign, assignment]
    with pytest.raises(TransientStorageError, match="no answer"):
        subject.run(Shard(1, 0, tasks))
    subject.close()
    assert len(creates) <= 2
    assert engine.num_calls <= 3 or fails_when == "all are queued"
    assert subject._output_budget.used_bytes == subject._decoded_budget.used_bytes == 0


def test_a_lost_device_ends_the_attempt(source: ObjectStore, destination: ObjectStore) -> None:
    engine = CountingEngine()
    engine.error = DeviceLostError("the card fell off the bus")
    with pytest.raises(DeviceLostError):
        converter(source, destination, engine).run(Shard(1, 0, put(source, {"a.jpg": jpeg(picture(16, 16))})))
    assert not list(destination.list("manifest"))


def test_a_second_attempt_adopts_and_gives_the_same_rows(
    source: ObjectStore, destination: ObjectStore, tmp_path: Path
) -> None:
    files, _ = library(tmp_path)
    shard = Shard(1, 0, put(source, files))
    converter(source, destination).run(shard)
    before = rows(destination)
    destination.delete("manifest/plan=1/shard-000000.parquet")
    engine = CountingEngine()
    converter(source, destination, engine).run(shard, 2, adopt=True)
    after = rows(destination)
    assert engine.num_calls == 0
    assert all(row["adopted"] for row in after.values() if row["status"] == "ok")
    for name, row in before.items():
        assert {k: v for k, v in row.items() if k not in RUN_COLUMNS} == {
            k: v for k, v in after[name].items() if k not in RUN_COLUMNS
        }


def located_jpeg() -> bytes:
    """A photograph whose EXIF says where it was taken."""
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (39.0, 18.0, 0.0), 3: "W", 4: (120.0, 20.0, 0.0)})
    stored = io.BytesIO()
    Image.fromarray(picture(16, 16)).save(stored, "JPEG", exif=exif)
    return stored.getvalue()


@pytest.mark.parametrize("adopt", [True, False], ids=["looks first", "does not"])
@pytest.mark.parametrize("keeps", [True, False], ids=["keeps", "leaves out"])
def test_an_output_with_a_position_is_not_adopted_without_leave_nor_one_without_where_it_is_asked_for(
    keeps: bool, adopt: bool, source: ObjectStore, destination: ObjectStore
) -> None:
    shard = Shard(1, 0, put(source, {"a.jpg": located_jpeg(), "b.jpg": jpeg(picture(16, 16))}))
    converter(source, destination, encode={"keep_gps": not keeps}).run(shard)
    destination.delete("manifest/plan=1/shard-000000.parquet")
    converter(source, destination, encode={"keep_gps": keeps}).run(shard, 2, adopt=adopt)
    found = rows(destination)
    assert found["a.jpg"]["output"] == "images/a.jpg.v2.exr"
    assert ("latitude" in decode_exr(destination.read("images/a.jpg.v2.exr")).header) is keeps
    assert found["b.jpg"]["output"] == "images/b.jpg.exr"  # nothing to keep or to leave out


def test_a_zombie_that_did_not_look_first_changes_nothing(source: ObjectStore, destination: ObjectStore) -> None:
    shard = Shard(1, 0, put(source, {"a.jpg": jpeg(picture(16, 16))}))
    converter(source, destination).run(shard)
    before = {info.key: destination.read(info.key) for info in destination.list()}
    result = converter(source, destination).run(shard)
    assert result.num_ok == 1
    assert sum(row["status"] == "ok" for row in rows(destination).values()) == 1
    assert {info.key: destination.read(info.key) for info in destination.list()} == before


def test_other_pixels_under_the_same_name_become_a_revision(source: ObjectStore, destination: ObjectStore) -> None:
    shard = Shard(1, 0, put(source, {"a.jpg": jpeg(picture(16, 16))}))
    destination.create("images/a.jpg.exr", b"something else that nobody wrote a row for")
    for attempt, adopt in ((1, False), (2, True)):
        converter(source, destination).run(Shard(attempt, 0, shard.tasks), attempt, adopt=adopt)
        row = rows(destination)["a.jpg"]
        assert (row["output"], row["revision"]) == ("images/a.jpg.v2.exr", 2)
    assert destination.read("images/a.jpg.exr").startswith(b"something")


def test_two_leases_share_one_device(
    source: ObjectStore, destination: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width, num_images = 600, 800, 6
    files = {f"{index:02d}.jpg": jpeg(picture(height, width, index)) for index in range(num_images)}
    tasks = put(source, files)
    engine = CountingEngine()
    # A queue smaller than one image: everything must still pass, one image at a time.
    subject = converter(source, destination, engine, execution={"queue_bytes": 2**20})
    sizes: list[int] = []
    for budget in (subject._decoded_budget, subject._output_budget):
        monkeypatch.setattr(budget, "acquire", partial(_noting, budget.acquire, sizes))
    half = num_images // 2
    threads = [
        threading.Thread(target=subject.run, args=(Shard(1, index, tasks[index * half : (index + 1) * half]),))
        for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert completed_shards(destination, 1) == {0, 1}
    assert engine.num_calls == num_images
    assert len(sizes) == 2 * num_images
    assert min(sizes) > 2**20, "what is queued is smaller than the queue"
    counts = subject.counts()
    assert (counts.num_images, counts.num_failed) == (num_images, 0)
    assert counts.megapixels == pytest.approx(num_images * height * width / 1e6)
    subject.close()


def _noting(acquire: Callable[[int], int], sizes: list[int], num_bytes: int) -> int:
    sizes.append(num_bytes)
    return acquire(num_bytes)


def test_fetching_inference_and_storing_overlap(source: ObjectStore, destination: ObjectStore) -> None:
    """The first inference waits for the second image's bytes, the first output for the second image's inference."""
    tasks = put(source, {f"{index}.jpg": jpeg(picture(16, 16, index)) for index in range(3)})
    fetched, inferring = threading.Event(), threading.Event()
    stages, sources = HookedStore(destination), HookedStore(source)

    class Waiting(CountingEngine):
        def infer(self, pixels: LdrPixels) -> Inference:
            if self.num_calls == 0:
                assert fetched.wait(20), "nothing is fetched during inference"
            else:
                inferring.set()
            return super().infer(pixels)

    def watch_source(operation: str, key: str) -> None:
        if (operation, key) == ("read", "1.jpg"):
            fetched.set()

    def watch_destination(operation: str, key: str) -> None:
        if operation == "create" and key.startswith("images/0.jpg"):
            assert inferring.wait(20), "nothing is computed while an output is stored"

    sources.before, stages.before = watch_source, watch_destination
    subject = converter(sources, stages, Waiting())
    assert subject.run(Shard(1, 0, tasks)).num_ok == 3
    subject.close()


def test_a_converter_that_is_stopped_midway_stops_soon(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {f"{index}.jpg": jpeg(picture(16, 16, index)) for index in range(20)})

    class StoppingEngine(CountingEngine):
        def infer(self, pixels: LdrPixels) -> Inference:
            subject.stop()
            return super().infer(pixels)

    engine = StoppingEngine()
    subject = converter(source, destination, engine)
    with pytest.raises(InterruptedJobError):
        subject.run(Shard(1, 0, tasks))
    assert engine.num_calls == 1
    assert subject._decoded_budget.used_bytes == subject._output_budget.used_bytes == 0
    assert not list(destination.list("manifest"))


def test_a_stopped_converter_commits_nothing_more(source: ObjectStore, destination: ObjectStore) -> None:
    subject = converter(source, destination)
    subject.stop()
    with pytest.raises(InterruptedJobError):
        subject.run(Shard(1, 0, put(source, {"a.jpg": jpeg(picture(16, 16))})))
    assert not list(destination.list())


def test_an_image_in_quarantine_gets_its_row_and_is_not_touched(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16)), "b.jpg": jpeg(picture(16, 16, seed=1))})
    guarded = FaultyStore(source, on_read={"b.jpg": AssertionError("the image in quarantine was read")})
    shard = Shard(1, 0, tasks, quarantined=(Quarantine("b.jpg", "worker_hang", "seen twice"),))
    made = converter(guarded, destination)
    result = made.run(shard)
    assert (result.num_ok, result.num_failed, result.committed) == (1, 1, True)
    row = rows(destination)["b.jpg"]
    assert (row["status"], row["error_code"], row["output"]) == ("quarantined", "worker_hang", None)
    assert "seen twice" in str(row["error_message"])
    assert dict(made.counts().failed_by_code) == {"worker_hang": 1}


def test_a_probe_stores_its_outputs_and_the_shard_that_follows_adopts_them(
    source: ObjectStore, destination: ObjectStore
) -> None:
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16)), "b.jpg": jpeg(picture(16, 16, seed=1))})
    engine = CountingEngine()
    made = converter(source, destination, engine)
    result = made.run(Shard(1, 0, tasks[:1], is_probe=True), attempt=3, adopt=True)
    assert (result.is_probe, result.committed, result.num_ok) == (True, False, 1)
    assert completed_shards(destination, 1) == set()
    assert [info.key for info in destination.list("images")] == ["images/a.jpg.exr"]
    made.run(Shard(1, 0, tasks), attempt=4, adopt=True)
    assert engine.num_calls == 2
    assert [row["adopted"] for row in rows(destination).values()] == [True, False]


class Owner:
    """Is asked whether it still is, and says no after so many times."""

    def __init__(self, num_yes: int) -> None:
        self.num_yes, self.num_asked = num_yes, 0

    def __call__(self) -> None:
        self.num_asked += 1
        if self.num_asked > self.num_yes:
            raise LeaseLostError("another driver has taken over")


def test_a_worker_that_may_not_commit_any_more_leaves_no_part(source: ObjectStore, destination: ObjectStore) -> None:
    made = converter(source, destination, ask_owner=Owner(1))
    with pytest.raises(LeaseLostError):
        made.run(Shard(1, 0, put(source, {"a.jpg": jpeg(picture(16, 16))})))
    assert completed_shards(destination, 1) == set()


def test_a_worker_that_slept_through_a_takeover_stores_nothing(source: ObjectStore, destination: ObjectStore) -> None:
    made = converter(source, destination, ask_owner=Owner(0))
    with pytest.raises(LeaseLostError):
        made.run(Shard(1, 0, put(source, {"a.jpg": jpeg(picture(16, 16))})))
    assert list(destination.list("images")) == []


def test_beside_what_another_driver_made_nothing_is_stored(source: ObjectStore, destination: ObjectStore) -> None:
    """The answer of a moment ago was that we own it; an output of other bytes is a reason to ask again."""
    tasks = put(source, {"a.jpg": jpeg(picture(16, 16))})
    other = new_store()
    converter(other, destination).run(Shard(1, 1, put(other, {"a.jpg": jpeg(picture(16, 16, seed=9))})))
    (there,) = destination.list("images")
    made = converter(source, destination, ask_owner=Owner(1))
    with pytest.raises(LeaseLostError):
        made.run(Shard(1, 0, tasks))
    assert list(destination.list("images")) == [there]
    owner = Owner(99)
    assert converter(source, destination, ask_owner=owner).run(Shard(1, 0, tasks)).num_ok == 1
    assert {info.key for info in destination.list("images")} == {"images/a.jpg.exr", "images/a.jpg.v2.exr"}
    assert owner.num_asked == 3, "ahead of the output, at the one that was there, ahead of the part"


@dataclass
class CedingEngine(CountingEngine):
    """Once it is at an image, and all others wait for it, its converter is asked to cede some."""

    subject: ShardConverter | None = None
    ceded: list[tuple[ImageTask, ...]] = field(default_factory=list)

    def infer(self, pixels: LdrPixels) -> Inference:
        if self.subject and not self.ceded:
            self.ceded += self.subject.cede((1, 0, 0), 3)
        return super().infer(pixels)


def test_images_that_were_ceded_are_done_by_others_and_one_commits_the_rows_of_all(
    source: ObjectStore, destination: ObjectStore
) -> None:
    tasks = put(source, {f"{index}.jpg": jpeg(picture(16, 16, seed=index)) for index in range(9)})
    engine = CedingEngine()
    holder = engine.subject = converter(source, destination, engine)
    kept = holder.run(Shard(1, 0, tasks))
    assert [len(part) for part in engine.ceded] == [3, 3]
    assert kept.rows is not None
    assert (engine.num_calls, len(kept.rows), kept.committed) == (3, 3, False)
    assert completed_shards(destination, 1) == set()
    assert holder._decoded_budget.used_bytes == holder._output_budget.used_bytes == 0
    assert holder.open_work() == ()

    helper = converter(source, destination, CountingEngine())
    helper._provenance = replace(helper._provenance, worker="helper")
    known = [*kept.rows]
    for number, part in enumerate(engine.ceded, 2):
        result = helper.run(Shard(1, 0, part, part=number))
        assert (result.committed, result.num_ok) == (False, 3)
        known += result.rows or ()
    last = CountingEngine()
    done = converter(source, destination, last).run(Shard(1, 0, tasks), known=known)
    assert (done.committed, done.num_ok, done.rows, last.num_calls) == (True, 9, None, 0)
    found = rows(destination)
    assert list(found) == [task.source for task in tasks]
    mine = {row.task.source for row in kept.rows}
    assert {name: row["worker"] for name, row in found.items()} == {
        task.source: "w" if task.source in mine else "helper" for task in tasks
    }
    assert not any(row["adopted"] for row in found.values())


def test_a_split_shard_with_an_image_in_quarantine_is_committed_with_one_row_of_it(
    source: ObjectStore, destination: ObjectStore
) -> None:
    tasks = put(source, {f"{index}.jpg": jpeg(picture(16, 16, seed=index)) for index in range(9)})
    shard = Shard(1, 0, tasks, quarantined=(Quarantine("4.jpg", "worker_crash", "seen twice"),))
    engine = CedingEngine()
    engine.subject = converter(source, destination, engine)
    split = SplitShard(shard)
    kept = engine.subject.run(shard)
    assert kept.rows is not None
    _, parts = split.cut(shard, engine.ceded)
    split.add(kept.rows, 1)
    for part in parts:
        split.add(converter(source, destination).run(part).rows or (), 1)
    whole = split.whole()
    assert whole is not None
    done = converter(source, destination).run(whole[0], known=whole[1])
    assert (done.committed, done.num_ok, done.num_failed) == (True, 8, 1)
    assert {name for name, row in rows(destination).items() if row["status"] == "quarantined"} == {"4.jpg"}


def test_a_probe_cedes_nothing(source: ObjectStore, destination: ObjectStore) -> None:
    tasks = put(source, {f"{index}.jpg": jpeg(picture(16, 16, seed=index)) for index in range(4)})
    engine = CedingEngine()
    engine.subject = converter(source, destination, engine)
    assert engine.subject.run(Shard(1, 0, tasks, is_probe=True)).num_ok == 4
    assert engine.ceded == []
