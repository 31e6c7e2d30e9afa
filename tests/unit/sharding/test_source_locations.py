"""What a source URL means follows from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sharding.locations import (
    Location,
    SourceShape,
    listed_name,
    locate,
    relative_to,
    resolve_entry,
    source_shape,
    split_glob,
)


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("/photos", SourceShape.PATH),
        ("/photos/a.jpg", SourceShape.PATH),
        ("s3://bucket", SourceShape.PATH),
        ("/photos/**/*.jpg", SourceShape.GLOB),
        ("s3://bucket/2024-?/a.csv", SourceShape.GLOB),
        ("list.TXT", SourceShape.LIST),
        ("s3://bucket/list.parquet", SourceShape.LIST),
        ("folder.csv/", SourceShape.PATH),
        ("s3://bucket/inv/manifest.json", SourceShape.INVENTORY),
        ("s3://bucket.txt/", SourceShape.PATH),
    ],
)
def test_source_shape(url: str, shape: SourceShape) -> None:
    assert source_shape(url) is shape


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("/photos/2024/", "/", "photos/2024"),
        ("/", "/", ""),
        ("file:///photos/a%20b.jpg", "/", "photos/a b.jpg"),
        ("file://localhost/a/b", "/", "a/b"),
        ("s3://bucket/a/b/c.jpg", "s3://bucket", "a/b/c.jpg"),
        ("s3a://bucket/a/", "s3://bucket", "a"),
        ("s3://bucket", "s3://bucket", ""),
        ("s3://bucket/what?a=b.jpg", "s3://bucket", "what?a=b.jpg"),
        ("https://host:8080/a/b.jpg", "https://host:8080", "a/b.jpg"),
    ],
)
def test_locate_splits_at_the_widest_root(url: str, root: str, key: str) -> None:
    place = locate(url)
    assert (place.root, place.key) == (root, key)


@pytest.mark.parametrize(
    ("url", "folder", "pattern"),
    [
        ("/photos/20*/**/*.jpg", "photos", "20*/**/*.jpg"),
        ("s3://bucket/p/q/2024-*/*.png", "p/q", "2024-*/*.png"),
        ("s3://bucket/*.png", "", "*.png"),
    ],
)
def test_a_glob_is_split_at_its_first_wildcard(url: str, folder: str, pattern: str) -> None:
    assert split_glob(locate(url)) == (folder, pattern)


def test_local_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert locate("x/../photos").url == f"{tmp_path}/photos"
    assert locate("~/photos").url == "/home/someone/photos"


@pytest.mark.parametrize("url", ["s3://buck*/a.jpg", "memory://*.jpg"])
def test_a_bucket_takes_no_wildcard(url: str) -> None:
    with pytest.raises(SourceError, match="no wildcard"):
        split_glob(locate(url))


def test_a_file_url_needs_an_absolute_path() -> None:
    with pytest.raises(SourceError, match="file:///"):
        locate("file://server/a.jpg")


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("/a/b", "/a", "b"),
        ("/a", "/a/", ""),
        ("/ab", "/a", None),
        ("/a", "/a/b", None),
        ("/a/b", "/", "a/b"),
        ("s3://bucket/a/b", "s3://bucket", "a/b"),
        ("s3a://bucket/a/", "s3://bucket/a", ""),
        ("s3://bucket2/a", "s3://bucket", None),
        ("/bucket/a", "s3://bucket", None),
    ],
)
def test_relative_to(inner: str, outer: str, expected: str | None) -> None:
    assert relative_to(inner, outer) == expected


def test_relative_to_sees_through_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert relative_to(str(tmp_path / "link" / "out"), str(tmp_path / "real")) == "out"


@pytest.mark.parametrize(
    ("entry", "folder", "url", "name"),
    [
        ("a.jpg", Location("file", "/", "lists"), "/lists/a.jpg", "a.jpg"),
        ("../b/a.jpg", Location("file", "/", "lists"), "/b/a.jpg", "../b/a.jpg"),
        ("/x/a.jpg", Location("file", "/", "lists"), "/x/a.jpg", "/x/a.jpg"),
        ("s3://b/k.jpg", Location("file", "/", "lists"), "s3://b/k.jpg", "s3://b/k.jpg"),
        ("a.jpg", Location("s3", "s3://b", "lists"), "s3://b/lists/a.jpg", "a.jpg"),
        ("../a.jpg", Location("s3", "s3://b", "lists"), "s3://b/a.jpg", "../a.jpg"),
        ("s3://AKIA:secret@b/k.jpg", Location("s3", "s3://b", ""), "s3://b/k.jpg", "s3://b/k.jpg"),
        ("s3://b/q?x=1.jpg", Location("s3", "s3://b", ""), "s3://b/q?x=1.jpg", "s3://b/q?x=1.jpg"),
        (
            "s3://b/k.jpg?versionId=a",
            Location("s3", "s3://b", ""),
            "s3://b/k.jpg?versionId=a",
            "s3://b/k.jpg?versionId=a",
        ),
        ("a//b.jpg", Location("s3", "s3://b", "lists"), "s3://b/lists/a//b.jpg", "a//b.jpg"),
        ("../a//./b.jpg", Location("s3", "s3://b", "x//lists"), "s3://b/x//a//b.jpg", "../a//./b.jpg"),
        ("http://h/img?w=3&id=a/b", Location("file", "/", ""), "http://h/img?w=3&id=a/b", "http://h/img?w=3&id=a/b"),
        (
            "http://h/img?w=3&token=abc&id=7",
            Location("file", "/", ""),
            "http://h/img?w=3&id=7",
            "http://h/img?w=3&id=7",
        ),
        ("http://h/img?token=abc", Location("file", "/", ""), "http://h/img", "http://h/img"),
        (
            "https://h/k.jpg?id=7&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-Signature=a/b",
            Location("file", "/", ""),
            "https://h/k.jpg?id=7",
            "https://h/k.jpg?id=7",
        ),
        ("https://h/k.jpg?sv=1&se=2&sp=r&sig=a%2Fb", Location("file", "/", ""), "https://h/k.jpg", "https://h/k.jpg"),
        (
            "https://h/k.jpg?se=2&sp=r",
            Location("file", "/", ""),
            "https://h/k.jpg?se=2&sp=r",
            "https://h/k.jpg?se=2&sp=r",
        ),
        ("s3://AKIA:se/cr/et@b/k.jpg", Location("s3", "s3://b", ""), "s3://b/k.jpg", "s3://b/k.jpg"),
        (
            "s3://b/k.jpg?X-Amz-Date=1&X-Amz-Security-Token=a/b",
            Location("s3", "s3://b", ""),
            "s3://b/k.jpg",
            "s3://b/k.jpg",
        ),
        ("s3://b/k.jpg?signature=a//b&x=/", Location("s3", "s3://b", ""), "s3://b/k.jpg", "s3://b/k.jpg"),
        (
            "gs://b/k.jpg?X-Goog-Algorithm=a&X-Goog-Signature=a/b",
            Location("gs", "gs://b", ""),
            "gs://b/k.jpg",
            "gs://b/k.jpg",
        ),
        ("oss://b/k.jpg?OSSAccessKeyId=a", Location("oss", "oss://b", ""), "oss://b/k.jpg", "oss://b/k.jpg"),
        ("s3://b/why?a=b/k.jpg", Location("s3", "s3://b", ""), "s3://b/why?a=b/k.jpg", "s3://b/why?a=b/k.jpg"),
        ("s3://b/a:b@c/k.jpg", Location("s3", "s3://b", ""), "s3://b/a:b@c/k.jpg", "s3://b/a:b@c/k.jpg"),
        ("s3://b/what?.jpg", Location("s3", "s3://b", ""), "s3://b/what?.jpg", "s3://b/what?.jpg"),
        ("s3://b/k;a=b.jpg#c", Location("s3", "s3://b", ""), "s3://b/k;a=b.jpg#c", "s3://b/k;a=b.jpg#c"),
        (
            "https://h/a/k.jpg;jsessionid=s?sig=t#u",
            Location("file", "/", "lists"),
            "https://h/a/k.jpg",
            "https://h/a/k.jpg",
        ),
        ("http://h/a;v=1/k.jpg#u.v", Location("file", "/", "lists"), "http://h/a;v=1/k.jpg", "http://h/a;v=1/k.jpg"),
        (
            "http://h/k;w=1;token=s/k.jpg",
            Location("file", "/", "lists"),
            "http://h/k;w=1/k.jpg",
            "http://h/k;w=1/k.jpg",
        ),
        ("http://h/k;PHPSESSID=s", Location("file", "/", "lists"), "http://h/k", "http://h/k"),
        ("http://h/photo #3.jpg", Location("file", "/", "lists"), "http://h/photo #3.jpg", "http://h/photo #3.jpg"),
        ("http://h/a; b.jpg", Location("file", "/", "lists"), "http://h/a; b.jpg", "http://h/a; b.jpg"),
        ("s3://b/me@home/k.jpg", Location("s3", "s3://b", ""), "s3://b/me@home/k.jpg", "s3://b/me@home/k.jpg"),
    ],
)
def test_entries_of_a_list(entry: str, folder: Location, url: str, name: str) -> None:
    assert resolve_entry(listed_name(entry), folder).url == url
    assert listed_name(entry) == name


def test_an_entry_stays_in_its_bucket() -> None:
    with pytest.raises(SourceError, match="leads out"):
        resolve_entry("../../a.jpg", Location("s3", "s3://b", "lists"))
