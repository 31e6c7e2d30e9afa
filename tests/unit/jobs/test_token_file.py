from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jobs.token_file import warn_of_loose_token


@pytest.mark.parametrize(
    ("mode", "changes", "warns"),
    [
        (0o600, {}, False),
        (0o400, {}, False),
        (0o640, {}, True),
        (0o604, {}, True),
        (0o644, {"RAY_AUTH_MODE": "disabled"}, False),
        (0o644, {"RAY_AUTH_TOKEN": "in the environment"}, False),
    ],
)
def test_a_token_that_others_can_read_is_named(
    tmp_path: Path, mode: int, changes: dict[str, str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "auth_token"
    path.write_text("secret-token")
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        warn_of_loose_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)} | changes)
    assert [str(path) in record.getMessage() for record in caplog.records] == ([True] if warns else [])
    assert "secret-token" not in caplog.text


def test_a_token_that_is_not_there_is_rays_to_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_loose_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    assert not caplog.records
