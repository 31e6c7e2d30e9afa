"""The configuration of a training run: frozen, validated when built, with a digest of what shapes the weights."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.config import FrozenModel, InferenceConfig, Precision, first_fault
from pipeline.errors import ConfigError
from pipeline.training.loss_config import LossConfig

SCHEMA_VERSION = 2
"""Raised when the same configuration would train otherwise than before, or when checkpoints change their form."""

# Fields that came later, with what was done before there was a choice: left out of records and digests while they have
# that value, so that older runs go on.
_NEUTRAL = {"loss.gradient_weight": 0.0, "loss.fine_weight": 0.0}
# What may differ from one start to the next on the same OUT: how long to train, and where and how to run.
_FREE_FIELDS = frozenset(
    {
        "steps",
        "time_budget_s",
        "device",
        "compile",
        "num_data_workers",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "log_every_steps",
        "max_skipped_in_a_row",
    }
)


class TrainingConfig(FrozenModel):
    """Everything that defines a training run. Build it with `build_training_config` to get one-line errors.

    Training ends after `steps`, or after `time_budget_s` seconds in the loop (all starts on one OUT together),
    whichever comes first. `batch_size` is over all workers. `learning_rate` is reached after `warmup_steps` and falls
    along a cosine to `final_learning_rate_share` of itself. The optimiser is AdamW, which is Adam while
    `weight_decay` is 0; `betas` are those of the HDRUNet paper. `init` is `identity` (mask 1, residual 0, the other
    layers random) or the path or URL of HDRUNet weights, which fix `width`. `seed` decides the first weights and every
    patch: the data of a step depend on the seed and the step alone, not on the number of workers or on restarts.
    A step whose loss or gradient is not finite is skipped; more than `max_skipped_in_a_row` end the run.
    `validate_every_steps` 0 never validates. Patches of `patch_px` are cropped from simulated photographs of `view_px`
    (0: of the patch's size), `crops_per_view` from each, one where photographs are no larger than patches; with
    `pool_views`, from that many which are taken at the start and kept on the device, for GPUs that learn faster than
    processors photograph.
    """

    steps: int = Field(20_000, ge=1)
    time_budget_s: float | None = Field(None, gt=0)
    batch_size: int = Field(8, ge=1, le=65536)
    patch_px: int = Field(128, ge=16, le=4096, multiple_of=4)
    view_px: int = Field(256, ge=0, le=16384)
    crops_per_view: int = Field(4, ge=1, le=1024)
    pool_views: int = Field(0, ge=0, le=10_000_000)
    width: int = Field(64, ge=2, le=1024, multiple_of=2)
    init: str = Field("identity", min_length=1)
    learning_rate: float = Field(4e-4, gt=0, le=1)
    final_learning_rate_share: float = Field(0.01, ge=0, le=1)
    warmup_steps: int = Field(200, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    loss: LossConfig = LossConfig()
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Precision = "auto"
    device: str = "auto"
    compile: bool = False
    num_data_workers: int | None = Field(None, ge=0, le=1024)
    checkpoint_every_steps: int = Field(250, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    validate_every_steps: int = Field(500, ge=0)
    num_validation_patches: int = Field(64, ge=1)
    log_every_steps: int = Field(10, ge=1)
    max_skipped_in_a_row: int = Field(50, ge=1)

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            msg = "both betas must lie in [0, 1)"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _views_hold_patches(self) -> Self:
        if self.pool_views and not self.view_px:
            msg = "pool_views needs a view_px"
            raise ValueError(msg)
        if 0 < self.view_px < self.patch_px:
            msg = f"patch_px {self.patch_px} does not fit into view_px {self.view_px}; give larger views, or 0"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _nothing_unheard(self) -> Self:
        if self.pool_views and "crops_per_view" in self.model_fields_set:
            msg = "crops_per_view means nothing with pool_views, which are cropped anew for each step; drop it"
            raise ValueError(msg)
        if not self.validate_every_steps and "num_validation_patches" in self.model_fields_set:
            msg = "num_validation_patches means nothing where validate_every_steps is 0; drop one of the two"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _small_views_give_one_patch(self) -> Self:
        """A second crop of a photograph that is no larger than a patch would be the same patch."""
        if self.crops_per_view > 1 and self.view_px in {0, self.patch_px}:
            if "crops_per_view" in self.model_fields_set:
                msg = (
                    f"crops_per_view {self.crops_per_view} needs photographs larger than patches; give 1, or a view_px"
                )
                raise ValueError(msg)
            object.__setattr__(self, "crops_per_view", 1)
        return self

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        return InferenceConfig(device=value).device

    def bound_fields(self) -> dict[str, object]:
        """What shapes the weights and must stay the same for one OUT, flat: `loss.<name>` for the parts of the loss."""
        values = self.model_dump(mode="json", exclude=set(_FREE_FIELDS))
        loss = values.pop("loss")
        values |= {f"loss.{name}": value for name, value in loss.items()}
        later = {name for name, value in _NEUTRAL.items() if values[name] == value}
        return {
            "schema_version": SCHEMA_VERSION,
            **{name: value for name, value in values.items() if name not in later},
        }

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `bound_fields`; checkpoints carry it."""
        return hashlib.sha256(json.dumps(self.bound_fields(), sort_keys=True).encode()).hexdigest()


def build_training_config(**values: object) -> TrainingConfig:
    """Validate and build a TrainingConfig; a ConfigError names the first offending field in one line."""
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        where, what = first_fault(error)
        raise ConfigError(f"{where or 'options'}: {what}") from error
