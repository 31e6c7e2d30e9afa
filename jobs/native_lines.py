"""What native code writes to file descriptor 2, as lines of the log for machines.

OpenEXR's C library and the run-times of C and C++ know nothing of `sys.stderr`. While a command logs JSON, descriptor 2
is a pipe, and a child process makes an event of each line that comes through it. A thread of this process could not: it
would wait for ever for native code that fills the pipe and holds the GIL, and would die with the last words of a crash.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_BOOT = "from jobs.native_lines import main; main()"
_ANSWER_TIMEOUT_S = 60.0  # a child on a busy machine is slow; one that died answers at once
_CHUNK_BYTES = 2**16
_LONGEST_LINE_BYTES = 2**16
_NUM_LAST_WORDS = 50


class NativeLines:
    """Descriptor 2 as such a pipe, from its creation until `close`. Safe for threads.

    With `quiet`, lines are only written where this process ends without `close`: they may say why. `log_fd` is what
    descriptor 2 was. Raises OSError where no process can be started.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.log_fd = os.dup(2)
        with tempfile.TemporaryFile() as file:
            self._lock_fd = os.dup(file.fileno())
        self._asking = threading.Lock()
        read_end, write_end = os.pipe()
        try:
            self._child = subprocess.Popen(  # noqa: S603  our own interpreter, and no word from outside
                # -P: a module in the working directory must not pass for one of ours.
                [sys.executable, "-P", "-c", _BOOT, str(read_end), str(self._lock_fd), str(int(quiet))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(read_end, self._lock_fd),
                env={**os.environ, "PYTHONPATH": _places()},
                bufsize=0,
                process_group=0,  # an interrupt from the terminal is for the parent
            )
            os.dup2(write_end, 2)
        except BaseException:
            os.close(self.log_fd)
            os.close(self._lock_fd)
            raise
        finally:
            os.close(read_end)
            os.close(write_end)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else is written to `log_fd` within this block: lines longer than a pipe's unit would mix."""
        with _alone(self._lock_fd):
            yield

    def name_job(self, job_id: str) -> None:
        """Have lines name their job from now on."""
        self._ask({"job_id": job_id})

    def flush(self) -> None:
        """Wait, for a minute at most, until what was written to descriptor 2 so far is in the log."""
        self._ask({})

    def close(self) -> None:
        """Flush, and give descriptor 2 back. What another process writes to the pipe afterwards is lost."""
        os.dup2(self.log_fd, 2)
        self._ask({"end": True})
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream:
                stream.close()
        os.close(self.log_fd)
        os.close(self._lock_fd)

    def _ask(self, message: dict[str, object]) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with self._asking, suppress(OSError):  # a child that was killed logs nothing more, and holds up nobody
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            if select.select([self._child.stdout], [], [], _ANSWER_TIMEOUT_S)[0]:
                self._child.stdout.read(1)


def _places() -> str:
    """Where this process finds its modules; the empty entry, the working directory of who runs `-c`, is our own."""
    here = str(Path(__file__).parents[1])
    return os.pathsep.join(place or here for place in sys.path)


@contextmanager
def _alone(lock_fd: int) -> Iterator[None]:
    fcntl.lockf(lock_fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock_fd, fcntl.LOCK_UN)


class _Log:
    """The child's side: bytes in, lines of the log out on its own descriptor 2."""

    def __init__(self, lock_fd: int, *, quiet: bool) -> None:
        self._lock_fd, self._quiet = lock_fd, quiet
        self._begun = b""
        self._kept: deque[bytes] = deque(maxlen=_NUM_LAST_WORDS)
        self._job: dict[str, str] = {}
        self._level = "info"

    def name_job(self, job_id: str) -> None:
        self._job = {"job_id": job_id}

    def take(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > _LONGEST_LINE_BYTES:
            lines, self._begun = [*lines, self._begun], b""
        for line in lines:
            self._add(line)

    def parent_died(self) -> None:
        """From here on, and with what was kept back, lines say what the parent died of."""
        self._quiet, self._level = False, "error"
        for line in self._kept:
            self._add(line)

    def end(self) -> None:
        self._add(self._begun)

    def _add(self, line: bytes) -> None:
        if self._quiet:
            self._kept.append(line)
            return
        message = line.decode(errors="replace").strip()
        if not message:
            return
        if _is_event(message):  # of a process that this one started, and that logs as it does
            self._put(message)
            return
        from pipeline.storage import redact_url  # a quarter of a second that few runs need

        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = {"time": now, "level": self._level, "event": "output", **self._job, "message": redact_url(message)}
        self._put(json.dumps(event))

    def _put(self, text: str) -> None:
        with _alone(self._lock_fd):
            os.write(2, f"{text}\n".encode())


def _is_event(text: str) -> bool:
    with suppress(ValueError, RecursionError):
        found = json.loads(text) if text.startswith("{") else None
        return isinstance(found, dict) and found.keys() >= {"time", "level", "event"}
    return False


def main() -> None:
    """The child: log what comes through the pipe, do what the parent asks, end with it."""
    pipe, lock_fd, quiet = (int(word) for word in sys.argv[1:])
    os.set_blocking(pipe, False)
    log = _Log(lock_fd, quiet=bool(quiet))
    is_open = True
    with open(0, "rb", buffering=0, closefd=False) as parent:
        while True:
            ready, _, _ = select.select([0, pipe] if is_open else [0], [], [])
            is_open = is_open and _drain(pipe, log)
            if 0 not in ready:
                continue
            request = parent.readline()
            if not request:
                log.parent_died()
            # What was written before the request, or before the parent's death, is in the pipe by now.
            is_open = is_open and _drain(pipe, log)
            message: dict[str, Any] = json.loads(request) if request else {"end": True}
            if "job_id" in message:
                log.name_job(message["job_id"])
            if "end" in message:
                log.end()
            with suppress(OSError):
                os.write(1, b"\n")
            if "end" in message:
                return


def _drain(pipe: int, log: _Log) -> bool:
    """Hand on what is in the pipe now; False where nobody can write to it any more."""
    with suppress(BlockingIOError):
        while data := os.read(pipe, _CHUNK_BYTES):
            log.take(data)
        return False
    return True
