from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.errors import ObjectExistsError, StorageError, TransientStorageError
from pipeline.storage import s3_upload


class FakeS3:
    """Answers the calls of one upload; `faults` maps a method to the S3 code that it fails with."""

    def __init__(self, *, there: bool = False, **faults: str) -> None:
        self.there = there
        self.faults = faults
        self.calls: list[str] = []
        self.calls_once: list[str] = []
        self.parts: dict[int, bytes] = {}
        self.completion: dict[str, Any] = {}

    def call(self, method: str, *, num_bytes: int = 0, **parameters: Any) -> dict[str, Any]:
        self.calls.append(method)
        if method in self.faults:
            code = self.faults[method]
            kind = TransientStorageError if code == "SlowDown" else StorageError
            raise kind(code) from ClientError({"Error": {"Code": code}}, method)
        if method == "upload_part":
            assert num_bytes == len(parameters["Body"])
            self.parts[parameters["PartNumber"]] = parameters["Body"]
            return {"ETag": f"e{parameters['PartNumber']}", "ChecksumCRC32": "c", "ServerSideEncryption": "AES256"}
        if method == "complete_multipart_upload":
            self.completion = parameters
        return {"UploadId": "u", "ETag": '"whole-3"'}

    def upload(self, data: bytes, *, is_new: bool = True, **condition: str) -> dict[str, Any]:
        def call_once(method: str, **parameters: Any) -> dict[str, Any]:
            self.calls_once.append(method)
            return self.call(method, **parameters)

        return s3_upload.upload_in_parts(
            data,
            metadata={},
            condition=condition,
            call=self.call,
            call_once=call_once,
            exists=(lambda: self.there) if is_new else None,
        )


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "_PART_BYTES", 4)


def test_parts_and_condition() -> None:
    s3 = FakeS3()
    assert s3.upload(b"0123456789", IfNoneMatch="*")["ETag"] == '"whole-3"'
    assert s3.parts == {1: b"0123", 2: b"4567", 3: b"89"}
    assert s3.completion["IfNoneMatch"] == "*"
    assert s3.completion["MultipartUpload"]["Parts"] == [
        {"PartNumber": number, "ETag": f"e{number}", "ChecksumCRC32": "c"} for number in (1, 2, 3)
    ]
    assert s3.calls[-1] == "complete_multipart_upload"


def test_parts_grow_with_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "_MAX_PARTS", 2)
    s3 = FakeS3()
    s3.upload(b"0123456789")
    assert s3.parts == {1: b"01234", 2: b"56789"}


@pytest.mark.parametrize("method", ["upload_part", "complete_multipart_upload"])
def test_failure_aborts(method: str) -> None:
    s3 = FakeS3(**{method: "SlowDown"})
    with pytest.raises(TransientStorageError, match="SlowDown"):
        s3.upload(b"0123456789")
    assert s3.calls[-1] == "abort_multipart_upload"


def test_failed_abort_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    s3 = FakeS3(upload_part="AccessDenied", abort_multipart_upload="SlowDown")
    with pytest.raises(StorageError, match="AccessDenied"):
        s3.upload(b"0123456789")
    assert "could not be aborted: SlowDown" in caplog.text


@pytest.mark.parametrize("method", ["upload_part", "complete_multipart_upload"])
@pytest.mark.parametrize("code", ["NoSuchUpload", "ConditionalRequestConflict"])
@pytest.mark.parametrize(("there", "expected"), [(True, ObjectExistsError), (False, TransientStorageError)])
def test_upload_that_ended_behind_our_back(method: str, code: str, there: bool, expected: type[Exception]) -> None:
    s3 = FakeS3(**{method: code}, there=there)
    with pytest.raises(expected):
        s3.upload(b"0123456789", IfNoneMatch="*")


def test_an_object_that_may_be_overwritten_says_nothing_of_an_upload_that_ended() -> None:
    s3 = FakeS3(complete_multipart_upload="NoSuchUpload", there=True)
    with pytest.raises(TransientStorageError, match="begin again"):
        s3.upload(b"0123456789", is_new=False)


@pytest.mark.parametrize(("code", "once"), [("SlowDown", True), ("AccessDenied", False)])
def test_only_a_store_that_still_answers_is_asked_repeatedly_to_abort(code: str, once: bool) -> None:
    s3 = FakeS3(upload_part=code)
    with pytest.raises(StorageError, match=code):
        s3.upload(b"0123456789")
    assert s3.calls.count("abort_multipart_upload") == 1
    assert s3.calls_once == (["abort_multipart_upload"] if once else [])
