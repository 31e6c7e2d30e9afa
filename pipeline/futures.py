"""Waiting for what the stages of one attempt make, and giving it up together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TypeVar

_Result = TypeVar("_Result")
_Loaded = TypeVar("_Loaded")


def has_failed(result: Future[_Result]) -> bool:
    """Whether it ended with an exception, which is not so for one that was dropped."""
    return not result.cancelled() and result.exception() is not None


def all_or_first_failure(results: Sequence[Future[_Result]]) -> list[_Result]:
    """Wait for all results, or raise the first failure as soon as there is one, whatever is still queued before it."""
    done, _ = wait(results, return_when=FIRST_EXCEPTION)
    for result in done:
        result.result()
    return [result.result() for result in results]


def abandon(
    loads: Iterable[Future[_Loaded | None]], results: Sequence[Future[_Result]], release: Callable[[_Loaded], None]
) -> None:
    """Drop what no stage took over, and let what was being stored finish, so that the attempt is really over.

    What is queued for a store that fails is dropped: it would be waited for once per image. `release` gives back what
    an image holds that is loaded in vain.
    """

    def release_loaded(load: Future[_Loaded | None]) -> None:
        if not load.cancelled() and load.exception() is None and (loaded := load.result()) is not None:
            release(loaded)

    for load in loads:
        if not load.cancel():
            load.add_done_callback(release_loaded)
    wait(results, return_when=FIRST_EXCEPTION)
    if any(has_failed(result) for result in results if result.done()):
        for result in results:
            result.cancel()
    wait(results)
