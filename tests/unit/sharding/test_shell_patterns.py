"""Shell patterns follow the rules that patterns.py states."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sharding.patterns import can_match_below, has_wildcard, name_filter, translate


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.jpg", ["a.jpg", ".jpg", "new\nline.jpg"], ["a/b.jpg", "a.JPG", "a.jpg.exr"]),
        ("**/*.jpg", ["a.jpg", "a/b.jpg", "a/b/c.jpg"], ["a/b.png"]),
        ("a/**", ["a/b", "a/b/c.jpg"], ["a", "a/", "ab/c"]),
        ("**", ["a", "a/b"], [""]),
        ("a/**/z/*.png", ["a/z/i.png", "a/b/c/z/i.png"], ["a/z/b/i.png", "z/i.png"]),
        ("2024-*/*.png", ["2024-01/x.png", "2024-/x.png"], ["2024-01/b/x.png"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("?.jpg", ["a.jpg", "é.jpg"], ["/.jpg", "ab.jpg"]),
        ("[a-c]1.jpg", ["a1.jpg", "c1.jpg"], ["d1.jpg", "[a-c]1.jpg"]),
        ("[!a-c].jpg", ["d.jpg", "!.jpg"], ["a.jpg", "/.jpg"]),
        ("[]x].jpg", ["].jpg", "x.jpg"], ["[.jpg"]),
        ("[*].jpg", ["*.jpg"], ["a.jpg"]),
        ("[z-a]x", [], ["x", "zx", "ax", "-x"]),
        ("[a-].jpg", ["a.jpg", "-.jpg"], ["b.jpg"]),
        ("[!z-a]x", ["bx"], ["/x"]),
        ("a[b.jpg", ["a[b.jpg"], ["ab.jpg"]),
        ("[[&&~].jpg", ["[.jpg", "&.jpg", "~.jpg"], ["a.jpg"]),
        ("a+(b).jpg", ["a+(b).jpg"], ["aab.jpg"]),
    ],
)
def test_translate(pattern: str, matching: list[str], others: list[str]) -> None:
    match = translate(pattern).fullmatch
    assert [name for name in matching if not match(name)] == []
    assert [name for name in others if match(name)] == []


@given(st.text("ab-]![*?.", max_size=8), st.text("ab-]![.*", max_size=6))
def test_within_one_segment_it_agrees_with_fnmatch(pattern: str, name: str) -> None:
    if pattern == "**":
        return  # `**` alone wants at least one character
    assert bool(translate(pattern).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


def test_name_filter() -> None:
    names = ["a.jpg", "raw/a.jpg", "raw/b.png", "raw/old/c.jpg"]

    def taken(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
        return list(filter(name_filter(include, exclude), names))

    assert taken() == names
    assert taken(("*.jpg",)) == ["a.jpg", "raw/a.jpg", "raw/old/c.jpg"]
    assert taken(("raw/*.jpg",)) == ["raw/a.jpg"]
    assert taken(("raw/**",), ("c.*",)) == ["raw/a.jpg", "raw/b.png"]
    assert taken(("*.png", "a.jpg"), ()) == ["a.jpg", "raw/a.jpg", "raw/b.png"]
    assert taken((), ("raw/**",)) == ["a.jpg"]
    assert taken(("*.JPG",)) == []


@pytest.mark.parametrize(
    ("pattern", "folder", "expected"),
    [
        ("*.jpg", "out", False),
        ("*/*.jpg", "out", True),
        ("*/*.jpg", "out/deep", False),
        ("raw/*.jpg", "out", False),
        ("raw/**/*.jpg", "raw/out", True),
        ("raw/**/*.jpg", "out", False),
        ("**", "out", True),
        ("a/b/*", "a", True),
    ],
)
def test_can_match_below(pattern: str, folder: str, expected: bool) -> None:
    assert can_match_below(pattern, folder) is expected


def test_has_wildcard() -> None:
    assert [name for name in ("a*", "a?", "[a]", "a]", "plain") if has_wildcard(name)] == ["a*", "a?", "[a]"]
