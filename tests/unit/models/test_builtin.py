from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jobs.weights import describe_weights, read_weights
from pipeline.config import ModelConfig
from pipeline.errors import WeightsError
from pipeline.models import builtin

MAX_BYTES = 7_000_000


def test_the_default_weights_are_those_that_are_pinned() -> None:
    name, data = read_weights("default")
    assert data is not None
    assert name == builtin.DEFAULT_FILE
    assert hashlib.sha256(data).hexdigest() == builtin.DEFAULT_SHA256
    assert len(data) <= MAX_BYTES
    description = describe_weights("default")
    assert description["sha256"] == builtin.DEFAULT_SHA256
    assert description["is_released"] is False


def test_the_default_is_trained_and_identity_stays_by_name() -> None:
    assert ModelConfig().weights == builtin.DEFAULT == "default"
    assert set(builtin.BUILT_IN_WEIGHTS) == {"default", "identity"}
    assert read_weights("identity") == ("identity", None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{root}", "cannot read weights {root}: it is a folder; give a .pth or .safetensors file, or one of: default"),
        ("{root}/", "cannot read weights {root}/: it is a folder; give a .pth"),
        ("", "the name of the weights is empty; give a .pth"),
    ],
)
def test_what_is_no_file_is_called_what_it_is(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        read_weights(name.format(root=tmp_path))
    assert str(caught.value).startswith(says.format(root=tmp_path))


def test_damaged_or_missing_weights_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.models.builtin.resources.files", lambda _: tmp_path)
    with pytest.raises(WeightsError, match=r"holds no hdrunet-default\.safetensors"):
        builtin.read_default_weights()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / builtin.DEFAULT_FILE).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"hdrunet-default\.safetensors is damaged: its sha256 is [0-9a-f]{64}"):
        builtin.read_default_weights()
