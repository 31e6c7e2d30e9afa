"""What a conversion says about its workers on a cluster: how many may come and go, and where they may run."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from pipeline.places import FrozenModel

_LABEL_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]{0,251}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class ScalingConfig(FrozenModel):
    """Workers come and go with the work (`execution/scaling.py`), between these two numbers.

    `deadline_s` is counted from the start of the run. `budget_worker_s` is what all workers of the run may cost, in
    seconds of one, each from its request to its end; with it spent the run stops. Decisions are `interval_s` apart at
    least; a worker that has had nothing to do for `cool_down_s` goes. A node that an autoscaler has to get first may
    take `node_start_timeout_s`, on top of the worker's own time to start.
    """

    min_workers: int = Field(0, ge=0, le=100_000)
    max_workers: int = Field(ge=1, le=100_000)
    deadline_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    budget_worker_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    interval_s: float = Field(5.0, gt=0, allow_inf_nan=False)
    cool_down_s: float = Field(60.0, ge=0, allow_inf_nan=False)
    node_start_timeout_s: float = Field(1800.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_workers > self.max_workers:
            msg = f"{self.min_workers} workers at least and {self.max_workers} at most; lower one or raise the other"
            raise ValueError(msg)
        return self


class PlacementConfig(FrozenModel):
    """Where workers may run: K of them on one GPU, only on GPUs of a type, only on nodes with these Ray labels.

    Where the cloud refuses such nodes, workers that come and go ask for nodes that have `fallback_labels` as well.
    """

    workers_per_gpu: int | None = Field(None, ge=1, le=64)
    accelerator_type: str | None = Field(None, min_length=1, max_length=64)
    labels: dict[str, str] = Field(default_factory=dict)
    fallback_labels: dict[str, str] = Field(default_factory=dict)

    @field_validator("labels", "fallback_labels")
    @classmethod
    def _exact(cls, labels: dict[str, str]) -> dict[str, str]:
        """Only equality: Ray reads `!` and `in(...)` as operators, which the look at the nodes does not know."""
        for key, value in labels.items():
            if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
                msg = f"{key}={value} is no label; write KEY=VALUE of letters, digits and -_. (a key may have / too)"
                raise ValueError(msg)
        return labels

    @model_validator(mode="after")
    def _not_twice(self) -> Self:
        """Workers that fall back ask for both: one key has one value."""
        for key in self.fallback_labels.keys() & self.labels.keys():
            msg = f"{key} is {self.labels[key]} for every worker, and cannot be another label to fall back to; drop one"
            raise ValueError(msg)
        return self

    @property
    def asks_for_gpu(self) -> bool:
        """Whether workers reserve a GPU whatever the nodes of the moment have."""
        return self.workers_per_gpu is not None or self.accelerator_type is not None
