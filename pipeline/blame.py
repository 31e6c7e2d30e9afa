"""Whose failure it is: that of one object, which costs its row, or that of its store, which ends the attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import ImageError, ObjectDeniedError, StorageError, TransientStorageError, may_pass

_Result = TypeVar("_Result")


def blame_one_object(
    operation: Callable[[], _Result],
    *,
    require_answer: Callable[[], None],
    as_row: Callable[[StorageError], ImageError],
    is_last: bool,
) -> _Result:
    """Return what `operation` on one object returns.

    Raises the ImageError that `as_row` makes of a StorageError that concerns this object alone: of one that may pass
    only where this is the last attempt (`is_last`), of any other at once. `require_answer` tells: it does the like with
    another object, and raises StorageError where the store does not answer for that either. Then, and where rights
    are refused, the StorageError is raised as it is, and no image fails for its store.

    What may pass is tried once more between two answers: the store may have come back since the object was asked for.
    """
    try:
        return operation()
    except StorageError as error:
        if not _may_be_alone(error, is_last=is_last):
            raise
        failure = error
    _require(require_answer, failure)
    if may_pass(failure):
        try:
            return operation()
        except ObjectDeniedError:
            raise
        except StorageError as error:
            failure = error
        _require(require_answer, failure)
    raise as_row(failure) from failure


def _may_be_alone(error: StorageError, *, is_last: bool) -> bool:
    if isinstance(error, ObjectDeniedError):
        return False  # rights are given to jobs, and not to outputs one by one
    return is_last or not may_pass(error)


def _require(require_answer: Callable[[], None], failure: StorageError) -> None:
    """Raise where the store does not answer: what it said of the object, unless what it says now may pass."""
    try:
        require_answer()
    except TransientStorageError as error:
        raise (failure if isinstance(failure, TransientStorageError) else error) from error
    except StorageError as error:
        raise failure from error
