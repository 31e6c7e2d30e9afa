"""Lists of URLs: faults of a web server are tried again where they may pass, and cost their image where they do not."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest
from commands import hdrfleet_here, rows_of
from photographs import jpeg, picture
from servers.serving import serving

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

OPTIONS = ("--executor", "local", "--weights", "identity", "--src-attempts", "3", "--src-timeout", "1", "--quiet")
PHOTO = jpeg(picture(16, 16))
# What the first requests for a path get; a status, or what happens to the connection.
PASSING = ("503", "429", "500", "reset", "hole")
LASTING = {"503": "source_unreadable", "405": "source_unreadable", "401": "source_denied", "403": "source_denied"}


class Server(http.server.ThreadingHTTPServer):
    """Paths are /KIND/TIMES/NAME: so many requests for one meet that fault, the others get the photograph."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.is_mended = False

    def url(self, kind: str, times: int) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/{times}/{kind}.jpg"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        _, kind, times, _ = path.split("/")
        with self.server.lock:
            self.server.asked[self.path] += 1
            is_faulty = self.server.asked[self.path] <= int(times) and not self.server.is_mended
        if not is_faulty:
            self._answer(200, jpeg(picture(16, int(query.removeprefix("w=")))) if query else PHOTO)
        elif kind == "reset":
            self.close_connection = True
        elif kind == "hole":
            sleep(3)
            self.close_connection = True
        else:
            self._answer(int(kind), b"")

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def listed(tmp_path: Path, *urls: str) -> Path:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return path


@pytest.mark.timeout(120)
def test_faults_that_pass_are_tried_again(server: Server, tmp_path: Path) -> None:
    """Two requests each, as a look at the size and its repetition are: once these were taken for `not there`."""
    urls = [server.url(kind, 2) for kind in PASSING]
    assert hdrfleet_here("convert", listed(tmp_path, *urls), tmp_path / "out", *OPTIONS) == 0
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["ok"] * len(PASSING)


@pytest.mark.timeout(120)
def test_faults_that_last_cost_their_images_and_the_next_run_takes_them_up(server: Server, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/refused.jpg"
        urls = [*(server.url(kind, 99) for kind in LASTING), server.url("404", 99), refused, server.url("200", 0)]
        source = listed(tmp_path, *urls)
        assert hdrfleet_here("convert", source, tmp_path / "out", *OPTIONS) == 3
        codes = {str(row["source"]).rpartition("/")[2]: row["error_code"] for row in rows_of(tmp_path / "out")}
        lasting = {f"{kind}.jpg": code for kind, code in LASTING.items()}
        assert codes == lasting | {"404.jpg": "source_missing", "refused.jpg": "source_unreadable", "200.jpg": None}

        server.is_mended = True
        assert hdrfleet_here("convert", source, tmp_path / "out", *OPTIONS) == 3
        manifest = open_manifest(open_store(str(tmp_path / "out"), StorageConfig()))
        current = {row["source"]: row["error_code"] for row in manifest.current.to_pylist()}
        assert [source for source, code in current.items() if code] == [refused]
        assert len(current) == len(urls)


@pytest.mark.timeout(120)
def test_a_server_that_is_down_costs_a_plan_one_header(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = listed(tmp_path, server.url("200", 0), server.url("503", 99))
    assert hdrfleet_here("plan", source, "--weights", "identity", "--src-attempts", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)["source"]
    assert (found["num_images"], found["num_unreadable"], found["megapixels"]) == (2, 1, 256 / 1e6)


@pytest.mark.timeout(120)
def test_a_query_says_which_image_is_meant(server: Server, tmp_path: Path) -> None:
    urls = [f"{server.url('200', 0)}?w={width}" for width in (8, 24, 40)]
    assert hdrfleet_here("convert", listed(tmp_path, *urls, f"{urls[0]}&token=x"), tmp_path / "out", *OPTIONS) == 0
    assert {row["source"]: row["width"] for row in rows_of(tmp_path / "out")} == dict(
        zip(urls, (8, 24, 40), strict=True)
    )
    assert hdrfleet_here("convert", f"{urls[1]}&sig=x", tmp_path / "single", *OPTIONS) == 0
    (row,) = rows_of(tmp_path / "single")
    assert (row["source"], row["width"]) == ("200.jpg?w=24", 24)
    assert hdrfleet_here("verify", tmp_path / "out", "--deep") == 0
