"""What errors say."""

from __future__ import annotations

import pytest

from pipeline.errors import first_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("one line"), "one line"),
        (RuntimeError("\n  \n first \r\nsecond"), "first"),
        (RuntimeError("first\u2028second"), "first"),
        (RuntimeError(" \n\t"), "RuntimeError"),
        (MemoryError(), "MemoryError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_the_first_line_of_a_text_stands_for_it(error: Exception, expected: str) -> None:
    assert first_line(error) == expected


def test_a_long_line_is_cut_where_asked() -> None:
    error = RuntimeError("x" * 1000 + "\nadvice")
    assert first_line(error) == "x" * 1000
    assert first_line(error, max_chars=160) == "x" * 160
