"""The process that decodes untrusted images: it reads headers and pixels, one image at a time, and nothing else.

`pipeline.codecs.isolation` starts it. Before the first image it gives up what it does not need: it can write no
bytes to files and no core dump, its memory is limited for each image by what that image declares, the kernel takes it
first when the machine runs out of memory, and it ends with its parent, even within a decoder that hangs. Its
environment holds no credentials.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.codecs.decoder_wire import (
    SharedMemory,
    pixel_arrays,
    private_bytes_allowed,
    receive_message,
    send_message,
)
from pipeline.codecs.ldr import LdrImage, decode_ldr, estimate_decoded_bytes, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import ImageError
from pipeline.records import LdrInfo

FAULTS_VARIABLE = "HDRFLEET_DECODER_FAULTS"


def main() -> None:
    """Serve until the parent is gone. Arguments: the descriptors of the connection and of the life line."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    _end_with_parent(int(sys.argv[2]))
    server = _Server(_confine())
    send_message(connection, {"ready": True})
    while True:
        try:
            request, fds = receive_message(connection)
        except (EOFError, OSError):
            os._exit(0)
        server.take_over(request, fds)
        send_message(connection, server.answer(request))
        server.give_back(request)


class _Server:
    def __init__(self, base_bytes: int) -> None:
        self._base_bytes = base_bytes
        self._memories: dict[str, SharedMemory] = {}
        self._number, self._data = 0, b""

    def take_over(self, request: Mapping[str, Any], fds: list[int]) -> None:
        """Map the memory whose descriptors came with the request."""
        for fd, (name, num_bytes) in zip(fds, request["memories"].items(), strict=True):
            if name in self._memories:
                self._memories.pop(name).close()
            self._memories[name] = SharedMemory(fd, num_bytes)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Read the header, and decode if it is asked for. A probe always comes before its decode."""
        limits = DecodeConfig(max_bytes=request["max_bytes"], max_pixels=request["max_pixels"])
        num_bytes = request["num_bytes"]
        try:
            _limit_memory(self._base_bytes + private_bytes_allowed(num_bytes))
            if self._number != request["number"]:
                self._number, self._data = request["number"], self._memories["file"].buffer[:num_bytes]
            info = probe_ldr(self._data, limits)
            if not request["wants_pixels"]:
                return {"info": asdict(info)}
            _limit_memory(self._base_bytes + private_bytes_allowed(num_bytes, estimate_decoded_bytes(info)))
            _commit_fault(self._data)
            return _hand_over(decode_ldr(self._data, limits), self._memories["pixels"], info)
        except MemoryError:
            # The fault of the image, unlike in the worker: here the limit follows from what the image declares.
            return {"out_of_memory": True}
        except ImageError as error:
            return {"error": error.code, "message": str(error)}

    def give_back(self, request: Mapping[str, Any]) -> None:
        """Drop what no further request needs."""
        if request["wants_pixels"]:
            self._number, self._data = 0, b""
        for name in [name for name, memory in self._memories.items() if not memory.is_kept]:
            self._memories.pop(name).close()


def _hand_over(image: LdrImage, memory: SharedMemory, probed: LdrInfo) -> dict[str, Any]:
    made, said = ((info.width, info.height, info.bit_depth) for info in (image.info, probed))
    if made != said:
        msg = f"the header said {said} (width, height, bits), the image is {made}"
        raise AssertionError(msg)
    pixels, alpha = pixel_arrays(memory, image.info)
    pixels[...] = image.pixels
    if image.alpha is not None:
        alpha[...] = image.alpha
    return {"has_alpha": image.alpha is not None}


def _end_with_parent(life_fd: int) -> None:
    """Die by SIGIO when the parent's end of this pipe closes. The kernel does it: a decoder may hold the GIL."""
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life_fd], [], [], 0)[0]:
        os._exit(0)  # it was closed before the kernel watched


def _confine() -> int:
    """Give up rights, and return the bytes of private memory that are in use already."""
    # A decoder that prints without end would block once nobody reads.
    os.set_blocking(sys.stderr.fileno(), False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    return _private_bytes()


def _private_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmData:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def _limit_memory(num_bytes: int) -> None:
    """Limit private memory. Memory that is shared with the parent does not count: it is as large as it has to be."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# Faults that tests put into images. They cannot happen unless the environment asks for them.


def _commit_fault(data: bytes) -> None:
    if os.environ.get(FAULTS_VARIABLE):
        for marker, act in _FAULTS.items():
            if marker in data:
                act()


def _allocate() -> None:
    blocks = []
    while True:
        blocks.append(b"\1" * 2**24)


def _sleep() -> None:
    while True:
        # Holding the GIL, as a decoder may.
        ctypes.PyDLL(None).sleep(3600)


_FAULTS: Mapping[bytes, Callable[[], object]] = {
    b"hdrfleet-fault:abort": os.abort,
    b"hdrfleet-fault:segfault": lambda: ctypes.memset(0, 1, 1),
    b"hdrfleet-fault:kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"hdrfleet-fault:exit": lambda: os._exit(7),
    b"hdrfleet-fault:allocate": _allocate,
    b"hdrfleet-fault:sleep": _sleep,
}

if __name__ == "__main__":
    main()
