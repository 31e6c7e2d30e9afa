"""What a worker and its decoder children say to each other, and the memory that they share.

A message is one JSON object behind its length (32 bits, little endian), over a stream socket; file descriptors travel
beside it. JSON and not pickle: the child has read hostile bytes, and what it answers must not run here. Images
travel in memory that both share.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import LdrInfo

Message = dict[str, Any]

# What a decoder may take beyond its libraries: so much in any case, and so many times the file and its pixels. A still
# image takes 1 to 3 times its pixels, an animated WebP 7.3 times.
_HEADROOM_BYTES = 256 * 2**20
_TIMES_FILE = 4
_TIMES_PIXELS = 12

_LENGTH_BYTES = 4
_MAX_MESSAGE_BYTES = 2**26
_MAX_FDS = 2
# 32 megapixels of 8 bits: larger images pay for fresh pages, and their memory is not held between images.
_KEPT_BYTES = 128 * 2**20
_LEAST_BYTES = 2**20


def private_bytes_allowed(file_bytes: int, pixels_bytes: int = 0) -> int:
    """Private memory that a child may take for one image, beyond its libraries; without pixels, for its header."""
    return _HEADROOM_BYTES + _TIMES_FILE * file_bytes + _TIMES_PIXELS * pixels_bytes


def bytes_with_child(file_bytes: int, pixels_bytes: int = 0) -> int:
    """What one image can take beside the worker's own copies: the child's memory, and what both share."""
    return private_bytes_allowed(file_bytes, pixels_bytes) + file_bytes + pixels_bytes


def send_message(connection: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError where the other side is gone, and TimeoutError."""
    body = json.dumps(message).encode()
    frame = len(body).to_bytes(_LENGTH_BYTES, "little") + body
    sent = socket.send_fds(connection, [frame], list(fds)) if fds else 0
    connection.sendall(frame[sent:])


def receive_message(connection: socket.socket, timeout_s: float | None = None) -> tuple[Message, list[int]]:
    """Receive one message and the descriptors beside it, which are the caller's to close.

    Raises EOFError where the other side is gone, TimeoutError after `timeout_s` in all, ValueError for no message.
    """
    deadline = None if timeout_s is None else monotonic() + timeout_s
    _set_timeout(connection, deadline)
    head, fds, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, _MAX_FDS)
    try:
        return _receive_body(connection, head, deadline), list(fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _receive_body(connection: socket.socket, head: bytes, deadline: float | None) -> Message:
    head += _receive(connection, _LENGTH_BYTES - len(head), deadline) if head else b""
    if not head:
        raise EOFError("the other side closed the connection")
    length = int.from_bytes(head, "little")
    if length > _MAX_MESSAGE_BYTES:
        msg = f"a message of {length} bytes"
        raise ValueError(msg)
    message = json.loads(_receive(connection, length, deadline))
    if not isinstance(message, dict):
        msg = "a message that is no object"
        raise TypeError(msg)
    return message


def _receive(connection: socket.socket, num_bytes: int, deadline: float | None) -> bytes:
    parts = []
    while num_bytes:
        _set_timeout(connection, deadline)
        part = connection.recv(num_bytes)
        if not part:
            raise EOFError("the other side closed the connection within a message")
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _set_timeout(connection: socket.socket, deadline: float | None) -> None:
    # Zero would mean "do not wait" and raise another error.
    connection.settimeout(None if deadline is None else max(deadline - monotonic(), 1e-3))


class SharedMemory:
    """Memory that a worker shares with one of its children: an anonymous file, mapped on both sides.

    It is used for image after image, because fresh pages cost more than decoding does. It is no file of /dev/shm, which
    containers keep small. Its size is sealed: a child that cut it short would kill whoever has it mapped.
    """

    def __init__(self, fd: int, num_bytes: int) -> None:
        """Take over the descriptor of a file of this size."""
        self.fd = fd
        self.num_bytes = num_bytes
        self.buffer = mmap.mmap(fd, num_bytes)

    @classmethod
    def create(cls, num_bytes: int) -> SharedMemory:
        """Make one for at least `num_bytes`."""
        size = max(_LEAST_BYTES, 1 << (num_bytes - 1).bit_length())
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("hdrfleet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        try:
            os.ftruncate(fd, size)
            if hasattr(fcntl, "F_ADD_SEALS"):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return cls(fd, size)
        except BaseException:
            os.close(fd)
            raise

    @property
    def is_kept(self) -> bool:
        """Whether it is kept for the next image; what is larger is given back after each."""
        return self.num_bytes <= _KEPT_BYTES

    def close(self) -> None:
        """Give it back; no array may be over it any more."""
        with suppress(BufferError):  # an array that a traceback keeps alive: it goes when that does
            self.buffer.close()
        os.close(self.fd)


def pixels_bytes(info: LdrInfo) -> int:
    """Bytes that an image's pixels and alpha take in shared memory; room for alpha is always there."""
    return info.width * info.height * 4 * (info.bit_depth // 8)


def pixel_arrays(memory: SharedMemory, info: LdrInfo) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views of pixels (H, W, 3) and alpha (H, W), uint8 or uint16, in shared memory of at least `pixels_bytes`."""
    samples = np.frombuffer(memory.buffer, np.uint8 if info.bit_depth == 8 else np.uint16)
    shape = (info.height, info.width)
    num_color, num_alpha = 3 * shape[0] * shape[1], shape[0] * shape[1]
    return samples[:num_color].reshape(*shape, 3), samples[num_color : num_color + num_alpha].reshape(shape)
