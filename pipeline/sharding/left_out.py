"""What a listing below a folder leaves out: counted where it matters, and passed by where it does not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pipeline.config import SourceConfig
from pipeline.records import ImageTask
from pipeline.sharding.listing import ListingCounts
from pipeline.sharding.patterns import excludes_below, name_filter
from pipeline.sharding.wanted import WantedSources
from pipeline.storage.durable import TEMP_PREFIX
from pipeline.storage.keys import ListingObserver


class LeftOut(ListingObserver):
    """What a listing below a folder leaves out.

    `reaches` tells whether the source lists anything below a folder, `is_match` whether it means a name. Where only
    some sources are `wanted`, what else is left out is not counted.
    """

    def __init__(
        self,
        config: SourceConfig,
        folder_url: str,
        counts: ListingCounts,
        wanted: WantedSources | None,
        *,
        reaches: Callable[[str], bool] = lambda _below: True,
        is_match: Callable[[str], object] = lambda _name: True,
    ) -> None:
        self.prefix = f"{folder_url.rstrip('/')}/"
        self._config, self._counts, self._wanted = config, counts, wanted
        self._reaches, self._is_match = reaches, is_match
        self._is_taken = name_filter((), config.exclude)
        self._unusable: deque[str] = deque()

    def unusable(self, name: str) -> None:
        """See ListingObserver: kept for `refused`."""
        self._unusable.append(name)

    def special(self, name: str) -> None:
        """See ListingObserver: counted where options do not leave it out."""
        below = name.removeprefix(self.prefix)
        if self._wanted is not None and below not in self._wanted:
            return
        is_excluded = not self._is_taken(below) or excludes_below(self._config.exclude, below)
        if not is_excluded and (self._is_match(below) or self._reaches(below)):
            self._counts.pass_by(below)

    def temporary(self, name: str) -> None:
        """See ListingObserver: counted among what is not taken as an image."""
        # What is left in a folder that once was a destination, or an image that somebody gave such a name.
        below = name.removeprefix(self.prefix)
        if self._wanted is not None and below not in self._wanted:
            return
        if name_filter(self._config.include, self._config.exclude)(below) and self._is_match(below):
            self._counts.ignore(below, f"{TEMP_PREFIX}*")

    def can_do_without(self, folder: str) -> bool:
        """See ListingObserver: where nothing of it is taken. Where only some sources are wanted, any folder
        of the source: noted if one of these lies below it.
        """
        below = folder.removeprefix(self.prefix)
        if self._wanted is not None and below != folder:  # it is not the source itself
            if self._wanted.lies_below(below):
                self._counts.deny(below)
            return True
        return not self._reaches(below) or excludes_below(self._config.exclude, below)

    def refused(self) -> Iterator[ImageTask]:
        """What the store cannot give a key to: passed on, for the listing counts what it does not take."""
        while self._unusable:
            name = self._unusable.popleft()
            yield ImageTask(name.removeprefix(self.prefix), name, 0, "")
