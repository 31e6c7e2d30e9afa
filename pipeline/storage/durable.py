"""Durable, atomic file creation on POSIX file systems.

Nothing is ever opened under its final name: a crash leaves either the whole file or none, plus at most a temporary
file whose name starts with `TEMP_PREFIX`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TEMP_PREFIX = ".hdrfleet-tmp-"

_UNSUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_NO_LINKS = (_UNSUPPORTED - {errno.EINVAL}) | {errno.EPERM}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_MAX_KNOWN_FOLDERS = 100_000


class LinksUnsupportedError(OSError):
    """This file system has no hard links."""


def link_new(temporary: Path, final: Path) -> None:
    """Give the file at `temporary` the name `final` as well, unless something already has it.

    Raises FileExistsError; LinksUnsupportedError where the file system cannot link.
    """
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        # NFS repeats a link whose answer was lost and then meets its own success.
        if not _is_same_file(temporary, final):
            raise
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise LinksUnsupportedError(error.errno, error.strerror) from error
        raise


def rename_new(temporary: Path, final: Path) -> None:
    """Rename without overwriting, for file systems that cannot link.

    Linux's `renameat2(RENAME_NOREPLACE)` decides in the kernel, but file systems in user space and network shares may
    look first and rename later. Where even that is missing, this process looks first. Neither counts as atomic.
    Raises FileExistsError.
    """
    renameat2 = _libc_renameat2()
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(final), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code), str(final))
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    temporary.rename(final)


@contextlib.contextmanager
def temporary_file(folder: Path, data: bytes) -> Iterator[tuple[Path, os.stat_result]]:
    """Write `data` durably to a temporary file in `folder`; yields (path, stat) and removes what is still there."""
    path = folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            stat = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        yield path, stat
    finally:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. File systems that cannot sync a folder are left to their own promises."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def unlink_below(root: Path, name: str) -> None:
    """Remove the entry `name` (with slashes) below `root`, and make that durable; no link on the way is followed.

    Takes any bytes that a name can have. Raises OSError: also where a folder on the way is a link, or it is a folder.
    """
    *folders, last = name.split("/")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.unlink(last, dir_fd=descriptor)
        _sync(descriptor)
    finally:
        os.close(descriptor)


class FolderMaker:
    """Makes folders below one root and makes their names durable, once per folder and process.

    A folder that another writer has just made may not be durable yet, so the first use here syncs its parent too.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[Path] = set()
        self._lock = threading.Lock()

    def make(self, folder: Path) -> None:
        """Make `folder` (the root, or below it) and its parents.

        Raises NotADirectoryError where a file is in the way, or below the root a symbolic link: what is written
        through one lies elsewhere, and listings, which do not enter links, would miss it.
        """
        with self._lock:
            if folder in self._known:
                return
        parent = folder.parent
        if folder != self._root:
            self.make(parent)
        elif not parent.is_dir():
            FolderMaker(parent).make(parent)
        if folder != self._root and folder.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "a symbolic link is in the way of the folder", str(folder))
        # Nothing is known of folders above the root: they are synced only when a name in them is new.
        if _mkdir(folder) or folder != self._root:
            sync_folder(parent)
        with self._lock:
            if len(self._known) >= _MAX_KNOWN_FOLDERS:
                self._known.clear()
            self._known.add(folder)

    def forget(self) -> None:
        """Look again next time: a folder has gone."""
        with self._lock:
            self._known.clear()


def _mkdir(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way of the folder", str(folder)) from None
        return False
    return True


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samestat(first.lstat(), second.lstat())
    except OSError:
        return False


@functools.cache
def _libc_renameat2() -> Callable[..., int] | None:
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    found: Callable[..., int] = function
    return found
