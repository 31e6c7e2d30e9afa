from __future__ import annotations

import pytest

from jobs.convert import require_few_failures
from pipeline.config import ExecutionConfig
from pipeline.errors import TooManyFailuresError
from pipeline.execution.base import Progress


def progress(num_images: int, **failed: int) -> Progress:
    return Progress(num_images, sum(failed.values()), failed_by_code=failed)


@pytest.mark.parametrize(
    "seen",
    [progress(199, empty=199), progress(200, empty=100), progress(10_000), progress(0)],
    ids=["too few to tell", "half", "none", "nothing yet"],
)
def test_a_job_goes_on_while_it_may_be_the_images(seen: Progress) -> None:
    require_few_failures(seen, ExecutionConfig())


def test_a_job_in_which_most_fail_ends_and_says_with_what() -> None:
    with pytest.raises(TooManyFailuresError, match=r"55% of 200 images failed.*50%; 100 of them with too_large"):
        require_few_failures(progress(200, too_large=100, empty=10), ExecutionConfig())


def test_the_rate_can_be_chosen_and_the_whole_never_ends_a_job() -> None:
    require_few_failures(progress(500, empty=500), ExecutionConfig(max_failure_rate=1.0))
    with pytest.raises(TooManyFailuresError):
        require_few_failures(progress(500, empty=6), ExecutionConfig(max_failure_rate=0.01))


def test_counts_of_codes_add_up_and_are_taken_apart_again() -> None:
    both = progress(3, empty=1) + progress(4, empty=1, too_large=1)
    assert dict(both.failed_by_code) == {"empty": 2, "too_large": 1}
    assert dict(both.since(progress(3, empty=1)).failed_by_code) == {"empty": 1, "too_large": 1}
