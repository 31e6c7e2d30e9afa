"""The next step that the demo prints names the command as it can be typed again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jobs.demo import _program


@pytest.mark.parametrize(
    ("started", "path", "named"),
    [
        (".venv/bin/hdrfleet", "/nowhere", ".venv/bin/hdrfleet"),
        (".venv/bin/hdrfleet", "{root}/other", ".venv/bin/hdrfleet"),
        ("{root}/.venv/bin/hdrfleet", "{root}/.venv/bin", "hdrfleet"),
        ("my env/hdrfleet", "/nowhere", "'my env/hdrfleet'"),
        ("{root}/jobs/cli.py", "/nowhere", "hdrfleet"),
    ],
)
def test_the_program_is_named_as_it_was_started(
    started: str, path: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (".venv/bin/hdrfleet", "other/hdrfleet", "my env/hdrfleet", "jobs/cli.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path.format(root=tmp_path))
    monkeypatch.setattr(sys, "argv", [started.format(root=tmp_path), "demo"])
    assert _program() == named
