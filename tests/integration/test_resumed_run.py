"""A tier that two processes share and that was stopped goes on behind what passed."""

from __future__ import annotations

import subprocess
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


def test_code_that_git_does_not_know_counts_unless_it_is_ignored(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        named = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", *named, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    git("init")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "begin")
    states = [resume.state_of_code(tmp_path)]
    for name, content in (("new.py", "1"), ("new.py", "2"), ("below/other.py", "2"), ("a.py", "2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        states.append(resume.state_of_code(tmp_path))
    assert len(set(states)) == len(states)
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored/more.py").write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    assert resume.state_of_code(tmp_path) == states[-1]


def test_two_processes_say_together_what_they_left_out(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(f"""
        import sys
        sys.path.insert(0, {str(Path(resume.__file__).parent)!r})
        pytest_plugins = ["left_out"]
    """)
    skipping = "import pytest\ndef test_one(): pytest.skip('no server here')\ndef test_two(): pass"
    pytester.makepyfile(test_a=skipping, test_b=skipping)
    result = pytester.runpytest_subprocess("-n", "2", "--dist", "loadfile", "--left-out", "said")
    lines = [f"1 skipped in {name}.py: no server here" for name in ("test_a", "test_b")]
    result.stdout.fnmatch_lines(["*left out*", *lines])
    assert (pytester.path / "said").read_text().splitlines() == lines
