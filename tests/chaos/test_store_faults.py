"""Whole conversions through a proxy that breaks requests: they end right, or stop in one line and can be resumed."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import hdrfleet, hdrfleet_here, wait_until
from photographs import jpeg, picture
from servers.fault_proxy import Fault, FaultProxy

from pipeline.codecs.exr import decode_exr
from pipeline.config import build_config
from pipeline.errors import TransientStorageError

NUM_PHOTOS = 8
SHARD_IMAGES = 2
SIZE_PX = (40, 56)
NAMES = [f"trip {index % 2}/photo_{index:02d}.jpg" for index in range(NUM_PHOTOS)]
OPTIONS = (
    "--weights", "identity", "--executor", "local", "--device", "cpu", "--precision", "fp32", "--verify", "all",
    "--shard-images", str(SHARD_IMAGES), "--quiet",
)  # fmt: skip

BUSY = Fault("answer", status=503, code="SlowDown")
# Seconds and tries that make a store that does not answer known soon.
SILENT = ("--dst-timeout", "1", "--dst-attempts", "2")
# Ten attempts, one at a time: 2 tries of 1 s, 0.25 s between them; 35 s apart in all; a start of 45 s.
BOUND_S = 10 * 2.25 + 35 + 45


@dataclass(frozen=True)
class Library:
    """Photographs below `in/` of a bucket, converted to `out/`, both behind proxies. `bucket.client` goes past them."""

    bucket: Any
    source: FaultProxy
    destination: FaultProxy

    @property
    def command(self) -> tuple[str, ...]:
        urls = (f"{self.bucket.url}/in", f"{self.bucket.url}/out")
        endpoints = ("--src-endpoint-url", self.source.url, "--dst-endpoint-url", self.destination.url)
        return ("convert", *urls, *endpoints, *OPTIONS)

    def fault(self, *source: Fault, destination: tuple[Fault, ...] = ()) -> None:
        self.source.use(*source)
        self.destination.use(*destination)

    def objects(self) -> dict[str, bytes]:
        """Key below `out/` and content of every object of the destination."""
        client, name = self.bucket.client, self.bucket.name
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix="out/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return {
            key.removeprefix("out/"): client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys
        }  # fmt: skip

    def outputs(self) -> dict[str, bytes]:
        return {key: data for key, data in self.objects().items() if key.startswith("images/")}

    def written(self) -> set[str]:
        """Keys below `out/` that were put since the faults were set."""
        seen = [seen.request for seen in self.destination.seen]
        return {request.key.removeprefix("out/") for request in seen if request.operation == "PutObject"}

    def assert_whole(self) -> None:
        """One ok row for each photograph, its output there as recorded, and nothing else. Reads only the store."""
        objects = self.objects()
        rows = [
            row
            for key, data in objects.items()
            if key.startswith("manifest/")
            for row in pq.read_table(io.BytesIO(data)).to_pylist()
        ]
        assert Counter(row["source"] for row in rows) == Counter(NAMES)
        assert {row["status"] for row in rows} == {"ok"}
        for row in rows:
            data = objects[row["output"]]
            assert len(data) == row["output_bytes"]
            assert hashlib.sha256(data).hexdigest() == row["output_sha256"]
            assert decode_exr(data).image.pixels.shape == (*SIZE_PX, 3)
        assert {row["output"] for row in rows} == {f"images/{name}.exr" for name in NAMES}
        assert {key for key in objects if key.startswith("images/")} == {row["output"] for row in rows}
        plans = [key for key in objects if key.endswith("/plan.json")]
        assert plans == ["_hdrfleet/plan/1/plan.json"]
        assert json.loads(objects[plans[0]])["num_images"] == NUM_PHOTOS
        assert not [key for key in objects if key.startswith("_hdrfleet/probe/")]
        uploads = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name)
        assert not uploads.get("Uploads")


@pytest.fixture
def library(request: pytest.FixtureRequest, s3_bucket_on: Callable[[Any], Any]) -> Iterator[Library]:
    """On moto, or on the server that a parameter names."""
    server = request.getfixturevalue(f"{getattr(request, 'param', 'moto')}_server")
    bucket = s3_bucket_on(server)
    for index, name in enumerate(NAMES):
        bucket.client.put_object(Bucket=bucket.name, Key=f"in/{name}", Body=jpeg(picture(*SIZE_PX, seed=index)))
    with FaultProxy(server.endpoint_url, seed=1) as source, FaultProxy(server.endpoint_url, seed=2) as destination:
        yield Library(bucket, source, destination)


on_servers = pytest.mark.parametrize("library", ["moto", "swift"], indirect=True)


def assert_stopped(code: int, said: str, *expected: str) -> None:
    """Exit code 1 and one line, which names the object, the fault, and what to do."""
    assert code == 1, said
    (line,) = said.splitlines()
    assert line.startswith("hdrfleet: ")
    for text in expected:
        assert text in line


def assert_resumes(library: Library) -> None:
    """Without faults the same command finishes the job, and writes nothing again that was stored."""
    stored = library.outputs()
    library.fault()
    assert hdrfleet_here(*library.command) == 0
    assert library.written().isdisjoint(stored)
    assert stored.items() <= library.outputs().items()
    library.assert_whole()


# Met at random by every request after the first few, which ask whether the source is there and do not persist.
NOISE = {
    "errors": (
        Fault("reset", probability=0.06),
        Fault("reset_in_request", probability=0.06),
        Fault("answer", status=500, code="InternalError", probability=0.06),
        Fault("answer", status=503, code="SlowDown", probability=0.06),
        Fault("answer", status=502, probability=0.06),
        Fault("answer", "PutObject", status=409, code="ConditionalRequestConflict", probability=0.15),
    ),
    "lost answers": (Fault("lost_answer", probability=0.15), Fault("lost_answer", status=500, probability=0.15)),
    "torn and late answers": (
        Fault("truncate", "GetObject|ListObjectsV2", probability=0.15),
        Fault("reset_in_answer", "GetObject|ListObjectsV2", probability=0.15),
        Fault("pass", delay_s=0.1, probability=0.3),
    ),
}


def after_start(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    return tuple(replace(fault, skip=4) for fault in faults)


def assert_ends_right(library: Library, *options: str, least_met: int = 4) -> Counter[str]:
    """How many requests each kind of fault met, while the job ended as if there had been none."""
    assert hdrfleet_here(*library.command, *options) == 0
    met = Counter(seen.kind for proxy in (library.source, library.destination) for seen in proxy.seen if seen.kind)
    assert met.total() >= least_met
    library.assert_whole()
    library.fault()
    assert hdrfleet_here(*library.command) == 0
    assert {key for key in library.written() if not key.startswith("_hdrfleet/lease/")} == set()
    return met


@pytest.mark.parametrize(
    "noise",
    [pytest.param(NOISE[name], id=name, marks=() if name == "errors" else pytest.mark.long) for name in NOISE],
)
def test_noise_on_both_sides_changes_nothing(library: Library, noise: tuple[Fault, ...]) -> None:
    library.fault(*after_start(noise), destination=after_start(noise))
    assert_ends_right(library)


@pytest.mark.long
@on_servers
@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize("sides", ["source", "destination", "both"])
def test_noise_on_every_side_of_every_server(library: Library, noise: tuple[Fault, ...], sides: str) -> None:
    noise = after_start(noise)
    if sides == "source":  # a source alone sees one request per image, and few others
        library.fault(*(replace(fault, probability=2 * fault.probability) for fault in noise))
        assert_ends_right(library, least_met=2)
    else:
        library.fault(*(noise if sides == "both" else ()), destination=noise)
        assert_ends_right(library)


# Of a second's patience: answers that come just in time, and requests that arrive when their sender has given them up,
# so that the server does them beside or after the next try.
LATE = (Fault("lost_answer", delay_s=1.4, probability=0.1), Fault("pass", delay_s=0.6, probability=0.5))


@pytest.mark.long
@on_servers
@pytest.mark.parametrize("faults", [(Fault("pass", delay_s=0.6),), LATE], ids=["in time", "in time and too late"])
def test_answers_about_as_late_as_the_timeout_change_nothing(library: Library, faults: tuple[Fault, ...]) -> None:
    library.fault(*after_start(faults), destination=after_start(faults))
    met = assert_ends_right(library, "--src-timeout", "1", "--dst-timeout", "1", least_met=20)
    assert met.keys() == {fault.kind for fault in faults}


@pytest.mark.long
@pytest.mark.parametrize("library", ["swift"], indirect=True)
def test_a_real_server_behind_the_worst_of_it(library: Library) -> None:
    """Signatures are checked there: what the proxy passes on is what the client signed, retries included."""
    torn = Fault("truncate", "GetObject|ListObjectsV2", skip=4, probability=0.2)
    lost = Fault("lost_answer", skip=4, probability=0.2)
    library.fault(torn, destination=(lost, replace(torn, probability=0.1)))
    assert_ends_right(library)


@pytest.mark.parametrize("side", ["destination", pytest.param("source", marks=pytest.mark.long)])
def test_a_storm_in_the_middle_is_outlasted(library: Library, side: str) -> None:
    """One after the other, 25 requests of whatever kind get 503: more than one operation tries, so shards come back."""
    storm = replace(BUSY, skip=5, count=25)
    if side == "source":
        library.fault(storm)
    else:
        library.fault(destination=(replace(storm, key="^out/(images|manifest)/"),))
    assert_ends_right(library)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("black_hole", "PutObject", r"^out/_hdrfleet/plan/1/plan\.json"), "Read timeout"),
        pytest.param(
            Fault("reset", "PutObject", r"^out/_hdrfleet/plan/1/plan\.json"),
            "Connection reset by peer",
            marks=pytest.mark.long,
        ),
        (Fault("answer", "GetObject", r"^out/manifest/.*0002\.parquet", status=503, code="SlowDown"), "SlowDown"),
    ],
    ids=["black hole", "resets", "storm"],
)
def test_a_driver_that_gets_no_answer_stops_in_one_line(
    library: Library, fault: Fault, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the driver's own steps: committing the plan, and reading the manifest when all is done."""
    library.fault(destination=(fault,))
    code = hdrfleet_here(*library.command, *SILENT)
    assert_stopped(
        code, capfd.readouterr().err, f"{library.bucket.url}/out/", says, "gave up after 2 attempts",
        "committed work is kept, run the same command again once the store answers", "[storage_unavailable]",
    )  # fmt: skip
    assert library.destination.count(kind=fault.kind) == 2
    assert_resumes(library)


def test_a_store_that_is_silent_from_the_start_is_refused(library: Library, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything has started, exit code 2 as for any destination that cannot be used; few tries, and no traces."""
    for side, name in (("src", "source"), ("dst", "destination")):
        proxy = library.source if side == "src" else library.destination
        library.fault()
        proxy.use(Fault("black_hole"))
        assert hdrfleet_here(*library.command, f"--{side}-timeout", "1", f"--{side}-attempts", "2") == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith((f"hdrfleet: cannot use the {name}: ", "hdrfleet: cannot read the "))
        assert "gave up after 2 attempts" in line
        assert library.objects() == {}
        # On a busy machine the proxy may come to read what was sent after its sender has given up.
        wait_until(lambda proxy=proxy: proxy.count() >= 2, "both tries arrived", 10)
        assert proxy.count() == 2
    assert_resumes(library)


def convert_with_patience_for_one_attempt(library: Library) -> None:
    """The same job from Python, with workers that may fail once per shard: what the command does, but sooner."""
    from jobs.convert import run_conversion
    from jobs.progress import ConsoleReporter

    def storage(proxy: FaultProxy) -> dict[str, object]:
        return {"endpoint_url": proxy.url, "read_timeout_s": 1.0, "connect_timeout_s": 1.0, "max_attempts": 2}

    config = build_config(
        source={"url": f"{library.bucket.url}/in", "storage": storage(library.source)},
        destination={"url": f"{library.bucket.url}/out", "storage": storage(library.destination)},
        model={"weights": "identity"},
        inference={"device": "cpu", "precision": "fp32"},
        encode={"verify": "all"},
        sharding={"max_images": SHARD_IMAGES},
        execution={"executor": "local", "max_shard_attempts": 1},
    )
    run_conversion(config, ConsoleReporter(quiet=True))


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    [
        Fault("black_hole", "PutObject", "^out/images/", skip=3),
        Fault("black_hole", "PutObject", "^out/manifest/", skip=1),
        Fault("black_hole", key="^out/(images|manifest)/", skip=5),
        Fault("lost_answer", "PutObject", "^out/(images|manifest)/", skip=4),
    ],
    ids=["outputs", "parts", "all", "nothing heard"],
)
def test_a_store_that_dies_on_the_workers_stops_the_job(library: Library, fault: Fault) -> None:
    """Three shards in a row were given up: the job stops, with what was committed; a rerun has only the rest to do."""
    library.fault(destination=(fault,))
    with pytest.raises(TransientStorageError, match="gave up after 2 attempts"):
        convert_with_patience_for_one_attempt(library)
    assert library.destination.count(kind=fault.kind) >= 2
    assert_resumes(library)


def test_a_source_that_dies_on_the_workers_stops_the_job_and_fails_no_image(library: Library) -> None:
    library.fault(Fault("black_hole", "GetObject", skip=3))
    with pytest.raises(TransientStorageError, match=r"^s3://[^ ]*/in/.*gave up after 2 attempts"):
        convert_with_patience_for_one_attempt(library)
    assert_resumes(library)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_the_command_leaves_a_black_hole_within_its_bound(library: Library, side: str, tmp_path: Path) -> None:
    """With the leases that users have: 5, 10 and 20 s between a shard's attempts, ten of them all (docs/storage.md)."""
    hole = Fault("black_hole", "GetObject|PutObject", "^in/|^out/images", skip=3)
    library.fault(*([hole] if side == "source" else []), destination=(hole,) if side == "destination" else ())
    options = ("--src-timeout", "1", "--src-attempts", "2", *SILENT)
    result = hdrfleet(*library.command, *options, home=tmp_path / "home", timeout_s=BOUND_S)
    assert_stopped(
        result.returncode, result.stderr, "10 attempts in a row failed", "gave up after 2 attempts",
        "committed work is kept", "[storage_unavailable]",
    )  # fmt: skip
    assert_resumes(library)
