"""Jobs whose output is sent in parts, while the store fails: they end right, or stop within their bound and resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_network
from forked import forked
from independent_checker import Bucket, require_whole
from photographs import jpeg, picture
from safetensors.torch import save_file
from servers.fault_proxy import Fault, FaultProxy

from pipeline.storage.s3_upload import MULTIPART_THRESHOLD_BYTES

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True),
]

OPTIONS = (
    *("--executor", "local", "--precision", "fp32", "--device", "cpu", "--quiet"),
    *("--pixel-type", "float", "--compression", "none"),
)
BUSY = Fault("answer", status=503, code="SlowDown")
SILENT_S, NUM_TRIES, NUM_ATTEMPTS = 5, 2, 4
# A store that does not answer is known soon, but not by a part of 32 MiB that takes its time on a busy machine.
SILENT = ("--dst-timeout", str(SILENT_S), "--dst-attempts", str(NUM_TRIES))
# What docs/storage.md says of a job with one shard: attempts after each other, 5, 10 and 20 s apart. In each the image
# is made anew (30 s), the tries have their silence and 0.25 s between them, and the upload is given up in one more.
ATTEMPT_S = 30 + (NUM_TRIES + 1) * (SILENT_S + 1)
BOUND_S = NUM_ATTEMPTS * ATTEMPT_S + 35 + 45


@dataclass(frozen=True)
class Job:
    """One photograph whose output is larger than the threshold, and a bucket behind a proxy."""

    proxy: FaultProxy
    reader: Bucket
    url: str
    inputs: dict[str, bytes]
    folder: Path

    def run(self, *options: str, timeout_s: float = 200) -> tuple[int, str]:
        """Exit code, and what it said."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        command = ("convert", self.folder / "photos", self.url, "--dst-endpoint-url", self.proxy.url, *OPTIONS)
        weights = ("--weights", self.folder / "tiny.safetensors")  # a network of full width takes minutes for this size
        code = forked(*command, *weights, *options, log=log, timeout_s=timeout_s)
        return code, log.read_text()

    def require_sound(self) -> None:
        (row,) = require_whole(self.reader, self.inputs)
        assert row["output_bytes"] > MULTIPART_THRESHOLD_BYTES
        log = self.folder / "verify.log"
        assert forked("verify", self.url, "--deep", log=log) == 0, log.read_text()


@pytest.fixture
def job(s3_bucket: Any, tmp_path: Path) -> Iterator[Job]:
    save_file(dict(tiny_network().state_dict()), tmp_path / "tiny.safetensors")
    data = jpeg(picture(3000, 3100))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/large.jpg").write_bytes(data)
    reader = Bucket(s3_bucket.client, s3_bucket.name, "out/")
    with FaultProxy(s3_bucket.server.endpoint_url) as proxy:
        yield Job(proxy, reader, f"{s3_bucket.url}/out", {"large.jpg": data}, tmp_path)


@pytest.mark.parametrize(
    "faults",
    [
        (replace(BUSY, operation="UploadPart", count=5), replace(BUSY, operation="CompleteMultipartUpload", count=3)),
        (
            Fault("reset", "UploadPart", count=2),
            Fault("reset_in_request", "UploadPart", count=2),
            Fault("reset", "CompleteMultipartUpload", count=2),
        ),
        (Fault("lost_answer", "UploadPart", count=2), Fault("lost_answer", "CompleteMultipartUpload", count=1)),
        (
            Fault("lost_answer", "CreateMultipartUpload", count=1),
            Fault("lost_answer", "CompleteMultipartUpload", status=500, count=1),
        ),
    ],
    ids=["storm", "resets", "lost answers", "lost start and end"],
)
def test_faults_that_pass_are_outlasted(job: Job, faults: tuple[Fault, ...]) -> None:
    job.proxy.use(*faults)
    code, said = job.run()
    assert code == 0, said
    met = [seen for seen in job.proxy.seen if seen.kind is not None]
    assert len(met) == sum(fault.count or 0 for fault in faults)
    job.require_sound()


def from_the_middle_on(fault: Fault) -> tuple[Fault, ...]:
    """The first upload is opened and half of its parts arrive; from then on nothing of an output does."""
    outputs = "^out/images/"
    return (
        replace(fault, operation="UploadPart", key=outputs, skip=2),
        replace(fault, operation="CreateMultipartUpload", key=outputs, skip=1),
        replace(fault, operation="CompleteMultipartUpload|AbortMultipartUpload|PutObject", key=outputs),
    )


@pytest.mark.parametrize(
    ("fault", "says"), [(Fault("black_hole"), "gave up after"), (BUSY, "SlowDown")], ids=["black hole", "storm"]
)
def test_a_store_that_does_not_come_back_stops_the_job_within_its_bound(job: Job, fault: Fault, says: str) -> None:
    job.proxy.use(*from_the_middle_on(fault))
    code, said = job.run(*SILENT, timeout_s=BOUND_S)
    assert code == 1, said
    (line,) = said.strip().splitlines()[-1:]
    assert line.startswith("hdrfleet: ")
    for text in (job.url, says, "committed work is kept, run the same command again", "[storage_unavailable]"):
        assert text in line
    assert sum(seen.kind is None for seen in job.proxy.seen if seen.request.operation == "UploadPart") == 2
    assert not [key for key in job.reader.stamps() if key.startswith(("images/", "manifest/"))]
    assert len(job.reader.leftovers()) <= 1, "the upload that could not be aborted, and no other"
    job.proxy.use()
    code, said = job.run(*SILENT)
    assert code == 0, said
    job.require_sound()
