from __future__ import annotations

import logging
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.execution.token_file import make_token, warn_of_loose_token


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user of this machine gets into; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def token_in(folder: Path, mode: int) -> Path:
    path = folder / "auth_token"
    path.write_text("secret-token")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("mode", "changes", "warns"),
    [
        (0o600, {}, False),
        (0o400, {}, False),
        (0o640, {}, True),
        (0o604, {}, True),
        (0o644, {"RAY_AUTH_MODE": "token"}, True),
        (0o644, {"RAY_AUTH_MODE": "disabled"}, False),
        (0o644, {"RAY_AUTH_TOKEN": "in the environment"}, False),
    ],
)
def test_a_token_that_others_can_read_is_named(
    reachable: Path, mode: int, changes: dict[str, str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = token_in(reachable, mode)
    with caplog.at_level(logging.WARNING):
        warn_of_loose_token({"RAY_AUTH_TOKEN_PATH": str(path)} | changes)
    assert [str(path) in record.getMessage() for record in caplog.records] == ([True] if warns else [])
    assert "secret-token" not in caplog.text


@pytest.mark.parametrize(("folder", "mode"), [(0o700, 0o666), (0o750, 0o604), (0o740, 0o644)])
def test_a_token_that_nobody_gets_to_is_not(
    reachable: Path, folder: int, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = token_in(reachable, mode)
    reachable.chmod(folder)
    warn_of_loose_token({"RAY_AUTH_TOKEN_PATH": str(path)})
    assert not caplog.records


def test_a_token_that_is_not_there_is_rays_to_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_loose_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    assert not caplog.records


@pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_MODE": "token"}])
def test_a_token_is_made_for_its_owner_alone_and_once(home: Path, environment: dict[str, str]) -> None:
    make_token(environment)
    path = home / ".ray" / "auth_token"
    made = path.read_text()
    assert len(bytes.fromhex(made)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_token(environment)
    assert path.read_text() == made
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(
    "environment", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x"}, {"RAY_AUTH_TOKEN_PATH": "/none"}]
)
def test_no_token_is_made_where_none_is_taken_from_there(home: Path, environment: dict[str, str]) -> None:
    make_token(environment)
    assert not list(home.iterdir())


def test_a_home_that_cannot_be_written_is_rays_to_name(home: Path) -> None:
    (home / ".ray").write_text("a file")
    make_token({})
    assert (home / ".ray").read_text() == "a file"
