"""One decoder child as its parent sees it: start it, ask it, and say what it died of."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import pipeline
from pipeline.codecs.decoder_wire import (
    Message,
    SharedMemory,
    pixel_arrays,
    pixels_bytes,
    receive_message,
    send_message,
)
from pipeline.codecs.ldr import LdrImage
from pipeline.config import DecodeConfig
from pipeline.errors import (
    CorruptImageError,
    DecoderCrashError,
    DecoderHangError,
    DecoderOutOfMemoryError,
    ImageError,
    QuarantinedError,
    image_errors_by_code,
)
from pipeline.records import LdrInfo

START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 10.0
_MAX_REMARK_CHARS = 120
_BOOT = "from pipeline.codecs.decoder_child import main; main()"
# Everything else stays out: credentials above all.
_KEPT_VARIABLES = frozenset({"PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HDRFLEET_DECODER_FAULTS"})
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_INFO = TypeAdapter(LdrInfo)


class DecoderProcess:
    """A running child. One thread at a time asks it; `kill` may come from any. Whoever made it calls `end`.

    `num_images` counts what `load` gave it.
    """

    def __init__(self) -> None:
        """Start it. Raises OSError where no process can be started."""
        ours, theirs = socket.socketpair()
        read_end, self._life_line = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter, and no word from outside
                # -P: a module in the working directory must not pass for one of ours.
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), str(read_end)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), read_end),
                env=_environment(os.environ),
                process_group=0,  # an interrupt from the terminal is for the parent
            )
        except BaseException:
            ours.close()
            os.close(self._life_line)
            raise
        finally:
            theirs.close()
            os.close(read_end)
        self._connection = ours
        self._memories: dict[str, SharedMemory] = {}
        self._unsent: set[str] = set()
        self._num_bytes = 0
        self.num_images = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the end of its start. Raises QuarantinedError where it dies or takes longer than two minutes."""
        self._receive("image", START_TIMEOUT_S)

    def load(self, data: bytes) -> None:
        """Give it the next file, which is then probed and decoded."""
        self._reserve("file", len(data))
        self._memories["file"].buffer[: len(data)] = data
        self._num_bytes = len(data)
        self._last_words()  # remarks about the file before must not be taken for this one's
        self.num_images += 1

    def probe(self, kind: str, limits: DecodeConfig) -> LdrInfo:
        """Have it read the header; `kind` names the format in messages.

        Raises the ImageError that the child raised, or a QuarantinedError: then the child is of no more use.
        """
        reply = self._ask(kind, limits, limits.timeout_s, wants_pixels=False)
        try:
            info = _INFO.validate_python(reply["info"])
        except (KeyError, ValidationError) as error:
            raise DecoderCrashError(f"the {kind} decoder answered nonsense") from error
        # What the child says decides how much is mapped here.
        if not _is_plausible(info, limits):
            raise DecoderCrashError(f"the {kind} decoder answered nonsense")
        return info

    def decode(self, kind: str, limits: DecodeConfig, info: LdrInfo) -> LdrImage:
        """Have it decode the file of which `info` was probed. Raises as `probe` does."""
        timeout_s = limits.timeout_s + limits.timeout_s_per_megapixel * info.width * info.height / 1e6
        self._reserve("pixels", pixels_bytes(info))
        reply = self._ask(kind, limits, timeout_s, wants_pixels=True)
        pixels, alpha = pixel_arrays(self._memories["pixels"], info)
        return LdrImage(pixels.copy(), alpha.copy() if reply.get("has_alpha") else None, info)

    def unload(self) -> None:
        """Give back what the last file took beyond what is kept."""
        for name in [name for name, memory in self._memories.items() if not memory.is_kept]:
            self._memories.pop(name).close()
            self._unsent.discard(name)

    def kill(self) -> None:
        """Kill it; who waits for an answer gets an error."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and wait for its end, for ten seconds at most."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        self._connection.close()
        if self._process.stderr and not self._process.stderr.closed:
            self._process.stderr.close()
        for memory in self._memories.values():
            memory.close()
        self._memories = {}
        if self._life_line >= 0:
            os.close(self._life_line)
            self._life_line = -1

    def _reserve(self, name: str, num_bytes: int) -> None:
        memory = self._memories.get(name)
        if memory is not None and memory.num_bytes >= num_bytes:
            return
        if memory is not None:
            self._memories.pop(name).close()
        self._memories[name] = SharedMemory.create(num_bytes)
        self._unsent.add(name)

    def _ask(self, kind: str, limits: DecodeConfig, timeout_s: float, *, wants_pixels: bool) -> Message:
        names = sorted(self._unsent)
        self._unsent.clear()
        request = {
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_pixels,
            "number": self.num_images,
            "num_bytes": self._num_bytes,
            "wants_pixels": wants_pixels,
            "memories": {name: self._memories[name].num_bytes for name in names},
        }
        with suppress(OSError):  # a dead child is found out below
            self._connection.settimeout(timeout_s)
            send_message(self._connection, request, [self._memories[name].fd for name in names])
        reply = self._receive(kind, timeout_s)
        if reply.get("out_of_memory"):
            raise DecoderOutOfMemoryError(f"the {kind} decoder asked for far more memory than the image needs")
        if "error" in reply:
            raise _image_error(reply)
        return reply

    def _receive(self, kind: str, timeout_s: float) -> Message:
        try:
            reply, fds = receive_message(self._connection, timeout_s)
        except TimeoutError as error:
            raise DecoderHangError(f"the {kind} decoder did not end within {timeout_s:g} s") from error
        except (OSError, EOFError) as error:
            raise self._verdict(kind) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise DecoderCrashError(f"the {kind} decoder answered nonsense") from error
        for fd in fds:
            os.close(fd)
        return reply

    def _verdict(self, kind: str) -> QuarantinedError:
        """What a child died of that closed its connection."""
        try:
            status = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return DecoderCrashError(f"the {kind} decoder closed its connection")
        if status == -signal.SIGKILL:
            # Nobody here killed it: the kernel takes decoders first when memory runs out.
            return DecoderOutOfMemoryError(f"the {kind} decoder was killed, most likely because memory ran out")
        with suppress(ValueError):
            name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            return DecoderCrashError(f"the {kind} decoder died of {name}{self._last_words()}")
        return DecoderCrashError(f"the {kind} decoder died of signal {-status}")

    def _last_words(self) -> str:
        """The last line that it printed: an assertion of a library, or the end of a traceback."""
        assert self._process.stderr is not None
        fd = self._process.stderr.fileno()
        os.set_blocking(fd, False)
        try:
            text = os.read(fd, 2**16).decode(errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        return f": {lines[-1].strip()[:_MAX_REMARK_CHARS]}" if lines else ""


def _environment(parent: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in parent.items() if name in _KEPT_VARIABLES or name.startswith("LC_")}
    # The empty entry is the working directory of who runs `python -c`; our own place is what is needed of it.
    places = [place or str(Path(pipeline.__file__).parents[1]) for place in sys.path]
    return {**kept, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(places)}


def _image_error(reply: Message) -> ImageError:
    """The error that the child raised: of the same class, with the same text."""
    kind = image_errors_by_code().get(str(reply["error"]), CorruptImageError)
    return kind(str(reply.get("message", "")))


_MAX_FRAMES = 2**31 - 1
_MAX_TEXT_CHARS = 10_000


def _is_plausible(info: LdrInfo, limits: DecodeConfig) -> bool:
    """Whether what a child says of an image fits memory and the manifest: it has read hostile bytes."""
    texts = (info.format, info.mode, info.icc_profile or "", *info.warnings)
    return (
        min(info.width, info.height) > 0
        and info.width * info.height <= limits.max_pixels
        and info.bit_depth in {8, 16}
        and 1 <= info.orientation <= 8
        and 0 <= info.num_frames <= _MAX_FRAMES
        and all(len(text) <= _MAX_TEXT_CHARS and _is_encodable(text) for text in texts)
    )


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
