"""What was skipped is said at the end of a run, and kept where it is asked for."""

from __future__ import annotations

import left_out
import pytest

pytest_plugins = ["pytester"]

TESTS = """
    import pytest
    @pytest.fixture
    def server(): pytest.skip("no server here\\nat all")
    def test_one(server): pass
    def test_two(server): pass
    @pytest.mark.skipif(True, reason="no card")
    def test_three(): pass
    def test_four(): pass
"""


def test_every_reason_is_said_with_the_number_of_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_parts=TESTS)
    file = pytester.path / "left-out"
    file.write_text("before\n")
    result = pytester.runpytest_inprocess("-p", "no:randomly", "--left-out", str(file), plugins=[left_out])
    result.assert_outcomes(passed=1, skipped=3)
    lines = ["1 skipped in test_parts.py: no card", "2 skipped in test_parts.py: no server here"]
    result.stdout.fnmatch_lines(["*left out*", *lines])
    assert file.read_text().splitlines() == ["before", *lines]


def test_a_run_without_gaps_says_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    file = pytester.path / "left-out"
    result = pytester.runpytest_inprocess("-p", "no:randomly", "--left-out", str(file), plugins=[left_out])
    result.stdout.no_fnmatch_line("*left out*")
    assert file.read_text() == ""
