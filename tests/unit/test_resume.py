"""A tier that was stopped goes on behind what passed; other code begins again."""

from __future__ import annotations

from pathlib import Path

import pytest
from resume import Resume

pytest_plugins = ["pytester"]

TESTS = """
    import pathlib
    def test_one(): pass
    def test_two(): assert pathlib.Path("mended").exists()
    def test_three(): pass
"""


def run(pytester: pytest.Pytester, state: str = "code") -> dict[str, int]:
    result = pytester.runpytest_inprocess("-p", "no:randomly", plugins=[Resume(pytester.path / "run", state)])
    return result.parseoutcomes()


def test_what_passed_is_left_out_until_all_has(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    assert run(pytester) == {"passed": 2, "failed": 1}
    assert run(pytester) == {"deselected": 2, "failed": 1}
    Path("mended").touch()
    assert run(pytester) == {"deselected": 2, "passed": 1}
    assert run(pytester) == {"passed": 3}


def test_other_code_begins_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    run(pytester)
    left = pytester.path / "run" / "left by a test"
    left.touch()
    assert run(pytester) == {"deselected": 2, "failed": 1}
    assert left.exists()
    assert run(pytester, "other code") == {"passed": 2, "failed": 1}
    assert not left.exists()


def test_a_run_killed_while_it_wrote_a_name_repeats_that_test(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("run")
    folder.joinpath("passed").write_text("code\ntest_a_run.py::test_one\ntest_a_ru")
    pytester.makepyfile(test_a_run=TESTS)
    pytester.path.joinpath("mended").touch()
    result = pytester.runpytest_inprocess("-p", "no:randomly", "test_a_run.py", plugins=[Resume(folder, "code")])
    assert result.parseoutcomes() == {"deselected": 1, "passed": 2}


def test_a_run_killed_behind_its_last_test_has_passed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_last="def test_only(): pass")
    folder = pytester.mkdir("run")
    folder.joinpath("passed").write_text("code\ntest_last.py::test_only\n")
    result = pytester.runpytest_inprocess("-p", "no:randomly", plugins=[Resume(folder, "code")])
    assert result.ret == pytest.ExitCode.OK
    assert not folder.exists()
