"""What a configuration refuses, and what may change from one start to the next."""

from __future__ import annotations

import pytest
from training_runs import tiny_config

from pipeline.errors import ConfigError
from pipeline.training.config import TrainingConfig, build_training_config
from pipeline.training.loss_config import LossConfig

DIGEST_OF_DEFAULTS = "15b6a1c4c35b54a9d1e323e6243321125bd19e65606fcc8404fd667e144dead8"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 0}, "steps: "),
        ({"batch_size": 0}, "batch_size: "),
        ({"patch_px": 130}, "patch_px: .* multiple of 4"),
        ({"width": 7}, "width: .* multiple of 2"),
        ({"learning_rate": 0}, "learning_rate: "),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"betas": (0.9, 1.0)}, "betas: both betas must lie"),
        ({"ema_decay": 1.0}, "ema_decay: "),
        ({"time_budget_s": 0}, "time_budget_s: "),
        ({"precision": "half"}, "precision: "),
        ({"device": "tpu"}, "device must be auto, cpu, cuda"),
        ({"loss": {"nonsense": 1}}, "nonsense"),
        ({"loss": {"log_weight": -1}}, "log_weight is -1"),
        ({"learning_rat": 1e-3}, "learning_rat: "),
        ({"view_px": 0, "crops_per_view": 2}, "crops_per_view 2 needs photographs larger than patches"),
        ({"view_px": 128, "patch_px": 128, "crops_per_view": 4}, "crops_per_view 4 needs photographs larger"),
        ({"pool_views": 100, "crops_per_view": 4}, "crops_per_view means nothing with pool_views"),
        ({"validate_every_steps": 0, "num_validation_patches": 64}, "num_validation_patches means nothing where"),
    ],
)
def test_nonsense_is_refused_by_name_in_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build_training_config(**values)
    assert "\n" not in str(caught.value)


def test_the_digest_covers_what_shapes_the_weights_and_nothing_else() -> None:
    base = tiny_config(validate_every_steps=5).digest()
    free = {
        "steps": 9,
        "time_budget_s": 60.0,
        "device": "auto",
        "compile": True,
        "num_data_workers": 3,
        "checkpoint_every_steps": 1,
        "keep_checkpoints": 9,
        "log_every_steps": 1,
        "max_skipped_in_a_row": 2,
    }
    assert tiny_config(validate_every_steps=5, **free).digest() == base
    bound = {
        "batch_size": 4,
        "patch_px": 20,
        "learning_rate": 0.1,
        "weight_decay": 0.1,
        "betas": (0.5, 0.5),
        "seed": 1,
        "init": "srgb",
        "loss": {"log_weight": 1.0},
        "precision": "bf16",
        "num_validation_patches": 3,
    }
    digests = {tiny_config(**{"validate_every_steps": 5, name: value}).digest() for name, value in bound.items()}
    assert len(digests) == len(bound)
    assert base not in digests


def test_the_digest_of_a_configuration_stays_what_checkpoints_of_earlier_versions_carry() -> None:
    assert TrainingConfig().digest() == DIGEST_OF_DEFAULTS
    assert TrainingConfig(loss=LossConfig(gradient_weight=0.1)).digest() != DIGEST_OF_DEFAULTS


@pytest.mark.parametrize("view_px", [0, 128])
def test_a_photograph_of_the_size_of_a_patch_gives_one(view_px: int) -> None:
    assert build_training_config(view_px=view_px, patch_px=128).crops_per_view == 1
    assert build_training_config(view_px=132, patch_px=128).crops_per_view == 4


def test_loss_fields_read_from_text_are_numbers() -> None:
    loss = tiny_config(loss={"log_weight": "0.5", "peak_block_px": "4"}).loss
    assert (loss.log_weight, loss.peak_block_px) == (0.5, 4)
