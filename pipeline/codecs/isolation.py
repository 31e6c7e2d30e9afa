"""Decode where a crash costs an image and not the worker: in child processes with limits and deadlines.

A child is started when the first image needs one (about half a second) and serves many. When it dies, asks for too
much memory or passes its deadline, it is replaced, and the image gets an error whose row is quarantined. A crash in a
child that had decoded other images before is tried once more in a fresh one: an earlier image may have damaged its
heap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from pipeline.codecs.decoder_process import DecoderProcess
from pipeline.codecs.decoder_wire import bytes_with_child
from pipeline.codecs.formats import ImageFormat, sniff_format
from pipeline.codecs.ldr import LdrImage, decode_ldr, estimate_decoded_bytes, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import (
    DecoderCrashError,
    DecoderOutOfMemoryError,
    ImageError,
    InterruptedJobError,
    QuarantinedError,
    WorkerLostError,
)
from pipeline.records import LdrInfo

_IN_PROCESS = frozenset({ImageFormat.JPEG, ImageFormat.PNG})

T = TypeVar("T")


class OpenedImage(Protocol):
    """An image whose header has been read."""

    @property
    def info(self) -> LdrInfo:
        """What `probe_ldr` says of it."""
        ...

    @property
    def child_bytes(self) -> int:
        """What `decode` can take outside of this process and in memory that is shared; 0 where it decodes here."""
        ...

    def decode(self) -> LdrImage:
        """What `decode_ldr` makes of it."""
        ...


class ImageDecoder:
    """Decodes each image where it belongs: JPEG and PNG here, everything else (or all of it) in a child.

    Safe to call from several threads at once; each has a child of its own while it decodes. `close` ends the children,
    also in the middle of an image.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._pool = DecoderPool()

    def child_bytes(self, data: bytes) -> int:
        """What `open` can take outside of this process and in memory that is shared; 0 where it reads here."""
        return bytes_with_child(len(data)) if self._is_for_child(data) else 0

    @contextmanager
    def open(self, data: bytes) -> Iterator[OpenedImage]:
        """Read the header. This and `decode` raise the errors of `decode_ldr`, and those of a child.

        Those are DecoderCrashError, DecoderOutOfMemoryError and DecoderHangError for the image, WorkerLostError where
        no child can be started, and InterruptedJobError after `close`.
        """
        if self._is_for_child(data):
            image = _ChildsImage(self._pool, self._config, data, str(sniff_format(data)))
            with image:
                yield image
        else:
            yield _OwnImage(data, self._config)

    def _is_for_child(self, data: bytes) -> bool:
        kind = sniff_format(data)
        is_readable = kind is not None and len(data) <= self._config.max_bytes
        return is_readable and (self._config.isolate or kind not in _IN_PROCESS)

    def close(self) -> None:
        """End the children, within seconds. May be called more than once, and from another thread."""
        self._pool.close()


class _OwnImage:
    child_bytes = 0

    def __init__(self, data: bytes, config: DecodeConfig) -> None:
        self._data = data
        self._config = config
        self.info = probe_ldr(data, config)

    def decode(self) -> LdrImage:
        return decode_ldr(self._data, self._config)


class _ChildsImage:
    """An image in a child, which belongs to it until the end of the `with` block."""

    def __init__(self, pool: DecoderPool, config: DecodeConfig, data: bytes, kind: str) -> None:
        self._pool = pool
        self._config = config
        self._data = data
        self._kind = kind
        self._child: DecoderProcess | None = None

    def __enter__(self) -> None:
        try:
            self.info = self._try(lambda child: child.probe(self._kind, self._config))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc_info: object) -> None:
        if self._child is not None:
            self._pool.give_back(self._child)
            self._child = None

    @property
    def child_bytes(self) -> int:
        return bytes_with_child(len(self._data), estimate_decoded_bytes(self.info))

    def decode(self) -> LdrImage:
        return self._try(lambda child: child.decode(self._kind, self._config, self.info))

    def _try(self, ask: Callable[[DecoderProcess], T]) -> T:
        """Ask the child; where it dies and this may be an earlier image's doing, ask a fresh one."""
        try:
            return self._ask(ask)
        except (DecoderCrashError, DecoderOutOfMemoryError):
            if not self._was_used:
                raise
        return self._ask(ask, fresh=True)

    def _ask(self, ask: Callable[[DecoderProcess], T], *, fresh: bool = False) -> T:
        if self._child is None:
            self._child = self._pool.start() if fresh else self._pool.take()
            self._child.load(self._data)
        self._was_used = self._child.num_images > 1
        try:
            return ask(self._child)
        except BaseException as error:
            if isinstance(error, QuarantinedError) or not isinstance(error, ImageError):
                self._pool.drop(self._child)
                self._child = None
                self._pool.refuse_if_closed()
            raise


class DecoderPool:
    """The decoder children of one worker: as many as threads decode at once, started when they are needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[DecoderProcess] = []
        self._all: set[DecoderProcess] = set()
        self._is_closed = False

    def take(self) -> DecoderProcess:
        """A child for one image: one that waits for work, or a new one. To be given back or dropped."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.start()

    def start(self) -> DecoderProcess:
        """Start a child. Raises WorkerLostError where that fails, InterruptedJobError after `close`."""
        self.refuse_if_closed()
        try:
            child = DecoderProcess()
        except OSError as error:
            raise WorkerLostError(f"no decoder process can be started: {error}") from error
        with self._lock:
            self._all.add(child)
        try:
            self.refuse_if_closed()
            child.wait_until_ready()
        except QuarantinedError as error:
            self.drop(child)
            self.refuse_if_closed()
            raise WorkerLostError(f"no decoder process can be started: {error}") from error
        except BaseException:
            self.drop(child)
            raise
        return child

    def give_back(self, child: DecoderProcess) -> None:
        """Take back a child that is sound."""
        child.unload()
        with self._lock:
            if not self._is_closed:
                self._idle.append(child)
                return
        self.drop(child)

    def drop(self, child: DecoderProcess) -> None:
        """End a child that is of no more use."""
        with self._lock:
            self._all.discard(child)
        child.end()

    def refuse_if_closed(self) -> None:
        """Raise InterruptedJobError after `close`."""
        if self._is_closed:
            raise InterruptedJobError("stopped while an image was decoded")

    def close(self) -> None:
        """End all children and refuse further images; who waits for one gets InterruptedJobError."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = self._all.difference(idle)
        for child in busy:
            child.kill()  # the thread that waits for it ends it
        for child in idle:
            self.drop(child)
