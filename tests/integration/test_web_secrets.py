"""Signed web addresses and such with tokens are planted in a list, and looked for in every byte that a run leaves."""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from pathlib import Path

import pytest
from canaries import WEB_QUERIES, WORD, assert_clean, assert_store_clean, is_clean
from commands import hdrfleet, rows_of
from photographs import jpeg, picture
from servers.serving import serving

OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--executor", "local", "--json")
PHOTO = jpeg(picture(8, 8))


class Server(http.server.ThreadingHTTPServer):
    """Has a photograph at each path but /missing, and notes what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        is_there = not self.path.startswith("/missing")
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Length", str(len(PHOTO) if is_there else 0))
        self.end_headers()
        if self.command == "GET" and is_there:
            self.wfile.write(PHOTO)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


@pytest.mark.timeout(200)
def test_a_list_of_signed_web_addresses_leaves_no_secret(server: Server, tmp_path: Path) -> None:
    home, dst, names = tmp_path / "home", tmp_path / "out", tmp_path / "list.txt"
    entries = [f"{index}.jpg?{query}&w=3" for index, query in enumerate(WEB_QUERIES)]
    missing = [f"missing/{index}.jpg?w=3&{query}" for index, query in enumerate(WEB_QUERIES[::9])]
    entries += missing
    names.write_text("".join(f"{server.url}/{entry}\n" for entry in entries))
    result = hdrfleet("convert", names, dst, *OPTIONS, "--log-format", "json", home=home)
    assert result.returncode == 3, result.stderr
    assert_clean(result, home, dst)
    assert_store_clean(str(dst))
    rows = rows_of(dst)
    assert [row["error_code"] for row in rows] == [None] * len(WEB_QUERIES) + ["source_missing"] * len(missing)
    assert all("w=3" in str(row["source"]) for row in rows)
    assert server.url.encode() in (dst / str(rows[0]["output"])).read_bytes()
    assert is_clean("".join(server.asked))
    assert all("w=3" in path for path in server.asked)
    for arguments in (("query", dst, "select * from manifest", "--format", "csv"), ("retry", dst)):
        assert_clean(hdrfleet(*arguments, home=home), home, dst)

    # Signed anew, the images are those that are there.
    names.write_text(names.read_text().replace(WORD, f"{WORD}2"))
    result = hdrfleet("convert", names, dst, *OPTIONS, home=home)
    assert_clean(result, home, dst)
    assert_store_clean(str(dst))
    assert {row["source"] for row in rows_of(dst)} == {row["source"] for row in rows}


def test_one_image_behind_a_web_address_leaves_no_secret(server: Server, tmp_path: Path) -> None:
    dst = tmp_path / "out"
    result = hdrfleet(
        "convert", f"{server.url}/a.jpg?key={WORD}x&w=3&jwt={WORD}", dst, *OPTIONS, home=tmp_path / "home"
    )
    assert result.returncode == 0, result.stderr
    assert_clean(result, tmp_path)
    assert_store_clean(str(dst))
    assert [row["source"] for row in rows_of(dst)] == ["a.jpg?w=3"]


def test_two_images_that_only_a_secret_tells_apart_are_refused_in_one_line(server: Server, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("".join(f"{server.url}/image?key={WORD}{index}&w=3\n" for index in range(2)))
    result = hdrfleet("convert", names, tmp_path / "out", *OPTIONS, home=tmp_path / "home")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "is an earlier entry but for 'key'" in result.stderr
    assert_clean(result, tmp_path / "home")
