from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import StorageConfig
from pipeline.errors import (
    DiskFullError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage import durable, open_store
from pipeline.storage.keys import ListingObserver
from pipeline.storage.local import LocalStore
from pipeline.storage.retry import RetryPolicy


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "root"), retry=RetryPolicy(max_attempts=3, max_retry_s=60, sleep=lambda _: None))


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def raising(code: int) -> object:
    def call(*_: object, **__: object) -> None:
        raise fail(code)

    return call


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_urls_of_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (
        str(tmp_path / "a b"),
        "a b",
        "./a b/",
        f"file://{tmp_path}/a%20b",
        f"file://localhost{tmp_path}/a%20b",
    ):
        assert open_store(url, StorageConfig()).url == str(tmp_path / "a b")


def test_etag_is_modification_time_and_size(store: LocalStore) -> None:
    info = store.create("a/b", b"12345")
    found = (Path(store.url) / "a" / "b").stat()
    assert info.etag == f"{found.st_mtime_ns}-5"
    assert info == store.stat("a/b")
    assert info.modified_at is not None
    assert info.modified_at.timestamp() == pytest.approx(found.st_mtime)


def test_create_leaves_one_file_with_ordinary_permissions(store: LocalStore) -> None:
    store.create("a", b"1")
    with pytest.raises(ObjectExistsError):
        store.create("a", b"2")
    assert files(Path(store.url)) == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    found = (Path(store.url) / "a").stat()
    assert stat.S_IMODE(found.st_mode) == 0o666 & ~umask
    assert found.st_nlink == 1


def test_create_is_durable_before_it_returns(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced, and when: the bytes before the name, each new folder's name, the folder after the name."""
    steps: list[str] = []
    sync, link = os.fsync, os.link

    def record_sync(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name.split("-")[0])
        sync(descriptor)

    def record_link(*names: str) -> None:
        steps.append("link")
        link(*names)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "link", record_link)
    store.create("a/b/c", b"1")
    parent = Path(store.url).parent.name.split("-")[0]
    assert steps == [f"sync {parent}", "sync root", "sync a", "sync .hdrfleet", "link", "sync b"]
    steps.clear()
    store.create("a/b/d", b"1")
    assert steps == ["sync .hdrfleet", "link", "sync b"]


def test_folder_of_another_writer_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    store = open_store(str(tmp_path), StorageConfig())
    store.create("a/x", b"1")
    assert synced == [tmp_path, tmp_path / "a"]


def test_removed_folder_is_made_again(store: LocalStore) -> None:
    store.create("a/b/x", b"1")
    store.delete("a/b/x")
    (Path(store.url) / "a" / "b").rmdir()
    (Path(store.url) / "a").rmdir()
    store.create("a/b/x", b"2")
    assert store.read("a/b/x") == b"2"


@pytest.mark.parametrize("function", ["fsync", "write", "link"])
def test_failed_create_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    store.create("before", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, raising(errno.ENOSPC))
        with pytest.raises(DiskFullError, match="No space left"):
            store.create("new", b"data")
    assert files(Path(store.url)) == ["before"]


def test_failed_replace_keeps_the_old_bytes(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.replace("a", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", raising(errno.EDQUOT))
        with pytest.raises(DiskFullError):
            store.replace("a", b"new")
    assert store.read("a") == b"old"
    assert files(Path(store.url)) == ["a"]


def test_short_writes_are_completed(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    store.create("a", b"0123456789")
    assert store.read("a") == b"0123456789"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, ObjectDeniedError),
        (errno.EROFS, ObjectDeniedError),
        (errno.ENAMETOOLONG, StorageError),
        (errno.EMFILE, StorageError),
        (errno.ESTALE, TransientStorageError),
        (errno.EIO, TransientStorageError),
    ],
)
def test_error_mapping(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    monkeypatch.setattr(os, "open", raising(code))
    for call in (store.read, lambda key: store.create(key, b"")):
        with pytest.raises(expected) as caught:
            call("a")
        assert type(caught.value) is expected
        assert f"{store.url}/a" in str(caught.value)


def test_transient_faults_are_retried(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [fail(errno.ESTALE), fail(errno.EIO)]
    real = os.fsync

    def flaky(descriptor: int) -> None:
        if faults:
            raise faults.pop()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", flaky)
    store.create("a", b"1")
    assert store.read("a") == b"1"
    assert not faults


def test_name_too_long(store: LocalStore) -> None:
    with pytest.raises(StorageError, match="longer than this file system allows"):
        store.create("x" * 300, b"")
    assert files(Path(store.url)) == []


def test_nothing_is_written_through_a_linked_folder(store: LocalStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store.create("images/a", b"1")
    (Path(store.url) / "images/link").symlink_to(elsewhere)
    (Path(store.url) / "dangling").symlink_to(tmp_path / "nowhere")
    for key in ("images/link/x", "images/link/deep/x", "dangling/x"):
        for write in (store.create, store.replace):
            with pytest.raises(StorageError, match="a symbolic link is in the way of the folder"):
                write(key, b"2")
    assert files(elsewhere) == []
    assert not (tmp_path / "nowhere").exists()


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    open_store(str(tmp_path / "link"), StorageConfig()).create("a/b", b"1")
    assert (tmp_path / "real/a/b").read_bytes() == b"1"


def test_file_in_the_way_of_a_folder(store: LocalStore) -> None:
    store.create("a", b"1")
    for write in (store.create, store.replace):
        with pytest.raises(StorageError, match="in the way"):
            write("a/b", b"2")
    with pytest.raises(ObjectMissingError):
        store.read("a/b")
    store.create("folder/x", b"1")
    with pytest.raises(ObjectMissingError):
        store.read("folder")
    with pytest.raises(StorageError, match="cannot be written"):
        store.replace("folder", b"2")


def test_lost_answer_to_a_link_is_a_success(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_twice(*names: str) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", link_twice)
    store.create("a", b"1")
    assert store.read("a") == b"1"


@pytest.mark.parametrize("has_renameat2", [True, False])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, has_renameat2: bool
) -> None:
    monkeypatch.setattr(os, "link", raising(code))
    if not has_renameat2:
        monkeypatch.setattr(durable, "_libc_renameat2", lambda: None)
    assert store.has_atomic_create
    with caplog.at_level(logging.WARNING):
        store.create("a", b"1")
        store.create("b", b"1")
    assert not store.has_atomic_create
    assert caplog.text.count("creating is not atomic") == 1
    with pytest.raises(ObjectExistsError):
        store.create("a", b"2")
    assert store.read("a") == b"1"
    assert files(Path(store.url)) == ["a", "b"]


def test_file_that_changes_while_it_is_read(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("a", b"1" * 100)
    path = Path(store.url) / "a"
    real = os.fstat
    seen: list[int] = []

    def append_between(descriptor: int) -> os.stat_result:
        result = real(descriptor)
        if result.st_size >= 100 and not seen:
            seen.append(descriptor)
            with path.open("ab") as file:
                file.write(b"more")
        return result

    monkeypatch.setattr(os, "fstat", append_between)
    with pytest.raises(ObjectChangedError, match="changed while it was read"):
        store.read("a")


def test_only_regular_files_are_objects(store: LocalStore, tmp_path: Path) -> None:
    root = Path(store.url)
    store.create("real.jpg", b"pixels")
    os.mkfifo(root / "pipe.jpg")
    (root / "link.jpg").symlink_to("real.jpg")
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "folder-link").symlink_to(root)
    (root / f"{durable.TEMP_PREFIX}1-abc").write_bytes(b"torn")
    assert [info.key for info in store.list()] == ["link.jpg", "real.jpg"]
    assert store.read("link.jpg") == b"pixels"
    for key in ("pipe.jpg", "dangling.jpg", "folder-link"):
        with pytest.raises(ObjectMissingError):
            store.read(key)
        with pytest.raises(ObjectMissingError):
            store.stat(key)


def test_a_stray_is_removed_by_its_own_name_and_through_no_link(store: LocalStore, tmp_path: Path) -> None:
    root, elsewhere = Path(store.url), tmp_path / "elsewhere"
    store.create("folder/real.jpg", b"pixels")
    (root / "folder/bell\x07.jpg").write_bytes(b"x")
    elsewhere.mkdir()
    (elsewhere / "bell\x07.jpg").write_bytes(b"x")
    (root / "link").symlink_to(elsewhere)
    store.remove_stray("folder/bell\x07.jpg")
    store.remove_stray("folder/bell\x07.jpg")
    with pytest.raises(StorageError):
        store.remove_stray("link/bell\x07.jpg")
    with pytest.raises(StorageError):
        store.remove_stray("folder")
    assert (elsewhere / "bell\x07.jpg").exists()
    store.remove_stray("link")
    assert [path.name for path in root.iterdir()] == ["folder"]
    assert [path.name for path in (root / "folder").iterdir()] == ["real.jpg"]


def test_temporary_names_are_told_to_who_asks_and_folders_have_none(store: LocalStore) -> None:
    class Asking(ListingObserver):
        def temporary(self, name: str) -> None:
            told.append(name)

    told: list[str] = []
    folder = Path(store.url) / f"{durable.TEMP_PREFIX}folder"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"x")
    (folder / f"{durable.TEMP_PREFIX}1-ab").write_bytes(b"x")
    assert [info.key for info in store.list("", Asking())] == [f"{folder.name}/a.jpg"]
    assert told == [f"{folder.name}/{durable.TEMP_PREFIX}1-ab"]
    assert [info.key for info in store.list()] == [f"{folder.name}/a.jpg"]


def test_undecodable_names_are_left_out_aloud(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    store.create("good.jpg", b"1")
    root = Path(store.url)
    try:
        (root / os.fsdecode(b"bad\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes only valid Unicode")
    folder = root / os.fsdecode(b"folder\xfe")
    folder.mkdir()
    (folder / "x.jpg").touch()
    with caplog.at_level(logging.WARNING):
        assert [info.key for info in store.list()] == ["good.jpg"]
    assert "2 object(s) left out" in caplog.text
    assert r"bad\udcff.jpg" in caplog.text


def test_folder_without_access_is_an_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("a/x", b"1")
    store.create("lost+found/x", b"1")
    real = os.scandir

    def guarded(path: os.PathLike[str]) -> object:
        if Path(path).name in closed:
            raise fail(errno.EACCES)
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    closed = {"lost+found"}
    assert [info.key for info in store.list()] == ["a/x"]
    closed = {"a"}
    with pytest.raises(ObjectDeniedError, match="root/a: Permission denied"):
        list(store.list())


def test_list_is_lazy(store: LocalStore) -> None:
    for folder in ("a", "b"):
        store.create(f"{folder}/x", b"1")
    listing = store.list()
    assert next(listing).key == "a/x"
    store.create("b/w", b"1")
    assert [info.key for info in listing] == ["b/w", "b/x"]


segment = st.text("ab-./0é\U0001f600", min_size=1, max_size=4).filter(lambda text: text.strip("./") and "/" not in text)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.lists(segment, min_size=1, max_size=3).map("/".join), max_size=12))
def test_list_order_is_that_of_the_bytes(tmp_path_factory: pytest.TempPathFactory, keys: set[str]) -> None:
    store = LocalStore(str(tmp_path_factory.mktemp("order")), retry=RetryPolicy(max_attempts=1, max_retry_s=1))
    kept = set()
    for key in keys:
        try:
            store.create(key, b"")
        except StorageError:  # a file where a folder is needed, or the reverse
            continue
        kept.add(key)
    assert [info.key for info in store.list()] == sorted(kept, key=str.encode)


def test_delete_is_silent_about_what_is_gone(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.delete("never/there")
    store.create("a", b"1")
    monkeypatch.setattr(os, "unlink", raising(errno.EACCES))
    with pytest.raises(ObjectDeniedError):
        store.delete("a")
