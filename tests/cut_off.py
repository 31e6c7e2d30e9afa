"""What the tests in which a node is cut off have in common: the job, its steps, and what has to hold at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import hdrfleet, wait_until
from independent_checker import Reader, Row, comparable
from separate_machines import Node, SeparateCluster

NUM_PHOTOS = 32
SHARD_IMAGES = 4
OPTIONS = (
    *("--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", str(SHARD_IMAGES)),
)
# What a process that is ended in the middle of its writes may leave.
NUM_LEFTOVERS = 4
# A request to a store that does not answer is given up after three tries of 2 s.
PATIENCE = tuple(f"--{place}-{option}" for place in ("src", "dst") for option in ("timeout=2", "attempts=3"))
# The raylet hears of its death when TCP tries again: after as long as the cut took, at most.
COMES_BACK_WITHIN_S = 120
# Workers start in a few seconds, and on a busy machine in minutes.
WORKS_WITHIN_S = 180
JOB_WITHIN_S = 300

MakeCluster = Callable[..., SeparateCluster]


@dataclass(frozen=True)
class Library:
    """What is converted, and the rows of a job that nothing happened to."""

    folder: Path
    inputs: dict[str, bytes]
    rows: list[Row]


def begin_together(cluster: SeparateCluster, nodes: list[Node], *held: Node) -> None:
    """Let workers begin once all are there, but for those that stay in the middle of their first image."""
    for node in held:
        cluster.engines.hold(node.address)
    wait_until(
        lambda: all(cluster.engines.computed(node.address) for node in nodes), "all workers are at work", WORKS_WITHIN_S
    )
    cluster.engines.let_go()


def num_begun(cluster: SeparateCluster, node: Node, since: float) -> int:
    """How many images a node has begun after a moment."""
    return sum(each.at > since for each in cluster.engines.computed(node.address))


def wait_for_work(cluster: SeparateCluster, node: Node, since: float, num_images: int) -> None:
    """Until a node has begun so many images after a moment."""
    wait_until(
        lambda: num_begun(cluster, node, since) >= num_images,
        f"{num_images} images at {node.address}",
        WORKS_WITHIN_S,
    )


def wait_until_ended(node: Node) -> None:
    """Its raylet has learned that it is dead, and its workers have gone with it."""
    assert node.process.wait(COMES_BACK_WITHIN_S) != 0
    wait_until(lambda: not node.has_workers(), "its workers are gone")


def require_kept(before: dict[str, object], reader: Reader) -> None:
    """Nothing that was there at a moment was written again; the driver goes on with its lease."""
    after = reader.stamps()
    stored = {key: stamp for key, stamp in before.items() if not key.startswith("_hdrfleet/lease/")}
    assert {key: after.get(key) for key in stored} == stored, "written again"


def require_sound(dst: str, home: Path, num_leftovers: int = 0) -> None:
    """hdrfleet itself finds nothing wrong, but for what was left behind."""
    verified = hdrfleet("verify", dst, "--deep", "--quiet", home=home, timeout_s=JOB_WITHIN_S)
    assert verified.returncode == (3 if num_leftovers else 0), verified.stdout + verified.stderr


def in_any_store(rows: list[Row]) -> list[Row]:
    """The rows without what each store says of the same source."""
    return [{name: value for name, value in row.items() if name != "source_etag"} for row in comparable(rows)]


def upload(bucket: Any, inputs: dict[str, bytes]) -> tuple[str, str]:
    """Put the inputs into a bucket; return the URLs of source and destination there."""
    for name, data in inputs.items():
        bucket.client.put_object(Bucket=bucket.name, Key=f"photos/{name}", Body=data)
    return f"{bucket.url}/photos", f"{bucket.url}/out"


def reached_at(url: str) -> tuple[str, ...]:
    """The options of a job whose source and destination are reached at this endpoint."""
    return "--src-endpoint-url", url, "--dst-endpoint-url", url, *PATIENCE


def stored(reader: Reader) -> dict[str, object]:
    """What workers write."""
    return {key: stamp for key, stamp in reader.stamps().items() if key.startswith(("images/", "manifest/"))}
