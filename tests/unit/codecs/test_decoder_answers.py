"""What a decoder's process may answer: it has read hostile bytes, so it may be hostile itself."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.codecs.decoder_process import _is_plausible
from pipeline.codecs.decoder_wire import receive_message, send_message
from pipeline.config import DecodeConfig
from pipeline.records import LdrInfo

GOOD = LdrInfo("tiff", 30, 20, 8, "RGB")


def test_an_ordinary_answer_passes() -> None:
    assert _is_plausible(GOOD, DecodeConfig())
    assert _is_plausible(
        replace(GOOD, icc_profile="Display P3", warnings=("multi_page",), num_frames=3), DecodeConfig()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"width": -30, "height": -20},
        {"width": 0},
        {"width": 10**6, "height": 10**6},
        {"bit_depth": 32},
        {"orientation": 9},
        {"num_frames": 2**40},
        {"num_frames": -1},
        {"icc_profile": "x" * 20_000},
        {"warnings": ("\ud800",)},
    ],
)
def test_an_answer_that_would_harm_the_worker_or_the_manifest_is_nonsense(change: dict[str, object]) -> None:
    assert not _is_plausible(replace(GOOD, **change), DecodeConfig())  # type: ignore[arg-type]


def test_descriptors_beside_a_bad_message_are_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        read, write = os.pipe()
        before = len(list(Path("/proc/self/fd").iterdir()))
        for bad in (b"\xff\xff\xff\xff", b"\x02\x00\x00\x00[]"):
            socket.send_fds(theirs, [bad], [read, write])
            with pytest.raises((ValueError, TypeError)):
                receive_message(ours, 5)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        send_message(theirs, {"a": 1}, [read])
        message, fds = receive_message(ours, 5)
        assert (message, len(fds)) == ({"a": 1}, 1)
        for fd in (*fds, read, write):
            os.close(fd)
