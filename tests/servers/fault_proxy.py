"""A proxy on loopback between hdrfleet and an S3 server that breaks what passes through it: on purpose, by a seed.

Toxiproxy would need a Go binary, mitmproxy and proxy.py bring a framework each, and none of them knows which S3
operation a request is. What the tests need is small: one request at a time per connection, whole bodies in memory.
The Host header is passed on as it came, so that signatures that the client made for the proxy's address stay valid.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

from servers.s3_requests import Request, parse_head, read_head

_UPSTREAM_TIMEOUT_S = 60.0
_JOIN_TIMEOUT_S = 10.0
# Below half of the six tries that a client has: an operation may need two kinds of request, each of them met.
MOST_IN_A_ROW = 2
_PER_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}

Kind = Literal[
    "pass",  # nothing but the delay
    "reset",  # the request is read and the connection reset; the server never sees it
    "reset_in_request",  # the same, in the middle of the request's body
    "answer",  # `status` and `code` in place of the server's answer; the server never sees the request
    "lost_answer",  # the server does it; the client gets a reset, or `status` where that is set
    "truncate",  # the answer's headers, half of its body, then an orderly end
    "reset_in_answer",  # the same, with a reset
    "black_hole",  # read, and never answered
]


@dataclass(frozen=True)
class Fault:
    """What is done to which requests. The first fault that takes a request decides about it.

    `operation` and `key` are regular expressions over the whole name and anywhere in the key. It lets the first `skip`
    fitting requests go, takes each later one with `probability`, at most `count` in all, and none once `lasts_s` have
    passed since its first. One with a probability below 1 is noise: it leaves a request alone that noise has met
    `MOST_IN_A_ROW` times in a row, so that a client with more tries than that always gets through.
    """

    kind: Kind
    operation: str = ".*"
    key: str = ""
    conditional_only: bool = False
    skip: int = 0
    probability: float = 1.0
    count: int | None = None
    lasts_s: float | None = None
    delay_s: float = 0.0
    status: int = 0
    code: str = ""
    retry_after_s: int | None = None

    def fits(self, request: Request) -> bool:
        """Whether the request is of the kind that this fault is for."""
        return (
            re.fullmatch(self.operation, request.operation) is not None
            and re.search(self.key, request.key) is not None
            and (request.is_conditional or not self.conditional_only)
        )


@dataclass
class Seen:
    """A request and what became of it. `kind` is the fault's, None where there was none.

    `status` is the server's, None until it has answered: for ever, where it was not asked.
    """

    request: Request
    kind: Kind | None
    status: int | None = None


@dataclass
class _Active:
    fault: Fault
    num_skipped: int = 0
    num_taken: int = 0
    since: float = 0.0
    drawn: Counter[tuple[str, str, int]] = field(default_factory=Counter)


class FaultProxy:
    """Listens on a random port of 127.0.0.1 and passes requests on to `upstream_url`. Use as a context manager.

    With `listener` it takes what comes to that socket, which may be in another network namespace, and owns it.

    Which requests a probability takes depends on the seed, the operation, the key, and how often they came before:
    not on the order in which threads happen to run.
    """

    def __init__(self, upstream_url: str, *faults: Fault, seed: int = 0, listener: socket.socket | None = None) -> None:
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._seed = seed
        self._lock = threading.Lock()
        self._active = [_Active(fault) for fault in faults]
        self._seen: list[Seen] = []
        self._in_a_row: Counter[tuple[str, str, int]] = Counter()
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=256)
        host, port = self._listener.getsockname()
        self.url = f"http://{host}:{port}"
        self._threads = [threading.Thread(target=self._accept, name="fault-proxy", daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def seen(self) -> list[Seen]:
        """What has come so far, in the order in which it came."""
        with self._lock:
            return list(self._seen)

    def count(self, operation: str = ".*", kind: Kind | None = None) -> int:
        """How many requests of an operation (a regular expression) came, or were met by this kind of fault."""
        return sum(
            re.fullmatch(operation, seen.request.operation) is not None and (kind is None or seen.kind == kind)
            for seen in self.seen
        )

    def use(self, *faults: Fault) -> None:
        """Replace the faults and forget what was seen; without any, everything is passed on."""
        with self._lock:
            self._active = [_Active(fault) for fault in faults]
            self._seen = []
            self._in_a_row.clear()

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(_JOIN_TIMEOUT_S)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,), name="fault-proxy", daemon=True)
            with self._lock:
                self._open.add(connection)
                self._threads = [old for old in self._threads if old.is_alive()] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as reader:
                while self._exchange(connection, reader):
                    pass
        except (OSError, http.client.HTTPException, ValueError):
            pass  # the client went away, or the server did
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _exchange(self, connection: socket.socket, reader: BinaryIO) -> bool:
        """Take one request to its end; False when the connection is over."""
        head = read_head(reader)
        if head is None:
            return False
        request = parse_head(head)
        fault = self._take(request)
        seen = Seen(request, fault.kind if fault else None)
        with self._lock:
            self._seen.append(seen)
        if "100-continue" in request.headers.get("expect", ""):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault and fault.kind == "reset_in_request":
            reader.read(request.num_bytes // 2)
            _reset(connection)
            return False
        body = reader.read(request.num_bytes)
        if len(body) < request.num_bytes:
            return False
        return self._answer(connection, seen, body, fault)

    def _answer(self, connection: socket.socket, seen: Seen, body: bytes, fault: Fault | None) -> bool:
        request = seen.request
        kind = fault.kind if fault else "pass"
        if fault and fault.delay_s:
            self._closing.wait(fault.delay_s)
        if kind == "black_hole":
            while connection.recv(2**16):
                pass
            return False
        if kind == "reset":
            _reset(connection)
            return False
        if fault and kind == "answer":
            connection.sendall(_canned(request, fault))
            return True
        status, reason, headers, answer = self._pass_on(request, body)
        seen.status = status
        if fault and kind == "lost_answer":
            if fault.status:
                connection.sendall(_canned(request, fault))
                return True
            _reset(connection)
            return False
        sent = answer[: len(answer) // 2] if kind in {"truncate", "reset_in_answer"} and answer else answer
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + sent)
        if len(sent) < len(answer):
            if kind == "reset_in_answer":
                _reset(connection)
            return False
        return True

    def _pass_on(self, request: Request, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """Send the request to the server; return its answer with a length in place of chunks."""
        upstream = http.client.HTTPConnection(*self._upstream, timeout=_UPSTREAM_TIMEOUT_S)
        try:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in _PER_HOP:
                    upstream.putheader(name, value)
            if request.num_bytes or request.method in {"PUT", "POST"}:
                upstream.putheader("content-length", str(request.num_bytes))
            upstream.putheader("connection", "close")
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _PER_HOP]
            length = answer.getheader("content-length") if request.method == "HEAD" else None
            if answer.status != 204:
                headers.append(("Content-Length", length if length is not None else str(len(data))))
            return answer.status, answer.reason, headers, data
        finally:
            upstream.close()

    def _take(self, request: Request) -> Fault | None:
        with self._lock:
            what = (request.operation, request.key, request.part)
            for index, active in enumerate(self._active):
                fault, now = active.fault, time.monotonic()
                if not fault.fits(request) or (fault.count is not None and active.num_taken >= fault.count):
                    continue
                if active.num_skipped < fault.skip:
                    active.num_skipped += 1
                    continue
                if fault.lasts_s is not None and active.num_taken and now > active.since + fault.lasts_s:
                    continue
                active.drawn[what] += 1
                # A string seeds with all of its bytes, alike in every process.
                draw = random.Random(f"{self._seed} {index} {what} {active.drawn[what]}").random()
                if draw < fault.probability and (fault.probability == 1 or self._in_a_row[what] < MOST_IN_A_ROW):
                    active.since = active.since or now
                    active.num_taken += 1
                    self._in_a_row[what] = 0 if fault.kind == "pass" else self._in_a_row[what] + 1
                    return fault
            self._in_a_row[what] = 0
        return None


def _canned(request: Request, fault: Fault) -> bytes:
    """An answer of S3's form: an error document, or nothing to HEAD."""
    code = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>" if fault.code else ""
    document = f"<?xml version='1.0'?>{code}".encode() if code and request.method != "HEAD" else b""
    lines = [f"HTTP/1.1 {fault.status} Injected", "Content-Type: application/xml", f"Content-Length: {len(document)}"]
    if fault.retry_after_s is not None:
        lines.append(f"Retry-After: {fault.retry_after_s}")
    return "\r\n".join([*lines, "", ""]).encode() + document


def _reset(connection: socket.socket) -> None:
    """Close with a TCP reset in place of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
