"""One contract for every store: local files, memory, moto, and a real S3 server."""

from __future__ import annotations

import errno
import http.server
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from commands import hdrfleet_here
from photographs import png
from servers.serving import serving

from pipeline.config import StorageConfig
from pipeline.errors import (
    CredentialsError,
    DestinationError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectTooLargeError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage import ObjectStore, open_store
from pipeline.storage.probe import probe_store
from pipeline.storage.s3_client import S3Client

QUICK = StorageConfig(connect_timeout_s=2, read_timeout_s=10, max_attempts=2, max_retry_s=5)
STORES = ["local", "memory", "moto", "swift"]


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Any:
    """The bucket behind the test's `store`, for a store on S3."""
    server = request.getfixturevalue(f"{request.node.callspec.params['store']}_server")
    return request.getfixturevalue("s3_bucket_on")(server)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return open_store(str(tmp_path / "new" / "root"), QUICK)
    if request.param == "memory":
        return open_store(f"memory://{secrets.token_hex(6)}/root", QUICK)
    return open_store(request.getfixturevalue("bucket").url + "/some/root/", QUICK)


only = partial(pytest.mark.parametrize, "store", indirect=True)
on_servers = partial(pytest.mark.parametrize, "s3_server", indirect=True)


def test_a_range_is_what_lies_there_and_no_more(store: ObjectStore) -> None:
    store.create("a/b.bin", bytes(range(100)))
    store.create("empty", b"")
    assert store.read_range("a/b.bin", 0, 10) == bytes(range(10))
    assert store.read_range("a/b.bin", 90, 1000) == bytes(range(90, 100))
    assert store.read_range("a/b.bin", 100, 5) == b""
    assert store.read_range("a/b.bin", 3, 0) == b""
    assert store.read_range("empty", 0, 10) == b""
    with pytest.raises(ObjectMissingError):
        store.read_range("a/none", 0, 10)


def test_created_object_reads_back(store: ObjectStore) -> None:
    created = store.create("a/b.bin", b"first")
    assert store.read("a/b.bin") == b"first"
    assert store.read("a/b.bin", if_match=created.etag, max_bytes=5) == b"first"
    found = store.stat("a/b.bin")
    assert (found.key, found.size_bytes, found.etag) == ("a/b.bin", 5, created.etag)
    assert created.size_bytes == 5
    assert created.etag
    assert '"' not in created.etag


def test_empty_object(store: ObjectStore) -> None:
    store.create("empty", b"")
    assert store.read("empty", max_bytes=0) == b""
    assert store.stat("empty").size_bytes == 0


def test_create_never_overwrites(store: ObjectStore) -> None:
    store.create("a", b"first")
    with pytest.raises(ObjectExistsError, match="a: already there"):
        store.create("a", b"second")
    assert store.read("a") == b"first"
    assert [info.key for info in store.list()] == ["a"]


def test_missing_object(store: ObjectStore) -> None:
    for call in (store.read, store.stat):
        with pytest.raises(ObjectMissingError, match="no/such: no such object"):
            call("no/such")
    store.delete("no/such")


def test_replace_overwrites_and_creates(store: ObjectStore) -> None:
    first = store.replace("a/x", b"first")
    second = store.replace("a/x", b"second, longer")
    assert store.read("a/x") == b"second, longer"
    assert store.stat("a/x").etag == second.etag != first.etag


def test_delete(store: ObjectStore) -> None:
    store.create("a/x", b"1")
    store.delete("a/x")
    with pytest.raises(ObjectMissingError):
        store.read("a/x")
    store.create("a/x", b"2")
    assert store.read("a/x") == b"2"


def test_changed_object_is_noticed(store: ObjectStore) -> None:
    planned = store.create("a", b"planned").etag
    store.replace("a", b"something else")
    with pytest.raises(ObjectChangedError, match="a: changed"):
        store.read("a", if_match=planned)
    assert store.read("a") == b"something else"


def test_too_large_object_is_not_read(store: ObjectStore) -> None:
    store.create("a", b"x" * 1000)
    with pytest.raises(ObjectTooLargeError, match="1000 bytes, more than the limit of 999"):
        store.read("a", max_bytes=999)
    assert store.read("a", max_bytes=1000) == b"x" * 1000


@only(["memory", "moto", "swift"])
def test_metadata_comes_back_in_lower_case(store: ObjectStore) -> None:
    created = store.create("a", b"1", metadata={"Sha256": "ab" * 32, "revision": "2"})
    assert dict(store.stat("a").metadata) == dict(created.metadata) == {"sha256": "ab" * 32, "revision": "2"}


def test_list_in_byte_order(store: ObjectStore) -> None:
    keys = [
        "a/x.jpg",
        "a-b/x.jpg",
        "a.jpg",
        "a/b/c.jpg",
        "B.jpg",
        "é.jpg",
        "z/ü ö.jpg",
        "日本.jpg",
        "\U0001f600.jpg",
        "zz",
    ]
    for key in keys:
        store.create(key, key.encode())
    listed = list(store.list())
    assert [info.key for info in listed] == sorted(keys, key=str.encode)
    assert {info.key: info.size_bytes for info in listed} == {key: len(key.encode()) for key in keys}
    assert all(info.etag == store.stat(info.key).etag for info in listed)
    assert [info.key for info in store.list("a")] == ["a/b/c.jpg", "a/x.jpg"]
    assert [info.key for info in store.list("z/")] == ["z/ü ö.jpg"]
    assert list(store.list("none")) == []
    assert list(store.list("a.jpg")) == []


def test_awkward_keys(store: ObjectStore) -> None:
    keys = [
        "ü a/ø#?%20+&=.jpg",
        "'quoted' \"name\" <x>.jpg",
        "a\\b*[1].jpg",
        "~$!(){};,@:.jpg",
        ":x?y=z.jpg",
        "a" * 250,
    ]
    for key in keys:
        store.create(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys, key=str.encode)
    for key in keys:
        assert store.read(key) == key.encode()
        store.delete(key)
    assert list(store.list()) == []


def test_refused_keys(store: ObjectStore) -> None:
    calls = (
        store.read,
        store.stat,
        store.delete,
        lambda key: store.create(key, b""),
        lambda key: store.replace(key, b""),
    )
    for key in ["", "/etc/passwd", "../up", "a/../../up", "a/..", "a\0b", "a\nb", "a/", "\udcff.jpg"]:
        for call in calls:
            with pytest.raises(ValueError, match="not a valid object key"):
                call(key)


def test_threads_share_a_store(store: ObjectStore) -> None:
    def round_trip(index: int) -> bytes:
        store.create(f"{index % 3}/{index}", b"%d" % index)
        return store.read(f"{index % 3}/{index}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(round_trip, range(48))) == [b"%d" % index for index in range(48)]
    assert sum(1 for _ in store.list()) == 48


@only(["local", "memory", "moto"])
def test_one_of_racing_creators_wins(store: ObjectStore) -> None:
    for number in range(5):
        start = threading.Barrier(8)

        def compete(index: int, key: str = f"race/{number}", start: threading.Barrier = start) -> int | None:
            start.wait(30)
            try:
                store.create(key, b"%d" % index)
            except ObjectExistsError:
                return None
            return index

        with ThreadPoolExecutor(8) as pool:
            winners = [index for index in pool.map(compete, range(8)) if index is not None]
        assert len(winners) == 1
        assert store.read(f"race/{number}") == b"%d" % winners[0]


@only(["local", "memory", "moto"])
def test_probe_finds_atomic_create(store: ObjectStore) -> None:
    probe = probe_store(store)
    assert probe.atomic, probe.reason
    assert store.has_atomic_create
    assert list(store.list()) == []


@only(["swift"])
def test_probe_finds_swift_weak(store: ObjectStore) -> None:
    # One round catches it about two times in three, and the probe has 20.
    probe = probe_store(store)
    assert not probe.atomic
    assert not probe.overwrites
    assert "concurrent creates of one object succeeded" in probe.reason
    assert list(store.list()) == []


# 100 MiB and one byte, so that S3 takes it in parts.
BIG = bytes(range(256)) * 409_600 + b"!"


@only(["moto", "swift"])
@pytest.mark.parametrize("metadata", [{"sha256": "ab"}])
def test_create_in_parts_keeps_the_condition(store: ObjectStore, bucket: Any, metadata: dict[str, str]) -> None:
    created = store.create("big", BIG, metadata=metadata)
    assert created.etag.endswith("-4")
    assert store.stat("big").etag == created.etag
    assert dict(store.stat("big").metadata) == metadata
    assert store.read("big", if_match=created.etag) == BIG
    with pytest.raises(ObjectExistsError):
        store.create("big", BIG)
    assert store.stat("big").etag == created.etag
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


@only(["moto", "swift"])
def test_competitor_during_an_upload_in_parts_wins(
    store: ObjectStore, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object appears after the upload has begun: only the condition on the completion can notice."""
    calls = []

    def call(method: str, **parameters: Any) -> dict[str, Any]:
        calls.append(method)
        if method == "complete_multipart_upload":
            bucket.client.put_object(Bucket=bucket.name, Key="some/root/big", Body=b"competitor")
        return real_call(method, **parameters)

    real_call = store._client.call  # type: ignore[attr-defined]
    monkeypatch.setattr(store._client, "call", call)  # type: ignore[attr-defined]
    with pytest.raises(ObjectExistsError):
        store.create("big", BIG)
    assert store.read("big") == b"competitor"
    assert calls.count("upload_part") == 4
    assert calls[-2:] == ["abort_multipart_upload", "list_multipart_uploads"]
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


@on_servers(["moto", "swift"])
def test_listing_pages_and_markers(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.s3._PAGE_OBJECTS", 10)
    put = partial(s3_bucket.client.put_object, Bucket=s3_bucket.name)
    put(Key="p/", Body=b"")
    put(Key="p/folder/", Body=b"")
    put(Key="p2/not-below", Body=b"")
    for index in range(25):
        put(Key=f"p/{index:04d}", Body=b"x")
    found = open_store(s3_bucket.url + "/p", QUICK).list()
    assert next(found).key == "0000"
    assert [info.key for info in found] == [f"{index:04d}" for index in range(1, 25)]


@on_servers(["moto", "swift"])
def test_uploads_that_nobody_finished_are_listed(s3_bucket: Any) -> None:
    for key in ("p/a.exr", "p/b/c.exr", "elsewhere.exr"):
        s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    store = open_store(s3_bucket.url + "/p", QUICK)
    assert sorted(store.unfinished()) == ["a.exr", "b/c.exr"]
    assert list(store.list()) == []
    store.create("a.exr", b"whole")
    s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key="p/a.exr.more")
    store.discard_unfinished("a.exr")
    assert sorted(store.unfinished()) == ["a.exr.more", "b/c.exr"]
    assert store.read("a.exr") == b"whole"


@on_servers(["moto"])
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", ObjectDeniedError),
        (405, "MethodNotAllowed", StorageError),
        (501, "NotImplemented", StorageError),
        (503, "SlowDown", TransientStorageError),
    ],
)
def test_uploads_that_cannot_be_listed_are_no_empty_list(
    s3_bucket: Any, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[StorageError]
) -> None:
    store = open_store(s3_bucket.url + "/p", QUICK)
    refuse_to_list_uploads(monkeypatch, status, code)
    with pytest.raises(kind) as caught:
        list(store.unfinished("images"))
    assert isinstance(caught.value, ObjectDeniedError) == (status == 403), "no right would help"
    assert isinstance(caught.value, TransientStorageError) == (status == 503)


@on_servers(["moto"])
def test_a_verification_that_could_not_look_for_uploads_says_so(
    s3_bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png(np.full((4, 6, 3), 99, np.uint8)))
    dst = f"{s3_bucket.url}/out"
    options = ("--weights", "identity", "--executor", "local", "--device", "cpu", "--quiet")
    assert hdrfleet_here("convert", tmp_path / "a.png", dst, *options) == 0
    for status, code, ends_with in ((403, "AccessDenied", 3), (501, "NotImplemented", 0), (503, "SlowDown", 1)):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("time.sleep", lambda _seconds: None)  # between tries
            refuse_to_list_uploads(patch, status, code)
            assert hdrfleet_here("verify", dst, "--json", "--quiet") == ends_with
        out, error = capsys.readouterr()
        if status == 503:
            assert "SlowDown" in error
            assert not out
            continue
        report = json.loads(out)
        assert [finding["code"] for finding in report["findings"]] == ["unfinished_denied"] * (
            3 if status == 403 else 0
        )
        assert len(report["notes"]) == (status == 501)
    assert hdrfleet_here("verify", dst, "--quiet") == 0


def refuse_to_list_uploads(patch: pytest.MonkeyPatch, status: int, code: str) -> None:
    def call(self: S3Client, method: str, **parameters: Any) -> dict[str, Any]:
        if method == "list_multipart_uploads":
            answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, method)
        return real_call(self, method, **parameters)

    real_call = S3Client.call
    patch.setattr(S3Client, "call", call)


def test_a_store_that_cannot_say_what_is_unfinished_says_that() -> None:
    with pytest.raises(StorageError, match="cannot be listed"):
        list(open_store(f"https://localhost/{secrets.token_hex(3)}", QUICK).unfinished())


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path), QUICK)
    assert list(store.unfinished("none")) == []
    (tmp_path / "images").mkdir()

    def scandir(path: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(TransientStorageError, match="images"):
        list(store.unfinished("images"))


def test_temporary_files_are_listed_as_unfinished_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), QUICK)
    store.create("a/b.exr", b"x")
    assert list(store.unfinished()) == []
    (tmp_path / "a" / ".hdrfleet-tmp-1-00").write_bytes(b"x")
    assert list(store.unfinished()) == ["a/.hdrfleet-tmp-1-00"]
    store.discard_unfinished("a/b.exr")
    assert [info.key for info in store.list()] == ["a/b.exr"]
    store.discard_unfinished("a/.hdrfleet-tmp-1-00")
    assert list(store.unfinished()) == []


@on_servers(["moto"])
def test_names_that_cannot_be_keys_are_left_out_aloud(s3_bucket: Any, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("a/../b.jpg", "bell\a.jpg", "good.jpg", "a//b.jpg"):
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=key, Body=b"x")
    store = open_store(s3_bucket.url, QUICK)
    with caplog.at_level(logging.WARNING, logger="pipeline.storage"):
        assert [info.key for info in store.list()] == ["a//b.jpg", "good.jpg"]
    assert store.read("a//b.jpg") == b"x"
    assert "2 object(s) left out" in caplog.text


@on_servers(["swift"])
def test_wrong_secret(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="a", Body=b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    store = open_store(s3_bucket.url, QUICK)
    for call in (
        lambda: store.read("a"),
        lambda: store.stat("a"),
        lambda: store.create("b", b""),
        lambda: list(store.list()),
    ):
        with pytest.raises(CredentialsError, match="SignatureDoesNotMatch") as caught:
            call()
        assert "not-the-secret" not in str(caught.value)
        assert s3_bucket.server.access_key not in str(caught.value)
    with pytest.raises(DestinationError, match="SignatureDoesNotMatch"):
        probe_store(store)


@on_servers(["moto"])
def test_no_credentials_and_anonymous(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="a", Body=b"x", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="credentials"):
        open_store(s3_bucket.url, QUICK).read("a")
    assert open_store(s3_bucket.url, QUICK.model_copy(update={"anonymous": True})).read("a") == b"x"


@on_servers(["moto"])
def test_unknown_profile_is_a_usage_error(s3_bucket: Any) -> None:
    from pipeline.errors import ConfigError

    with pytest.raises(ConfigError, match="no-such-profile"):
        open_store(s3_bucket.url, QUICK.model_copy(update={"profile": "no-such-profile"})).read("a")


@on_servers(["moto", "swift"])
def test_configured_endpoint_profile_and_payer(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in (
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(variable)
    shared = tmp_path / "credentials"
    shared.write_text(
        f"[job]\naws_access_key_id={s3_bucket.server.access_key}\naws_secret_access_key={s3_bucket.server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    config = QUICK.model_copy(
        update={
            "endpoint_url": s3_bucket.server.endpoint_url,
            "profile": "job",
            "region": s3_bucket.server.region,
            "requester_pays": True,
        }
    )
    store = open_store(s3_bucket.url, config)
    etag = store.create("a", b"x").etag
    assert store.read("a", if_match=etag) == b"x"
    assert [info.key for info in store.list()] == ["a"]


@on_servers(["moto", "swift"])
def test_no_such_bucket(s3_bucket: Any) -> None:
    store = open_store(f"s3://{s3_bucket.name}-not/x", QUICK)
    for call in (lambda: store.read("a"), lambda: store.create("a", b""), lambda: list(store.list())):
        with pytest.raises(StorageError, match="there is no such bucket"):
            call()
    with pytest.raises(DestinationError, match="no such bucket"):
        probe_store(store)


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@on_servers(["moto"])
def test_nobody_listens(s3_bucket: Any) -> None:
    config = QUICK.model_copy(update={"endpoint_url": f"http://127.0.0.1:{_closed_port()}", "max_attempts": 3})
    with pytest.raises(TransientStorageError, match="gave up after 3 attempts"):
        open_store("s3://bucket", config).read("a")


@on_servers(["moto"])
def test_silent_server_is_given_up(s3_bucket: Any) -> None:
    """A server that accepts connections and never answers costs the read timeout, not for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        config = StorageConfig(endpoint_url=endpoint, connect_timeout_s=0.5, read_timeout_s=0.5, max_attempts=2)
        with pytest.raises(TransientStorageError, match="gave up after 2 attempts"):
            open_store("s3://bucket", config).create("a", b"x")


class FaultyS3(http.server.BaseHTTPRequestHandler):
    """Answers from a script of (status, headers, body); the last answer repeats."""

    script: list[tuple[int, dict[str, str], bytes]]
    seen: list[tuple[str, dict[str, str]]]
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, dict(self.headers)))
        status, headers, body = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


def _fault(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {}, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said so</Message></Error>".encode()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[FaultyS3], ObjectStore]]:
    handler = type("Handler", (FaultyS3,), {"script": [], "seen": []})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        config = QUICK.model_copy(update={"endpoint_url": f"http://127.0.0.1:{server.server_port}", "max_attempts": 4})
        yield handler, open_store("s3://bucket", config)


OK = (200, {"ETag": '"e1"'}, b"data")


@pytest.mark.parametrize(
    "fault",
    [
        _fault(503, "SlowDown"),
        _fault(500, "InternalError"),
        _fault(400, "RequestTimeout"),
        (502, {}, b"<html>bad gateway</html>"),
        (429, {}, b""),
        (200, {"ETag": '"e1"', "Content-Length": "10"}, b"torn"),
    ],
    ids=["slow-down", "internal", "request-timeout", "gateway", "too-many", "torn-body"],
)
def test_transient_faults_are_retried_once_each(faulty: Any, fault: Any) -> None:
    handler, store = faulty
    handler.script[:] = [fault, fault, OK]
    assert store.read("a", if_match="e1") == b"data"
    assert [method for method, _ in handler.seen] == ["GET"] * 3


def test_retries_do_not_multiply(faulty: Any) -> None:
    handler, store = faulty
    handler.script[:] = [_fault(503, "SlowDown")]
    with pytest.raises(TransientStorageError, match="SlowDown: said so; gave up after 4 attempts"):
        store.create("a", b"x")
    assert len(handler.seen) == 4


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (_fault(403, "AccessDenied"), ObjectDeniedError),
        (_fault(403, "InvalidAccessKeyId"), CredentialsError),
        (_fault(400, "ExpiredToken"), CredentialsError),
        (_fault(404, "NoSuchKey"), ObjectMissingError),
    ],
    ids=["denied", "unknown-key", "expired", "missing"],
)
def test_lasting_faults_are_not_retried(faulty: Any, fault: Any, expected: type[Exception]) -> None:
    handler, store = faulty
    handler.script[:] = [fault]
    with pytest.raises(expected):
        store.read("a")
    assert len(handler.seen) == 1


def test_expired_token_shows_on_stat_too(faulty: Any) -> None:
    handler, store = faulty
    handler.script[:] = [(400, {}, b""), _fault(400, "ExpiredToken")]
    with pytest.raises(CredentialsError, match="ExpiredToken"):
        store.stat("a")
    assert handler.seen[0][0] == "HEAD"
    assert handler.seen[-1][0] == "GET"
    handler.script[:] = [(403, {}, b""), _fault(403, "AccessDenied")]
    with pytest.raises(ObjectDeniedError):
        store.stat("a")


@pytest.mark.parametrize("status", [501, 400])
def test_store_without_if_match_is_compared_instead(faulty: Any, status: int) -> None:
    handler, store = faulty
    handler.script[:] = [_fault(status, "NotImplemented" if status == 501 else "InvalidRequest"), OK]
    assert store.read("a", if_match="e1") == b"data"
    with pytest.raises(ObjectChangedError, match="its etag is e1, not e0"):
        store.read("a", if_match="e0")
    assert ["If-Match" in headers for _, headers in handler.seen] == [True, False, False]


def test_conflict_of_conditional_writes_is_retried(faulty: Any) -> None:
    handler, store = faulty
    handler.script[:] = [_fault(409, "ConditionalRequestConflict"), _fault(412, "PreconditionFailed")]
    with pytest.raises(ObjectExistsError):
        store.create("a", b"x")
    assert [headers.get("If-None-Match") for _, headers in handler.seen] == ["*", "*"]


def test_store_without_conditional_writes_is_looked_at_first(faulty: Any) -> None:
    handler, store = faulty
    assert store.has_atomic_create
    handler.script[:] = [_fault(501, "NotImplemented"), (404, {}, b""), (200, {"ETag": '"e2"'}, b""), OK]
    assert store.create("a", b"x").etag == "e2"
    assert not store.has_atomic_create
    with pytest.raises(ObjectExistsError):
        store.create("a", b"y")
    assert [method for method, _ in handler.seen] == ["PUT", "HEAD", "PUT", "HEAD"]
    assert "If-None-Match" not in handler.seen[2][1]


def test_declared_weak_store_is_looked_at_first(s3_bucket: Any) -> None:
    store = open_store(s3_bucket.url, QUICK, atomic_create=False)
    store.create("a", b"x")
    with pytest.raises(ObjectExistsError):
        store.create("a", b"y")
    probe = probe_store(store)
    assert not probe.atomic
    assert not probe.overwrites


def test_web_server_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a b#.jpg").write_bytes(b"pixels")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with serving(
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    ) as server:
        store = open_store(f"http://127.0.0.1:{server.server_port}/?token=secret", QUICK)
        assert "secret" not in store.url
        info = store.stat("a b#.jpg")
        assert store.read("a b#.jpg", if_match=info.etag, max_bytes=6) == b"pixels"
        with pytest.raises(ObjectMissingError) as caught:
            store.read("no.jpg")
        assert "secret" not in str(caught.value)
        with pytest.raises(ObjectTooLargeError):
            store.read("a b#.jpg", max_bytes=5)
        with pytest.raises(StorageError, match="cannot be listed"):
            list(store.list())
        with pytest.raises(ObjectDeniedError, match="can only be read"):
            store.create("x", b"")
