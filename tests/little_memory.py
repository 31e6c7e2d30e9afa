"""Run with little memory to spare: a process of its own, for the limit is the whole process's."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from commands import hdrfleet_here

from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig

_MIB = 2**20


@contextlib.contextmanager
def spare(num_bytes: int) -> Iterator[None]:
    """Let this process map no more than `num_bytes` beside what it has mapped already."""
    gc.collect()
    mapped_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def decode(file: str, small_file: str, step_mib: int, max_mib: int) -> None:
    """Write what decoding one image came to with more and more memory, from none to enough: a JSON list."""
    limits = DecodeConfig()
    decode_ldr(Path(small_file).read_bytes(), limits)  # what is loaded once is no part of it
    data, outcomes = Path(file).read_bytes(), []
    for spare_mib in range(0, max_mib, step_mib):
        outcome = "ok"
        with spare(spare_mib * _MIB):
            try:
                probe_ldr(data, limits)
                decode_ldr(data, limits)
            except Exception as error:  # noqa: BLE001  any outcome is one
                outcome = type(error).__name__
        outcomes.append(outcome)
    sys.stdout.write(json.dumps(outcomes))


def convert(small_source: str, source: str, dst: str, spare_mib: int) -> int:
    """Convert a first source as it is, so that everything is loaded, then the other one into `dst` with the limit."""
    run = ("--weights", "identity", "--executor", "local", "--quiet")
    assert hdrfleet_here("convert", small_source, f"{dst}-before", *run) == 0
    with spare(spare_mib * _MIB):
        return hdrfleet_here("convert", source, dst, *run)


def verify(small_dst: str, dst: str, spare_mib: int) -> int:
    """Verify a first destination as it is, so that everything is loaded, then the other one with the limit: JSON."""
    assert hdrfleet_here("verify", small_dst, "--deep", "--quiet") == 0
    with spare(spare_mib * _MIB):
        return hdrfleet_here("verify", dst, "--deep", "--quiet", "--json")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "decode":
        decode(arguments[0], arguments[1], int(arguments[2]), int(arguments[3]))
    elif command == "verify":
        sys.exit(verify(arguments[0], arguments[1], int(arguments[2])))
    else:
        sys.exit(convert(arguments[0], arguments[1], arguments[2], int(arguments[3])))
