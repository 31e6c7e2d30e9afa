"""What the processes that share one run must agree on; in one process, all of this is free."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from pipeline.training.batches import Share
from pipeline.training.losses import at_least_one


class Peers:
    """The processes of one run, over torch.distributed's default group where there is more than one of them."""

    def __init__(self, share: Share | None = None) -> None:
        self.share = share or Share()
        self._device = torch.device("cpu")
        if self.share.world_size > 1 and distributed.get_backend() == "nccl":
            self._device = torch.device("cuda", torch.cuda.current_device())

    @property
    def is_first(self) -> bool:
        """Whether this process validates and writes."""
        return self.share.rank == 0

    def agree(self, elapsed_s: float, should_stop: bool) -> tuple[float, bool]:
        """Return the first process's values in every process: clocks differ, and so would rates and ends."""
        if self.share.world_size == 1:
            return elapsed_s, should_stop
        values = torch.tensor([elapsed_s, float(should_stop)], dtype=torch.float64, device=self._device)
        distributed.broadcast(values, src=0)
        agreed_s, stop = values.tolist()
        return agreed_s, bool(stop)

    def agree_on_step(self, step: int | None) -> int | None:
        """Return the first process's choice of a checkpoint in every process."""
        if self.share.world_size == 1:
            return step
        value = torch.tensor([-1 if step is None else step], dtype=torch.int64, device=self._device)
        distributed.broadcast(value, src=0)
        agreed = int(value.item())
        return None if agreed < 0 else agreed

    def share_counts(self, counts: Tensor) -> Tensor:
        """Return what each process divides its sums by, so that the mean over processes is that of the whole batch.

        That is the sum of `counts` (int64, on the training device) over all processes, at least 1, over their number.
        Every process must call it equally often, also one that has nothing to count.
        """
        if self.share.world_size == 1:
            return at_least_one(counts)
        distributed.all_reduce(counts)
        return at_least_one(counts) / self.share.world_size

    def mean(self, values: Tensor) -> list[float]:
        """Return the means over all processes of a vector of float32 on the training device."""
        if self.share.world_size > 1:
            distributed.all_reduce(values)
            values /= self.share.world_size
        means: list[float] = values.tolist()
        return means
