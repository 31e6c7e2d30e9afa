"""NAME=VALUE options: what they change, and what is said of those that cannot be used."""

from __future__ import annotations

import pytest

from jobs.assignments import assigned
from pipeline.errors import ConfigError
from pipeline.simulation.camera import CameraRanges
from pipeline.training.loss_config import LossConfig


def test_fields_are_changed_and_the_others_kept() -> None:
    loss = assigned(LossConfig, LossConfig(log_weight=3), {"area_weight": "0.5", "peak_block_px": "4"}, "--loss")
    assert loss == LossConfig(log_weight=3, area_weight=0.5, peak_block_px=4)
    camera = assigned(CameraRanges, CameraRanges(), {"jpeg_quality": ["50", "60"], "cast_sigma": "0"}, "--camera")
    assert camera == CameraRanges(jpeg_quality=(50, 60), cast_sigma=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"log_weight": "-1"}, "--loss log_weight is -1.0; give 0 or more"),
        ({"log_weight": "heavy"}, "--loss log_weight: it should be a valid number, "),
        ({"log_weight": ["1", "2"]}, "--loss log_weight: give one number, not 1,2"),
        ({"peak_block_px": "2.5"}, "--loss peak_block_px: it should be a valid integer, "),
        ({"foo": "1"}, "--loss foo: no such field; there are area_weight, clipped_weight, "),
    ],
)
def test_bad_losses(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        assigned(LossConfig, LossConfig(), changes, "--loss")
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("5", "--camera full_well_e: give LOW,HIGH, not 5"),
        (["5", "6", "7"], "--camera full_well_e: give LOW,HIGH, not 5,6,7"),
        (["5", "x"], "--camera full_well_e: it should be a valid number, "),
        (["9", "6"], "--camera full_well_e must be a range within 1 to 1e+09, not (9.0, 6.0)"),
    ],
)
def test_bad_ranges(value: object, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        assigned(CameraRanges, CameraRanges(), {"full_well_e": value}, "--camera")
    assert str(refused.value).startswith(says)
