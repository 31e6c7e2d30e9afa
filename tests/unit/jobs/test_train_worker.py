"""Which errors of a training worker end the run, and which have its workers replaced."""

from __future__ import annotations

import socket

import pytest

from jobs.train_worker import at_this_node, is_in_vain
from pipeline.errors import (
    CredentialsError,
    DestinationError,
    DeviceLostError,
    DiskFullError,
    HdrfleetError,
    ObjectDeniedError,
    SceneError,
    TransientStorageError,
    WorkerLostError,
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SceneError, True),
        (DestinationError, True),
        (CredentialsError, True),
        (DiskFullError, True),
        (ObjectDeniedError, True),
        (TransientStorageError, False),
        (DeviceLostError, False),
        (WorkerLostError, False),
    ],
)
def test_only_what_new_workers_may_be_spared_is_tried_again(kind: type[HdrfleetError], expected: bool) -> None:
    assert is_in_vain(kind("why")) is expected


def test_errors_about_what_the_user_gave_name_the_machine() -> None:
    said = at_this_node(SceneError("/data: no such folder"))
    assert type(said) is SceneError
    assert str(said) == f"on {socket.gethostname()}: /data: no such folder"
    other = TransientStorageError("503")
    assert at_this_node(other) is other
