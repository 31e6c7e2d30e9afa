"""The options of `hdrfleet train`: how they are read, and that they say what the configuration says."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest

from jobs.train import parse_assignments, parse_duration, train
from pipeline.errors import ConfigError
from pipeline.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2.5h", 9000), ("45s", 45), ("600", 600), ("1d", 86400), (" 3H ", 10800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time-budget") == seconds
    assert parse_duration(None, "--time-budget") is None


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "5 m", "1h30m", "forever", "nan", "1e3"])
def test_what_is_no_duration_is_refused_by_flag(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--time-budget: .* is not a duration"):
        parse_duration(text, "--time-budget")


def test_assignments() -> None:
    values = parse_assignments(["log_weight=0.5", "full_well_e=800,40000"], "--loss")
    assert values == {"log_weight": "0.5", "full_well_e": ["800", "40000"]}
    assert parse_assignments(None, "--loss") == {}
    for bad in ("log_weight", "=1", "log_weight="):
        with pytest.raises(ConfigError, match=r"--loss: .* is not NAME=VALUE"):
            parse_assignments([bad], "--loss")


def test_the_command_has_the_defaults_of_the_configuration() -> None:
    fields = {
        "lr": "learning_rate",
        "final_lr_share": "final_learning_rate_share",
        "grad_clip": "grad_clip_norm",
        "validate_every": "validate_every_steps",
        "data_workers": "num_data_workers",
        "checkpoint_every": "checkpoint_every_steps",
        "log_every": "log_every_steps",
        **{
            name: name
            for name in (
                "steps",
                "init",
                "seed",
                "batch_size",
                "patch_px",
                "view_px",
                "pool_views",
                "width",
                "warmup_steps",
                "weight_decay",
                "ema_decay",
                "device",
                "precision",
                "compile",
                "keep_checkpoints",
            )
        },
    }
    config, parameters = TrainingConfig(), inspect.signature(train).parameters
    assert {option: parameters[option].default for option in fields} == {
        option: getattr(config, field) for option, field in fields.items()
    }
    # Some options mean nothing beside others, so the command leaves these to the configuration; help names the values.
    for option, field in {"crops_per_view": "crops_per_view", "validation_patches": "num_validation_patches"}.items():
        assert parameters[option].default is None
        (of_typer,) = get_type_hints(train, include_extras=True)[option].__metadata__
        assert f"(by default {getattr(config, field)})" in of_typer.help


def test_the_command_line_stays_light() -> None:
    code = "import sys, jobs.train; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"torch", "ray", "numpy", "matplotlib", "pyarrow", "fsspec"}.isdisjoint(loaded)
