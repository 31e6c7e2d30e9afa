"""What a configuration refuses, and what may change from one start to the next."""

from __future__ import annotations

import pytest
from training_runs import tiny_config

from pipeline.errors import ConfigError
from pipeline.training.config import build_training_config


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
    ],
)
def test_nonsense_is_refused_by_name_in_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build_training_config(**values)
    assert "\n" not in str(caught.value)


def test_the_digest_covers_what_shapes_the_weights_and_nothing_else() -> None:
    base = tiny_config().digest()
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
    assert tiny_config(**free).digest() == base
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
    digests = {tiny_config(**{name: value}).digest() for name, value in bound.items()}
    assert len(digests) == len(bound)
    assert base not in digests


def test_loss_fields_read_from_text_are_numbers() -> None:
    loss = tiny_config(loss={"log_weight": "0.5", "peak_block_px": "4"}).loss
    assert (loss.log_weight, loss.peak_block_px) == (0.5, 4)
