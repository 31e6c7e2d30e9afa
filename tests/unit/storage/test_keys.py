from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.keys import (
    InvalidKeyError,
    ListingObserver,
    SkippedNames,
    check_key,
    check_prefix,
    is_valid_key,
    join_key,
)


@pytest.mark.parametrize(
    "key", ["a", "a/b.jpg", "日本/é.jpg", "a//b", "..a", "a..", "...", " ", "a/.hidden", "a\\..\\b"]
)
def test_accepted(key: str) -> None:
    assert check_key(key) == key
    assert is_valid_key(key)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "is empty"),
        ("/a", "is absolute"),
        ("a/", "ends with a slash"),
        ("..", "'..' segment"),
        ("a/../b", "'..' segment"),
        ("./a", "'.' or"),
        ("a\0", "control character"),
        ("a\x7f", "control character"),
        ("a\x85", "control character"),
        ("a\udce9", "not valid Unicode"),
    ],
)
def test_refused(key: str, fault: str) -> None:
    with pytest.raises(InvalidKeyError, match=fault):
        check_key(key)
    assert not is_valid_key(key)
    assert issubclass(InvalidKeyError, ValueError)


@given(st.text())
def test_an_accepted_key_stays_below_its_root(key: str) -> None:
    if is_valid_key(key):
        key.encode()
        depth = 0
        for segment in key.split("/"):
            depth += -1 if segment == ".." else 1
            assert depth > 0
        assert not join_key("root", key).startswith("/")


def test_prefix() -> None:
    assert check_prefix("") == ""
    assert check_prefix("a/b/") == check_prefix("a/b") == "a/b"
    for prefix in ("/", "/a", "..", "a/.."):
        with pytest.raises(InvalidKeyError):
            check_prefix(prefix)


def test_join() -> None:
    assert join_key("", "a") == join_key("a", "") == "a"
    assert join_key("a", "b/c") == "a/b/c"
    assert join_key("", "") == ""


def test_skipped_names_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    skipped = SkippedNames()
    skipped.warn("s3://b")
    assert not caplog.records
    assert skipped.accepts("good")
    assert [skipped.accepts(f"bad\n{index}") for index in range(5)] == [False] * 5
    with caplog.at_level(logging.WARNING):
        skipped.warn("s3://b")
    assert "s3://b: 5 object(s) left out" in caplog.text
    assert r"'bad\n0', 'bad\n1', 'bad\n2'" in caplog.text
    assert "bad\\n3" not in caplog.text


def test_skipped_names_go_to_who_asks_for_them(caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []

    class Asking(ListingObserver):
        def unusable(self, name: str) -> None:
            names.append(name)

    skipped = SkippedNames(Asking())
    assert [skipped.accepts(name) for name in ("good", "bad\n", "..")] == [True, False, False]
    skipped.warn("s3://b")
    assert names == ["bad\n", ".."]
    assert not caplog.records
