"""Each store operation through a proxy that breaks requests: how often it is tried, and what it leaves behind."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
from commands import wait_until
from servers.fault_proxy import Fault, FaultProxy

from pipeline.config import StorageConfig
from pipeline.errors import (
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage import ObjectStore, open_store
from pipeline.storage.probe import probe_store

MAX_ATTEMPTS = 3
# Long enough for a busy machine; only what is never answered, or late on purpose, is waited for less long.
PATIENT = StorageConfig(connect_timeout_s=10, read_timeout_s=30, max_attempts=MAX_ATTEMPTS, max_retry_s=600)
IMPATIENT = PATIENT.model_copy(update={"read_timeout_s": 0.3})
LATE_S = 0.6

# S3 refuses smaller parts, but for the last.
PART_BYTES = 5 * 2**20
MULTIPART_BYTES = 2 * PART_BYTES + 12_345

BUSY = Fault("answer", status=503, code="SlowDown")


@dataclass(frozen=True)
class Faulty:
    """A bucket, the proxy before it, and hdrfleet's store on that way. `bucket.client` goes past the proxy."""

    bucket: Any
    proxy: FaultProxy
    store: ObjectStore

    def put(self, key: str, data: bytes) -> None:
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=f"p/{key}", Body=data)

    def stored(self) -> dict[str, bytes]:
        """Key and content of every object, as the server has them."""
        client, name = self.bucket.client, self.bucket.name
        listed = client.list_objects_v2(Bucket=name).get("Contents", ())
        return {item["Key"]: client.get_object(Bucket=name, Key=item["Key"])["Body"].read() for item in listed}

    def pending_uploads(self) -> list[str]:
        return [
            upload["Key"]
            for upload in self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name).get("Uploads", ())
        ]


@pytest.fixture
def faulty(request: pytest.FixtureRequest, s3_bucket_on: Callable[[Any], Any]) -> Iterator[Faulty]:
    """On moto, or on the server that a parameter names."""
    server = request.getfixturevalue(f"{getattr(request, 'param', 'moto')}_server")
    bucket = s3_bucket_on(server)
    with FaultProxy(server.endpoint_url) as proxy:
        store = open_store(f"{bucket.url}/p", PATIENT.model_copy(update={"endpoint_url": proxy.url}))
        yield Faulty(bucket, proxy, store)


def impatient(faulty: Faulty) -> ObjectStore:
    return open_store(f"{faulty.bucket.url}/p", IMPATIENT.model_copy(update={"endpoint_url": faulty.proxy.url}))


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff itself is the subject of tests/unit/storage/test_retry.py."""
    monkeypatch.setattr("pipeline.storage.retry._jittered_s", lambda _: 0.001)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 10 MiB in parts already, of the least size that S3 takes."""
    monkeypatch.setattr("pipeline.storage.s3.MULTIPART_THRESHOLD_BYTES", PART_BYTES)
    monkeypatch.setattr("pipeline.storage.s3_upload._PART_BYTES", PART_BYTES)


on_servers = pytest.mark.parametrize("faulty", ["moto", pytest.param("swift", marks=pytest.mark.long)], indirect=True)

OPERATIONS: dict[str, Callable[[ObjectStore], object]] = {
    "GetObject": lambda store: store.read("there"),
    "HeadObject": lambda store: store.stat("there"),
    "PutObject": lambda store: store.create("new", b"x" * 1000),
    "ListObjectsV2": lambda store: list(store.list()),
    "DeleteObject": lambda store: store.delete("there"),
}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset"),
        Fault("reset_in_request"),
        Fault("lost_answer"),
        Fault("lost_answer", status=500),
        Fault("black_hole"),
        Fault("pass", delay_s=LATE_S),
        BUSY,
        Fault("answer", status=500, code="InternalError"),
        Fault("answer", status=502),
        Fault("answer", status=520),
        Fault("answer", status=429),
        Fault("answer", status=409, code="OperationAborted"),
        Fault("answer", status=409),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status or fault.delay_s}-{fault.code}",
)
@pytest.mark.usefixtures("short_waits")
def test_a_fault_that_may_pass_is_tried_exactly_as_often_as_configured(faulty: Faulty, fault: Fault) -> None:
    """One level only: each request that the network sees is one of ours, also where a client below would try again."""
    store = impatient(faulty) if fault.kind == "black_hole" or fault.delay_s else faulty.store
    faulty.put("there", b"y" * 1000)
    for operation, call in OPERATIONS.items():
        faulty.proxy.use(fault)
        with pytest.raises(TransientStorageError, match=rf"gave up after {MAX_ATTEMPTS} attempts in \d+ s$"):
            call(store)
        assert [seen.request.operation for seen in faulty.proxy.seen] == [operation] * MAX_ATTEMPTS


@pytest.mark.parametrize("kind", ["truncate", "reset_in_answer"])
@pytest.mark.parametrize("operation", ["GetObject", "ListObjectsV2"])
@pytest.mark.usefixtures("short_waits")
def test_half_an_answer_is_none(faulty: Faulty, kind: Any, operation: str) -> None:
    faulty.put("there", b"y" * 100_000)
    faulty.proxy.use(Fault(kind))
    with pytest.raises(TransientStorageError, match=f"gave up after {MAX_ATTEMPTS} attempts"):
        OPERATIONS[operation](faulty.store)
    assert faulty.proxy.count() == faulty.proxy.count(operation, kind) == MAX_ATTEMPTS
    faulty.proxy.use(Fault(kind, count=MAX_ATTEMPTS - 1))
    answer = OPERATIONS[operation](faulty.store)
    assert answer == b"y" * 100_000 or [info.key for info in answer] == ["there"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", ObjectDeniedError),
        (404, "NoSuchKey", ObjectMissingError),
        (412, "PreconditionFailed", ObjectExistsError),
        (400, "InvalidRequest", StorageError),
    ],
)
def test_a_fault_that_stays_is_not_tried_again(
    faulty: Faulty, status: int, code: str, expected: type[Exception]
) -> None:
    for operation in ("GetObject", "PutObject", "ListObjectsV2"):
        faulty.proxy.use(Fault("answer", status=status, code=code))
        with pytest.raises(expected) as caught:
            OPERATIONS[operation](faulty.store)
        assert not isinstance(caught.value, TransientStorageError)
        assert faulty.proxy.count() == faulty.proxy.count(operation) == 1


def test_a_storm_is_outlasted_and_asked_for_patience_is_given(faulty: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    """The waits are read from the log: how long they really take is the machine's affair."""
    faulty.proxy.use(Fault("answer", status=503, code="SlowDown", count=2, retry_after_s=1))
    with caplog.at_level(logging.INFO, logger="pipeline.storage.retry"):
        faulty.store.create("new", b"x")
    waits = [float(wait) for wait in re.findall(r"next in ([\d.]+) s", caplog.text)]
    assert len(waits) == 2
    assert all(1.0 <= wait <= 1.5 for wait in waits)
    assert faulty.stored() == {"p/new": b"x"}


@on_servers
@pytest.mark.parametrize("fault", [Fault("lost_answer", count=1), Fault("lost_answer", status=503, count=1)])
@pytest.mark.usefixtures("short_waits")
def test_a_success_whose_answer_is_lost_is_found(faulty: Faulty, fault: Fault) -> None:
    """The second attempt meets the first one's object: for the caller to compare, and nothing is there twice."""
    faulty.proxy.use(fault)
    with pytest.raises(ObjectExistsError):
        faulty.store.create("a", b"first")
    assert faulty.proxy.count("PutObject") == 2
    faulty.proxy.use(fault)
    faulty.store.replace("a", b"second")
    assert faulty.stored() == {"p/a": b"second"}
    faulty.proxy.use(fault)
    faulty.store.delete("a")
    assert faulty.stored() == {}


@on_servers
@pytest.mark.usefixtures("short_waits")
def test_a_create_that_arrives_late_changes_nothing(faulty: Faulty) -> None:
    """The network held the first request back until the second had been answered."""
    faulty.proxy.use(Fault("pass", "PutObject", delay_s=LATE_S, count=1))
    impatient(faulty).create("a", b"first")
    late, prompt = faulty.proxy.seen
    assert (late.status, prompt.status) == (None, 200)
    wait_until(lambda: late.status is not None, "the late request")
    assert late.status == 412
    assert faulty.stored() == {"p/a": b"first"}


def test_conflicts_of_conditional_writes_pass(faulty: Faulty) -> None:
    conflict = {"status": 409, "code": "ConditionalRequestConflict", "conditional_only": True}
    faulty.proxy.use(Fault("answer", count=2, **conflict))  # type: ignore[arg-type]
    faulty.store.create("a", b"first")
    assert faulty.proxy.count("PutObject") == 3
    assert all(seen.request.headers["if-none-match"] == "*" for seen in faulty.proxy.seen)
    assert faulty.stored() == {"p/a": b"first"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("short_waits")
def test_answers_lost_during_the_probe_say_nothing_about_the_store(faulty: Faulty, seed: int) -> None:
    with FaultProxy(
        faulty.bucket.server.endpoint_url, Fault("lost_answer", "PutObject", probability=0.3), seed=seed
    ) as proxy:
        config = PATIENT.model_copy(update={"endpoint_url": proxy.url, "max_attempts": 8})
        probe = probe_store(open_store(f"{faulty.bucket.url}/p", config))
        assert probe.atomic, probe.reason
        assert proxy.count("PutObject", "lost_answer") > 1
    assert faulty.stored() == {}


# What can happen to any step of an upload in parts, and ends.
PASSING = [
    Fault("reset", count=2),
    Fault("answer", status=503, code="SlowDown", count=2),
    Fault("lost_answer", count=1),
    Fault("truncate", count=1),
]
MORE_PASSING = [
    Fault("reset_in_request", count=2),
    Fault("answer", status=500, code="InternalError", count=2),
    Fault("lost_answer", status=500, count=2),
    Fault("reset_in_answer", count=2),
]
STEPS = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
UNHEARD = {"lost_answer", "truncate", "reset_in_answer", "black_hole"}


def pattern(num_bytes: int) -> bytes:
    """Bytes in which no two parts are alike."""
    return (bytes(range(251)) * (num_bytes // 251 + 1))[:num_bytes]


def assert_outlasted(faulty: Faulty, data: bytes, fault: Fault) -> None:
    """Upload `data` while `fault` is met; it is there, once, and nothing unfinished is."""
    faulty.proxy.use(fault)
    try:
        faulty.store.create("big", data)
    except ObjectExistsError:
        # Our own, as the caller finds out: the answer to its completion was lost.
        assert fault.operation == "CompleteMultipartUpload"
        assert fault.kind in UNHEARD
    assert faulty.proxy.count(kind=fault.kind) == fault.count
    assert faulty.stored() == {"p/big": data}
    assert faulty.pending_uploads() == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "fault",
    [*PASSING, *(pytest.param(fault, marks=pytest.mark.long) for fault in MORE_PASSING)],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
@pytest.mark.usefixtures("small_parts", "short_waits")
def test_an_upload_in_parts_outlasts_what_passes(faulty: Faulty, step: str, fault: Fault) -> None:
    assert_outlasted(faulty, pattern(MULTIPART_BYTES), replace(fault, operation=step))


@pytest.mark.parametrize("faulty", ["swift"], indirect=True)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("small_parts", "short_waits")
def test_a_lost_answer_to_any_step_leaves_no_upload_on_a_real_server_either(faulty: Faulty, step: str) -> None:
    """Of a start whose answer is lost nobody knows the id: the upload can only be found by its key."""
    assert_outlasted(faulty, pattern(MULTIPART_BYTES), Fault("lost_answer", step, count=1))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("answer", "CompleteMultipartUpload", status=200, code="InternalError", count=2), None),
        (Fault("answer", "CompleteMultipartUpload", status=409, code="ConditionalRequestConflict"), "begin again"),
        (Fault("answer", "UploadPart", status=404, code="NoSuchUpload"), "begin again"),
        (Fault("answer", "UploadPart", status=403, code="AccessDenied"), "AccessDenied"),
        (Fault("answer", "UploadPart", status=503, code="SlowDown"), "gave up after 3 attempts"),
        (Fault("reset", "CompleteMultipartUpload"), "gave up after 3 attempts"),
    ],
    ids=["error-in-200", "conflict", "aborted", "denied", "storm", "resets"],
)
@pytest.mark.usefixtures("small_parts", "short_waits")
def test_an_upload_in_parts_that_fails_leaves_nothing(faulty: Faulty, fault: Fault, expected: str | None) -> None:
    data = pattern(MULTIPART_BYTES)
    faulty.proxy.use(fault)
    with pytest.raises(StorageError, match=expected) if expected else nullcontext():
        faulty.store.create("big", data)
    assert faulty.stored() == ({} if expected else {"p/big": data})
    assert faulty.pending_uploads() == []


@pytest.mark.usefixtures("small_parts", "short_waits")
def test_what_a_dead_store_left_of_an_upload_goes_with_the_next_success(faulty: Faulty) -> None:
    data = pattern(MULTIPART_BYTES)
    faulty.proxy.use(Fault("lost_answer", "CreateMultipartUpload", count=2), Fault("reset", "UploadPart|Abort.*"))
    with pytest.raises(TransientStorageError, match="gave up"):
        faulty.store.create("big", data)
    assert len(faulty.pending_uploads()) == 3
    assert_outlasted(faulty, data, Fault("pass", "none", count=0))


@pytest.mark.usefixtures("small_parts", "short_waits")
def test_an_upload_in_parts_to_a_store_declared_weak(faulty: Faulty) -> None:
    """No condition is sent, so only looking tells whether the completion whose answer was lost was ours."""
    config = PATIENT.model_copy(update={"endpoint_url": faulty.proxy.url})
    store = open_store(f"{faulty.bucket.url}/p", config, atomic_create=False)
    assert_outlasted(replace(faulty, store=store), pattern(MULTIPART_BYTES), Fault("lost_answer", STEPS[-1], count=1))


@pytest.mark.long
@on_servers
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "fault",
    [*PASSING, *MORE_PASSING, Fault("black_hole", count=1), Fault("pass", delay_s=0.3, count=4)],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_more_than_100_mb_outlast_what_passes(faulty: Faulty, step: str, fault: Fault) -> None:
    """The real threshold and the real parts. A black hole costs the read timeout and the time of one transfer."""
    if fault.kind == "black_hole":
        config = PATIENT.model_copy(update={"endpoint_url": faulty.proxy.url, "read_timeout_s": 5.0})
        faulty = replace(faulty, store=open_store(f"{faulty.bucket.url}/p", config))
    count = 1 if step != "UploadPart" and fault.kind == "pass" else fault.count
    assert_outlasted(faulty, pattern(100 * 2**20 + 1), replace(fault, operation=step, count=count))
