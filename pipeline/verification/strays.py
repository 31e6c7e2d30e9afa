"""What lies below images/ and that no listing gives a key to: links, devices, and names that cannot be keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.sharding.names import OUTPUT_FOLDER
from pipeline.storage import ObjectStore, RemovesStrays
from pipeline.storage.keys import ListingObserver, shown
from pipeline.verification.findings import Finding
from pipeline.verification.ledger import Ledger

_UNUSABLE = "its name cannot be a key (control characters, '..', or not Unicode), so that no row can name it"
_SPECIAL = "a link to a folder or to nothing, a device or a pipe, which is no output"
_REMOVED = "--delete-orphans removes it"
_BY_HAND = "it has to be removed by hand, with the store's own tools"


@dataclass(slots=True)
class Strays(ListingObserver):
    """Collects what a listing leaves out, under the names that the store gives them."""

    unusable_names: list[str] = field(default_factory=list)
    special_names: list[str] = field(default_factory=list)

    def unusable(self, name: str) -> None:
        """See ListingObserver."""
        self.unusable_names.append(name)

    def special(self, name: str) -> None:
        """See ListingObserver."""
        self.special_names.append(name)


def check_strays(store: ObjectStore, ledger: Ledger, strays: Strays, notes: list[str]) -> Iterator[Finding]:
    """Find them: they belong to no row. Keys of these findings are escaped, and no names to delete anything by.

    A link behind which rows have their outputs is no stray, whoever moved these there; a note says that what else lies
    behind it was not looked at.
    """
    remedy = _REMOVED if isinstance(store, RemovesStrays) else _BY_HAND
    for name in strays.unusable_names:
        yield Finding("orphan_unusable", shown(name), f"{_UNUSABLE}; {remedy}")
    for name in strays.special_names:
        if ledger.has_outputs_below(name):
            notes.append(f"{shown(name)} is a link; of what lies behind it, the outputs of rows alone were looked at")
        else:
            yield Finding("orphan_unusable", shown(name), f"{_SPECIAL}; {remedy}")


def find_strays(store: ObjectStore, keys: Iterable[str]) -> list[str]:
    """The store's own names of the strays that findings call `keys`; it is listed again for them."""
    strays, wanted = Strays(), frozenset(keys)
    for _ in store.list(OUTPUT_FOLDER, strays):
        pass
    return [name for name in (*strays.unusable_names, *strays.special_names) if shown(name) in wanted]
