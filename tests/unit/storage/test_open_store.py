from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.config import StorageConfig
from pipeline.errors import (
    ConfigError,
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
from pipeline.storage import ObjectInfo, generic, open_store
from pipeline.storage.generic import Backend, GenericStore
from pipeline.storage.generic_errors import map_generic_error
from pipeline.storage.memory import MemoryStore
from pipeline.storage.probe import probe_store
from pipeline.storage.retry import RetryPolicy

CONFIG = StorageConfig(max_attempts=1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "needs a path or URL"),
        ("file://host/share", "file:///absolute/path"),
        ("file:///a?b", "file:///absolute/path"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "without credentials"),
        ("s3://bucket/../x", "s3://bucket/prefix"),
        ("nosuch://x", "nosuch"),
        ("simplecache::s3://b/x", "chained"),
        ("zip://a.zip::s3://b/x", "chained"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(url, CONFIG)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "extra"), [("gs://b/x", "gcs"), ("abfs://c/x", "azure")])
def test_missing_package_names_the_extra(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("no module")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(ConfigError, match=rf"pip install 'hdrfleet\[{extra}\]'"):
        open_store(url, CONFIG)


def test_memory_stores_share_one_process(request: pytest.FixtureRequest) -> None:
    name = request.node.name
    first = open_store(f"memory://{name}/x", CONFIG)
    first.create("a/b", b"1")
    assert first.url == f"memory://{name}/x"
    assert open_store(f"memory://{name}", CONFIG).read("x/a/b") == b"1"
    assert list(open_store(f"memory://{name}-2", CONFIG).list()) == []
    with pytest.raises(ObjectMissingError, match="no such object"):
        first.read("a")


class TrackingFileSystem(MemoryFileSystem):
    """A file system of a foreign client: no conditional write, and it counts what it was asked."""

    protocol = "tracking"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: Exception | None = None
    num_reads = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("tracking://"))

    def cat_file(self, path: str, **options: Any) -> bytes:
        type(self).num_reads += 1
        if self.fault:
            raise self.fault
        return super().cat_file(path, **options)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        details = super().info(path, **options)
        content = self.store.get(self._strip_protocol(path))
        return details | ({"etag": f'"{hash(content.getvalue())}"'} if content else {})


@pytest.fixture
def tracking() -> type[TrackingFileSystem]:
    fsspec.register_implementation("tracking", TrackingFileSystem, clobber=True)
    TrackingFileSystem.store.clear()
    TrackingFileSystem.pseudo_dirs[:] = [""]
    TrackingFileSystem.fault = None
    TrackingFileSystem.num_reads = 0
    return TrackingFileSystem


def test_any_file_system_serves_as_a_weak_store(tracking: type[TrackingFileSystem]) -> None:
    store = open_store("tracking://root/x/", CONFIG)
    assert store.url == "tracking://root/x"
    assert not store.has_atomic_create
    created = store.create("a/b.jpg", b"12345")
    assert store.read("a/b.jpg", if_match=created.etag, max_bytes=5) == b"12345"
    with pytest.raises(ObjectExistsError, match=r"tracking://root/x/a/b\.jpg: already there"):
        store.create("a/b.jpg", b"other")
    with pytest.raises(ObjectTooLargeError):
        store.read("a/b.jpg", max_bytes=4)
    assert tracking.num_reads == 1
    replaced = store.replace("a/b.jpg", b"changed")
    with pytest.raises(ObjectChangedError):
        store.read("a/b.jpg", if_match=created.etag)
    store.create("a-b.jpg", b"")
    assert [info.key for info in store.list()] == ["a-b.jpg", "a/b.jpg"]
    assert [info.key for info in store.list("a")] == ["a/b.jpg"]
    assert replaced.etag == store.stat("a/b.jpg").etag
    store.delete("a/b.jpg")
    store.delete("a/b.jpg")
    for call in (store.read, store.stat):
        with pytest.raises(ObjectMissingError):
            call("a/b.jpg")
    with pytest.raises(ObjectMissingError):
        store.stat("a")
    assert list(store.list("a")) == []
    assert not probe_store(store).atomic


def test_transient_faults_of_a_foreign_client_are_retried(tracking: type[TrackingFileSystem]) -> None:
    policy = RetryPolicy(max_attempts=3, max_retry_s=60, sleep=lambda _: None)
    store = GenericStore(tracking(), "root", url="tracking://root", backend=Backend(), retry=policy)
    store.create("a", b"1")
    tracking.fault = ConnectionResetError(104, "reset")
    with pytest.raises(TransientStorageError, match=r"tracking://root/a: .*reset; gave up after 3 attempts"):
        store.read("a")
    assert tracking.num_reads == 3


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("gs", {"mode": "create", "metadata": {"sha": "1"}}), ("abfs", {"overwrite": False})],
)
def test_conditional_create_of_cloud_clients(
    monkeypatch: pytest.MonkeyPatch, scheme: str, expected: dict[str, Any]
) -> None:
    """What gcsfs and adlfs are asked for; their packages are optional and their services not at hand."""
    asked: dict[str, Any] = {}

    class Client(MemoryFileSystem):
        def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
            if "mode" in options or "overwrite" in options:
                asked.update(options)
                raise FileExistsError(path)

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: (Client(), "bucket"))
    store = open_store(f"{scheme}://bucket", CONFIG)
    assert store.has_atomic_create
    with pytest.raises(ObjectExistsError):
        store.create("a", b"1", metadata={"Sha": "1"})
    assert asked == expected
    assert not open_store(f"{scheme}://bucket", CONFIG, atomic_create=False).has_atomic_create


def test_client_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Any]] = []

    def record(url: str, **options: Any) -> tuple[Any, str]:
        asked.append({"url": url, **options})
        return MemoryFileSystem(), "x"

    monkeypatch.setattr(fsspec.core, "url_to_fs", record)
    config = StorageConfig(anonymous=True, requester_pays=True, endpoint_url="http://h", read_timeout_s=7)
    generic.open_generic("gs://b", "gs", config)
    generic.open_generic("az://c", "az", config)
    generic.open_generic("https://h/a?sig=1", "https", config)
    common = {"skip_instance_cache": True, "use_listings_cache": False}
    assert asked[0] == {"url": "gs://b", "token": "anon", "requester_pays": True, "endpoint_url": "http://h", **common}
    assert asked[1] == {"url": "az://c", "anon": True, **common}
    assert asked[2]["url"] == "https://h/a"
    assert asked[2]["client_kwargs"]["timeout"].sock_read == 7


class HttpError(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("see https://h/a?sig=secret")
        self.__dict__.update(attributes)


class DefaultCredentialsError(Exception):
    pass


class ClientError(Exception):
    """Named as aiohttp's."""


class ClientResponseError(ClientError):
    def __init__(self, status: int) -> None:
        super().__init__("see https://h/a?sig=secret")
        self.status = status


def missing_because_of(cause: Exception) -> FileNotFoundError:
    error = FileNotFoundError("https://h/a?sig=secret")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("x"), ObjectMissingError),
        (missing_because_of(KeyError("x")), ObjectMissingError),
        (missing_because_of(ClientResponseError(404)), ObjectMissingError),
        (missing_because_of(ClientResponseError(403)), ObjectDeniedError),
        (missing_because_of(ClientResponseError(405)), StorageError),
        (missing_because_of(ClientResponseError(503)), TransientStorageError),
        (missing_because_of(ClientError("odd")), StorageError),
        (missing_because_of(TimeoutError()), TransientStorageError),
        (missing_because_of(ConnectionResetError()), TransientStorageError),
        (IsADirectoryError("x"), ObjectMissingError),
        (FileExistsError("x"), ObjectExistsError),
        (PermissionError("x"), ObjectDeniedError),
        (OSError("Forbidden: https://h/x\nno"), ObjectDeniedError),
        (TimeoutError(), TransientStorageError),
        (ConnectionResetError(), TransientStorageError),
        (OSError(5, "disk"), TransientStorageError),
        (OSError("other"), StorageError),
        (NotImplementedError(), StorageError),
        (DefaultCredentialsError("none"), CredentialsError),
        (HttpError(code=401), CredentialsError),
        (HttpError(code="403"), ObjectDeniedError),
        (HttpError(status=404), ObjectMissingError),
        (HttpError(status_code=412), ObjectExistsError),
        (HttpError(status=503), TransientStorageError),
        (HttpError(code=None), StorageError),
    ],
)
def test_errors_of_foreign_clients(error: Exception, expected: type[Exception]) -> None:
    mapped = map_generic_error(error, "gs://b/k")
    assert type(mapped) is expected
    assert str(mapped).startswith("gs://b/k: ")
    assert "secret" not in str(mapped)


class PoliteOverwriter(MemoryStore):
    """A server that ignores If-None-Match, as some S3 look-alikes do."""

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        return self.replace(key, data)


class RacyStore(MemoryStore):
    """A server that looks before it writes, without a lock: with eight creators at once, all of them look first."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = threading.Barrier(8)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        if key.endswith("-0"):
            return super().create(key, data)
        self.gate.wait(10)
        return self.replace(key, data)


def test_probe_of_an_atomic_store(tmp_path: Path) -> None:
    for store in (open_store(str(tmp_path), CONFIG), open_store(f"memory://{tmp_path.name}", CONFIG)):
        probe = probe_store(store)
        assert probe.atomic
        assert "one of 8 concurrent creates succeeded" in probe.reason
        assert list(store.list()) == []


def test_probe_of_weak_stores(tmp_path: Path) -> None:
    probe = probe_store(PoliteOverwriter(f"memory://{tmp_path.name}/1"))
    assert not probe.atomic
    assert probe.overwrites
    racy = RacyStore(f"memory://{tmp_path.name}/2")
    probe = probe_store(racy)
    assert (probe.atomic, probe.overwrites) == (False, False)
    assert probe.reason.startswith("8 of 8 concurrent creates")
    assert list(racy.list()) == []
    declared = open_store(f"memory://{tmp_path.name}/3", CONFIG, atomic_create=False)
    assert not probe_store(declared).atomic


@pytest.mark.parametrize("error", [ObjectDeniedError("no"), StorageError("no bucket"), CredentialsError("expired")])
def test_probe_of_what_cannot_be_written(tmp_path: Path, error: Exception) -> None:
    class Closed(MemoryStore):
        def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
            raise error

        def delete(self, key: str) -> None:
            raise error

    with pytest.raises(DestinationError, match=f"the destination cannot be written: {error}"):
        probe_store(Closed(f"memory://{tmp_path.name}"))
