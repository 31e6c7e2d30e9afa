"""A command that logs JSON as a collector of logs meets it: through a pipe, and where it crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

_LONG = 20_000  # bytes: more than one write to a pipe is promised to keep whole


def run(code: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what standard error holds."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    return ended.returncode, [json.loads(line) for line in ended.stderr.splitlines()]


def test_threads_and_native_code_do_not_mix_their_lines() -> None:
    code = f"""if True:
        import os
        from concurrent.futures import ThreadPoolExecutor
        from jobs.json_log import json_log
        with json_log() as reporter, ThreadPoolExecutor(8) as pool:
            def both(number):
                os.write(2, b"native %d\\n" % number)
                reporter.note(f"{{number}} " + "x" * {_LONG})
            list(pool.map(both, range(200)))
    """
    exit_code, lines = run(code)
    assert exit_code == 0
    native = [line["message"] for line in lines if line["event"] == "output"]
    assert sorted(native) == sorted(f"native {number}" for number in range(200))
    notes = [line["message"] for line in lines if line["event"] == "note"]
    assert sorted(int(text.split()[0]) for text in notes) == list(range(200))


@pytest.mark.parametrize("quiet", [False, True])
def test_the_last_words_of_a_crash_are_lines_too(quiet: bool) -> None:
    code = f"""if True:
        import os
        from jobs.json_log import json_log
        with json_log(quiet={quiet}) as reporter:
            reporter.job("job-1")
            os.write(2, b"free(): invalid pointer\\nterminate called")
            os.abort()
    """
    exit_code, lines = run(code)
    assert exit_code < 0
    words = [line for line in lines if line["event"] == "output"]
    assert [line["message"] for line in words] == ["free(): invalid pointer", "terminate called"]
    assert (words[-1]["level"], words[-1]["job_id"]) == ("error", "job-1")
