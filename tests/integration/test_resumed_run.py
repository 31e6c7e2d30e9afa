"""A tier that two processes share and that was stopped goes on behind what passed."""

from __future__ import annotations

from pathlib import Path

import pytest
import resume

pytest_plugins = ["pytester"]

TESTS = """
    import pathlib
    def test_one(): pass
    def test_two(): assert pathlib.Path("mended").exists()
"""


def test_two_processes_leave_out_what_passed_and_keep_one_record(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(f"""
        import sys
        sys.path.insert(0, {str(Path(resume.__file__).parent)!r})
        import resume
        resume.state_of_code = lambda root: "code"
        pytest_addoption, pytest_configure = resume.add_option, resume.register
    """)
    pytester.makepyfile(test_a=TESTS, test_b=TESTS)
    options = ("-p", "no:randomly", "-n", "2", "--dist", "loadfile", "--resume", "run")
    assert pytester.runpytest_subprocess(*options).parseoutcomes() == {"passed": 2, "failed": 2}
    record = pytester.path / "run" / "passed"
    names = ["test_a.py::test_one", "test_b.py::test_one"]
    assert sorted(record.read_text().splitlines()) == ["code", *names]
    assert pytester.runpytest_subprocess(*options).parseoutcomes() == {"failed": 2}
    Path("mended").touch()
    assert pytester.runpytest_subprocess(*options).parseoutcomes() == {"passed": 2}
    assert not record.exists()
    record.parent.mkdir()
    record.write_text("\n".join(["code", *names, "test_a.py::test_two", "test_b.py::test_two", ""]))
    assert pytester.runpytest_subprocess(*options).ret == pytest.ExitCode.OK
    assert not record.exists()
