"""Web servers that say nothing of versions or sizes, or something else than they send: bounded, and nothing missed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import hdrfleet_here, rows_of
from photographs import jpeg, picture
from servers.odd_web import OddServer, Page, odd_server

from pipeline.config import StorageConfig
from pipeline.errors import ObjectTooLargeError, TransientStorageError
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

OPTIONS = ("--executor", "local", "--weights", "identity", "--quiet")
PHOTO, OTHER = jpeg(picture(16, 24, seed=1)), jpeg(picture(32, 8, seed=2))
LIMIT = 2**20
MIB = bytes(2**20)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server() -> Iterator[OddServer]:
    with odd_server() as running:
        yield running


def listed(tmp_path: Path, *urls: str) -> Path:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return path


def sizes(dst: Path) -> dict[str, tuple[int, int]]:
    """Width and height of the current output of each source, by its name alone."""
    current = open_manifest(open_store(str(dst), StorageConfig())).current.to_pylist()
    return {row["source"].rpartition("/")[2]: (row["width"], row["height"]) for row in current}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}, {"Last-Modified": "Tue, 06 Jan 2026 10:00:00 GMT"}),
        pytest.param({"Content-MD5": "x"}, {"Content-MD5": "y"}, marks=pytest.mark.long),
        ({}, {}),
        pytest.param({}, {"ETag": '"new"'}, marks=pytest.mark.long),
    ],
    ids=["date", "digest", "size", "size, and an etag from now on"],
)
def test_a_changed_image_is_converted_again(
    server: OddServer, tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    source = listed(tmp_path, server.add("a.jpg", Page(PHOTO, before)), server.add("b.jpg", Page(PHOTO, before)))
    dst = tmp_path / "hdr"
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    assert len(rows_of(dst)) == 2
    server.change("a.jpg", body=OTHER, headers=after)
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    assert sizes(dst) == {"a.jpg": (8, 32), "b.jpg": (24, 16)}
    assert len(rows_of(dst)) == 3
    assert hdrfleet_here("verify", dst, "--deep") == 0


def test_an_etag_that_a_server_begins_to_give_is_no_change(server: OddServer, tmp_path: Path) -> None:
    source, dst = listed(tmp_path, server.add("a.jpg", Page(PHOTO))), tmp_path / "hdr"
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    server.change("a.jpg", headers={"ETag": '"new"'})
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    assert len(rows_of(dst)) == 1


def test_what_failed_is_taken_up_again_where_neither_size_nor_version_is_known(
    server: OddServer, tmp_path: Path
) -> None:
    source = listed(tmp_path, server.add("a.jpg", Page(PHOTO, is_chunked=True)), server.add("b.jpg", Page(PHOTO)))
    dst = tmp_path / "hdr"
    server.change("a.jpg", status=503)
    assert hdrfleet_here("convert", source, dst, *OPTIONS, "--src-attempts", "2") == 3
    server.change("a.jpg", status=200)
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    assert sizes(dst) == {"a.jpg": (24, 16), "b.jpg": (24, 16)}
    assert hdrfleet_here("convert", source, dst, *OPTIONS) == 0
    assert len(rows_of(dst)) == 3


def gzipped(num_mib: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(MIB) for _ in range(num_mib)) + packer.flush()


@pytest.mark.parametrize(
    "page",
    [
        Page(MIB, is_chunked=True, repeats=500),
        Page(gzipped(64), {"Content-Encoding": "gzip"}, is_chunked=True, piece_bytes=4096),
        Page(MIB, {"Content-Length": str(500 * 2**20)}, repeats=500),
    ],
    ids=["of no length", "packed", "said to be large"],
)
def test_no_more_is_taken_than_the_limit(server: OddServer, page: Page) -> None:
    store = open_store(server.add("a.jpg", page).rpartition("/")[0], StorageConfig(max_attempts=1))
    with pytest.raises(ObjectTooLargeError, match="more than the limit of 1048576"):
        store.read("a.jpg", max_bytes=LIMIT)
    # What the limit allows, and what sockets hold on both ends, but not the half of what there is.
    assert server.num_sent.get("/a.jpg", 0) < 32 * 2**20


def test_a_range_costs_no_more_where_ranges_are_ignored(server: OddServer) -> None:
    page = Page(b"0123456789abcdef" * 2**16, is_chunked=True, repeats=500)
    store = open_store(server.add("a.jpg", page).rpartition("/")[0], StorageConfig(max_attempts=1))
    assert store.read_range("a.jpg", 10, 8) == b"abcdef01"
    assert server.ranges[-1] == "bytes=10-17"
    assert store.read_range("a.jpg", 2**20 + 3, 4) == b"3456"
    assert server.num_sent["/a.jpg"] < 64 * 2**20


def test_a_drip_costs_its_image_within_its_bound(server: OddServer, tmp_path: Path) -> None:
    """Never silent for as long as the timeout, and never done: it once held its shard until that was given up."""
    drip = Page(PHOTO, piece_bytes=1, pause_s=0.2)
    source = listed(tmp_path, server.add("a.jpg", drip), server.add("b.jpg", Page(PHOTO)))
    options = ("--src-timeout", "1", "--src-attempts", "1")
    assert hdrfleet_here("convert", source, tmp_path / "hdr", *OPTIONS, *options) == 3
    rows = {str(row["source"]).rpartition("/")[2]: row for row in rows_of(tmp_path / "hdr")}
    assert rows["a.jpg"]["error_code"] == "source_unreadable"
    assert "too slow: " in str(rows["a.jpg"]["error_message"])
    assert rows["b.jpg"]["status"] == "ok"


def test_a_body_that_is_cut_is_tried_again_and_never_taken_for_whole(server: OddServer) -> None:
    page = Page(PHOTO[:-9], {"Content-Length": str(len(PHOTO))})
    store = open_store(server.add("a.jpg", page).rpartition("/")[0], StorageConfig(max_attempts=2, read_timeout_s=1))
    with pytest.raises(TransientStorageError, match="gave up after 2 attempts"):
        store.read("a.jpg")
