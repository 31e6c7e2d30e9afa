"""A folder of this machine, or of a file system mounted on it, as an object store."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat as stat_module
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pipeline.errors import (
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectTooLargeError,
    StorageError,
)
from pipeline.faults import fault_point
from pipeline.storage import durable
from pipeline.storage.base import ObjectInfo
from pipeline.storage.keys import ListingObserver, SkippedNames, check_key, check_prefix, join_key
from pipeline.storage.os_errors import map_os_error
from pipeline.storage.retry import RetryPolicy

T = TypeVar("T")

# Made by mkfs at the root of ext file systems, readable by root alone, and never holds anybody's images.
_UNREADABLE_BY_DESIGN = "lost+found"

logger = logging.getLogger(__name__)


class LocalStore:
    """Objects are regular files; an etag is `<mtime_ns>-<size>`.

    Symbolic links to files are followed; links to folders are not entered by `list`, so loops cannot arise. The etag
    misses a change that keeps the size within one tick of the file system's clock. Metadata has no place here and is
    dropped. Where the file system has no hard links (some FUSE and SMB mounts) `create` falls back to a rename that
    does not overwrite, and `has_atomic_create` is False from then on.
    """

    def __init__(self, root: str, *, retry: RetryPolicy, atomic_create: bool | None = None) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow symbolic links
        self._retry = retry
        self._has_atomic_create = atomic_create is not False
        self._can_link = True
        self._folders = durable.FolderMaker(self._root)

    @property
    def url(self) -> str:
        """The absolute path of the folder."""
        return str(self._root)

    @property
    def has_atomic_create(self) -> bool:
        """True until the file system has refused a hard link, or where it was declared weak."""
        return self._has_atomic_create

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """See ObjectStore. ObjectChangedError also when the file is written to while it is read."""
        path = self._path(key)
        return self._run(lambda: _read(path, if_match, max_bytes), path)

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """See ObjectStore."""
        path = self._path(key)
        return self._run(lambda: _read_range(path, start, num_bytes), path)

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        path = self._path(key)
        return _info(key, self._run(lambda: _regular(path.stat()), path))

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        """See ObjectStore. Holds the names of one folder per level in memory.

        Raises ObjectDeniedError at a folder that may not be read, rather than leave it out silently; `observer` may
        know that it can be done without.
        """
        skipped = SkippedNames(observer)
        told = observer or ListingObserver()
        pending = [self._entries(check_prefix(prefix), told)]
        while pending:
            key, is_folder = next(pending[-1], ("", False))
            if not key:
                pending.pop()
            elif is_folder:
                pending.append(self._entries(key, told))
            elif skipped.accepts(key) and (info := self._listed_info(key)):
                yield info
        skipped.warn(self.url)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:  # noqa: ARG002
        """See ObjectStore. A temporary file, fsync, link() to the final name, fsync of the folder."""
        return self._write(key, data, self._name_new)

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. A temporary file, fsync, rename, fsync of the folder."""
        return self._write(key, data, _rename_over)

    def unfinished(self, prefix: str = "") -> Iterator[str]:
        """See ObjectStore: temporary files."""
        for folder, _, names in os.walk(self._root / check_prefix(prefix), onerror=_raise_unless_missing):
            for name in sorted(names):
                if _is_temporary(name):
                    yield (Path(folder) / name).relative_to(self._root).as_posix()

    def discard_unfinished(self, key: str) -> None:
        """See ObjectStore."""
        if _is_temporary(key.rpartition("/")[2]):
            self.delete(key)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        path = self._path(key)

        def unlink() -> None:
            path.unlink()
            durable.sync_folder(path.parent)

        with contextlib.suppress(ObjectMissingError):
            self._run(unlink, path)

    def remove_stray(self, name: str) -> None:
        """See RemovesStrays."""

        def unlink() -> None:
            with contextlib.suppress(FileNotFoundError):
                durable.unlink_below(self._root, name)

        self._run(unlink, self._root / name)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _run(self, operation: Callable[[], T], path: Path) -> T:
        def mapped() -> T:
            try:
                return operation()
            except OSError as error:
                raise map_os_error(error, str(path)) from error

        return self._retry.call(mapped)

    def _entries(self, folder: str, observer: ListingObserver) -> Iterator[tuple[str, bool]]:
        """Yield (key, is_folder) of one folder, in the byte order of the full keys below it."""
        path = self._root / folder

        def scan() -> dict[str, str | None]:
            with os.scandir(path) as entries:
                return {entry.name: _listed_name(entry) for entry in entries}

        try:
            named = self._run(scan, path)
        except ObjectMissingError:
            return
        except ObjectDeniedError:
            if path.name == _UNREADABLE_BY_DESIGN or observer.can_do_without(folder):
                return
            raise
        for name in sorted((name for name, listed in named.items() if not listed), key=os.fsencode):
            observer.special(join_key(folder, name))
        for name in sorted(filter(None, named.values()), key=os.fsencode):
            if _is_temporary(name) and not name.endswith("/"):
                observer.temporary(join_key(folder, name))
            else:
                yield join_key(folder, name.removesuffix("/")), name.endswith("/")

    def _listed_info(self, key: str) -> ObjectInfo | None:
        """Return None for a file that has gone since its folder was read."""
        try:
            return _info(key, _regular((self._root / key).stat()))  # without the cost of a retry loop per file
        except FileNotFoundError:
            return None
        except OSError:
            return self.stat(key)

    def _write(self, key: str, data: bytes, give_name: Callable[[Path, Path], None]) -> ObjectInfo:
        path = self._path(key)

        def write() -> os.stat_result:
            try:
                return self._write_once(path, data, give_name)
            except FileNotFoundError:  # a folder that was known to be there has been removed
                self._folders.forget()
                return self._write_once(path, data, give_name)

        def mapped() -> os.stat_result:
            try:
                return write()
            except FileExistsError as error:
                msg = f"{path}: already there"
                raise ObjectExistsError(msg) from error
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                msg = f"{path}: cannot be written: {error.strerror}"
                raise StorageError(msg) from error

        return _info(key, self._run(mapped, path))

    def _write_once(self, path: Path, data: bytes, give_name: Callable[[Path, Path], None]) -> os.stat_result:
        self._folders.make(path.parent)
        with durable.temporary_file(path.parent, data) as (temporary, stat):
            fault_point("file.written", path.name)
            give_name(temporary, path)
            fault_point("file.named", path.name)
        durable.sync_folder(path.parent)
        return stat

    def _name_new(self, temporary: Path, final: Path) -> None:
        if self._can_link:
            try:
                durable.link_new(temporary, final)
            except durable.LinksUnsupportedError as error:
                logger.warning("%s: no hard links here (%s); creating is not atomic", self.url, error.strerror)
                self._can_link = self._has_atomic_create = False
            else:
                return
        durable.rename_new(temporary, final)


def _read(path: Path, if_match: str | None, max_bytes: int | None) -> bytes:
    # O_NONBLOCK: opening a named pipe must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        before = _regular(os.fstat(descriptor))
        if if_match and if_match != _etag(before):
            msg = f"{path}: changed; its etag is {_etag(before)}, not {if_match}"
            raise ObjectChangedError(msg)
        if max_bytes is not None and before.st_size > max_bytes:
            msg = f"{path}: {before.st_size} bytes, more than the limit of {max_bytes}"
            raise ObjectTooLargeError(msg)
        data = file.read(before.st_size)
        after = os.fstat(descriptor)
    if len(data) != before.st_size or _etag(after) != _etag(before):
        msg = f"{path}: changed while it was read"
        raise ObjectChangedError(msg)
    return data


def _read_range(path: Path, start: int, num_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _regular(os.fstat(descriptor))
        _drop_cached(descriptor)
        file.seek(start)
        return file.read(num_bytes)


def _drop_cached(descriptor: int) -> None:
    """Let what is read next come from the disk: the cache answers for a disk that has been unplugged as well."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # advice, which not every file system takes
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _regular(stat: os.stat_result) -> os.stat_result:
    if not stat_module.S_ISREG(stat.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return stat


def _raise_unless_missing(error: OSError) -> None:
    path = Path(os.fsdecode(error.filename or ""))
    mapped = map_os_error(error, str(path))
    is_by_design = isinstance(mapped, ObjectDeniedError) and path.name == _UNREADABLE_BY_DESIGN
    if not is_by_design and not isinstance(mapped, ObjectMissingError):
        raise mapped from error


def _rename_over(temporary: Path, final: Path) -> None:
    temporary.replace(final)


def _is_temporary(name: str) -> bool:
    return name.startswith(durable.TEMP_PREFIX)


def _listed_name(entry: os.DirEntry[str]) -> str | None:
    """Name a folder with a slash behind it, as its keys sort (`a-b` < `a.jpg` < `a/x`); None for what is no object."""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    try:
        return entry.name if entry.is_file() else None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns}-{stat.st_size}"


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    modified_at = None
    with contextlib.suppress(OverflowError, ValueError, OSError):  # a clock that was set beyond the year 9999
        modified_at = datetime.fromtimestamp(stat.st_mtime, UTC)
    return ObjectInfo(key=key, size_bytes=stat.st_size, etag=_etag(stat), modified_at=modified_at)
