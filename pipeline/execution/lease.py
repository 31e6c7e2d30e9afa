"""What a worker is given to do."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.execution.node_health import NOWHERE, Place
from pipeline.records import ImageResult, Shard


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `holder`, which is at `place`, to attempt a shard, or a probe or a part of one.

    `attempt` counts from 1 in one run of the driver. With `rows`, the images were done in parts, and the shard is to be
    committed with these. `is_excused`: it came back for the devices of its holders alone, and endangers nobody.
    `is_last`: if its store fails it once more, it is given up. `is_suspect`: a holder, or its device, was lost with it.
    """

    shard: Shard
    attempt: int
    holder: str
    rows: tuple[ImageResult, ...] = ()
    place: Place = NOWHERE
    is_excused: bool = False
    is_last: bool = False
    is_suspect: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether it may have been what a holder went down with: nothing is put beside it."""
        return self.is_suspect and not self.is_excused
