"""A web server on loopback that says of its files what it is told to say, and sends them as it is told to."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from servers.serving import serving


@dataclass(frozen=True)
class Page:
    """A file on the server. Chunked pages have no length; `status` other than 200 answers GET alone with that.

    `repeats` times the body is sent, with `pause_s` between pieces of `piece_bytes`.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    is_chunked: bool = False
    status: int = 200
    repeats: int = 1
    piece_bytes: int = 2**16
    pause_s: float = 0.0


class OddServer(http.server.ThreadingHTTPServer):
    """Serves `pages` by path; `num_sent` counts the bytes of bodies by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.num_sent: dict[str, int] = {}
        self.ranges: list[str] = []
        self.is_closing = threading.Event()

    def add(self, name: str, page: Page) -> str:
        """Serve `page` as `name`; its address."""
        self.pages[f"/{name}"] = page
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def change(self, name: str, **changes: object) -> None:
        self.pages[f"/{name}"] = replace(self.pages[f"/{name}"], **changes)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OddServer

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        is_head = self.command == "HEAD"
        status = 404 if page is None else 200 if is_head else page.status
        self.send_response(status)
        if page is None or status != 200:
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "Range" in self.headers:
            self.server.ranges.append(self.headers["Range"])  # and ignored
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in page.headers:
            self.send_header("Content-Length", str(len(page.body) * page.repeats))
        self.end_headers()
        if not is_head:
            self._send(page)

    do_HEAD = do_GET

    def _send(self, page: Page) -> None:
        try:
            for _ in range(page.repeats):
                for start in range(0, len(page.body), page.piece_bytes):
                    piece = page.body[start : start + page.piece_bytes]
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if page.is_chunked else piece)
                    self.server.num_sent[self.path] = self.server.num_sent.get(self.path, 0) + len(piece)
                    if self.server.is_closing.wait(page.pause_s):
                        return
            if page.is_chunked:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client has had enough

    def log_message(self, *_: object) -> None: ...


@contextmanager
def odd_server() -> Iterator[OddServer]:
    """A running server, which is gone afterwards."""
    with serving(OddServer()) as running:
        try:
            yield running
        finally:
            running.is_closing.set()
