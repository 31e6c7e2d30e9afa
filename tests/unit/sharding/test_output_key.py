"""Output keys are readable, stay below images/, and are never shared."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.sharding.names import MAX_KEY_BYTES, MAX_SEGMENT_BYTES, output_key, unrooted
from pipeline.storage.durable import TEMP_PREFIX

# Text that is rich in what the encoding treats specially, beside all of Unicode with lone surrogates.
SPECIAL = st.sampled_from(
    [
        "%",
        "%2",
        "%2E",
        "%25",
        "%_",
        "%~",
        ".",
        "..",
        "/",
        "//",
        "\\",
        "\0",
        ".v2",
        ".v10",
        ".v1",
        ".exr",
        TEMP_PREFIX,
        "a",
        "a.jpg",
        "\udc80",
        "é",
    ]
)
ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=12)
SOURCES = st.lists(SPECIAL | ANY_TEXT, max_size=8).map("".join)
REVISIONS = st.integers(1, 12)


@pytest.mark.parametrize(
    ("source", "revision", "key"),
    [
        ("a/c.jpg", 1, "images/a/c.jpg.exr"),
        ("a/c.jpg", 2, "images/a/c.jpg.v2.exr"),
        ("a/c.jpg", 31, "images/a/c.jpg.v31.exr"),
        ("Ferien 2024/Zürich (1).JPG", 1, "images/Ferien 2024/Zürich (1).JPG.exr"),
        ("100% wool/写真#1.png", 1, "images/100% wool/写真#1.png.exr"),
        (".hidden/..jpg", 1, "images/.hidden/..jpg.exr"),
        ("s3://bucket/k.jpg", 1, "images/bucket/k.jpg.exr"),
        ("/photos/a.jpg", 1, "images/photos/a.jpg.exr"),
        ("../up.jpg", 1, "images/%2E%2E/up.jpg.exr"),
        ("/", 1, "images/%_.exr"),
        ("a//b.jpg", 1, "images/a/%_/b.jpg.exr"),
        ("a\\b\n.jpg", 1, "images/a%5Cb%0A.jpg.exr"),
        ("50%41.jpg", 1, "images/50%2541.jpg.exr"),
        ("a.jpg.v2", 1, "images/a.jpg%2Ev2.exr"),
        ("a.jpg.v1", 1, "images/a.jpg.v1.exr"),
        ("a.jpg.exr/b.jpg", 1, "images/a.jpg%2Eexr/b.jpg.exr"),
        (f"{TEMP_PREFIX}b.jpg", 1, "images/%2Ehdrfleet-tmp-b.jpg.exr"),
        (f"{TEMP_PREFIX}a%2E/{TEMP_PREFIX}.jpg", 2, "images/%2Ehdrfleet-tmp-a%252E/%2Ehdrfleet-tmp-.jpg.v2.exr"),
    ],
)
def test_examples(source: str, revision: int, key: str) -> None:
    assert output_key(source, revision) == key


@given(SOURCES, REVISIONS)
@example("/".join(["x" * 60] * 40), 1)
@example("é" * 600, 12)
@example("\udc80" * 100 + "/a", 1)
def test_a_key_is_always_safe(source: str, revision: int) -> None:
    key = output_key(source, revision)
    assert len(key.encode()) <= MAX_KEY_BYTES
    segments = key.split("/")
    assert segments[0] == "images"
    assert segments[-1].endswith(".exr")
    for segment in segments[1:]:
        assert segment not in {"", ".", ".."}
        assert len(segment.encode()) <= MAX_SEGMENT_BYTES
        assert "\\" not in segment
        assert all(ord(char) >= 0x20 and not 0x7F <= ord(char) < 0xA0 for char in segment)
    # A folder that looks like an output would make one output another's folder.
    assert not any(segment.endswith(".exr") for segment in segments[1:-1])


@given(SOURCES, REVISIONS, SOURCES, REVISIONS)
@example("a.jpg", 2, "a.jpg.v2", 1)
@example("a.jpg.v2", 2, "a.jpg", 2)
@example("%2E", 1, ".", 1)
@example("%_", 1, "", 1)
@example("%\0", 1, "%%00", 1)
@example("a.jpg%2Ev2", 1, "a.jpg.v2", 1)
@example("x" * 300, 1, "x" * 301, 1)
@example("y/" * 600, 1, "y/" * 601, 1)
def test_no_two_images_share_a_key(source: str, revision: int, other: str, other_revision: int) -> None:
    same_image = (unrooted(source), revision) == (unrooted(other), other_revision)
    assert (output_key(source, revision) == output_key(other, other_revision)) is same_image


def test_what_is_too_long_is_cut_at_a_character_and_keeps_a_digest() -> None:
    key = output_key("a/" + "é" * 200 + ".jpg", 1)
    name = key.rpartition("/")[2]
    assert name.startswith("é" * 90)
    assert "%~" in name
    assert key != output_key("a/" + "é" * 200 + ".png", 1)
    deep = output_key("/".join(f"folder-{index:03d}" for index in range(200)) + "/a.jpg", 1)
    assert deep.startswith("images/folder-000/folder-001/")
    assert len(deep.encode()) <= MAX_KEY_BYTES


def test_the_revision_of_a_cut_name_shows() -> None:
    assert output_key("x" * 400, 2) == output_key("x" * 400, 1).removesuffix(".exr") + ".v2.exr"


@pytest.mark.parametrize("revision", [0, -1])
def test_revisions_start_at_one(revision: int) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        output_key("a.jpg", revision)
