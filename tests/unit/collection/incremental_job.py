"""A job over a folder that changes, at a store that can be interrupted at any operation; without a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from fakes import FakeEngine, HookedStore

from pipeline.config import StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import TransientStorageError
from pipeline.job import Job, PlannedWork, open_job
from pipeline.manifest import open_manifest
from pipeline.records import Provenance
from pipeline.sharding import open_source
from pipeline.storage import open_store
from pipeline.verification import VerifyReport, verify_destination

WEIGHTS = "f" * 64


class World:
    """Photos, a destination and its job."""

    def __init__(self, photos: Path) -> None:
        self.photos = photos
        self.store = HookedStore(open_store(f"memory://{uuid4().hex}", StorageConfig()))
        self.config = build_config(
            source={"url": str(photos)}, destination={"url": self.store.url}, sharding={"max_images": 2}
        )
        self.job: Job = open_job(
            self.store, self.config, source_root=str(photos), weights_name="fake", weights_sha256=WEIGHTS
        )

    def write(self, name: str, data: bytes) -> None:
        """Write a photo with a time of its own, so that its etag is new."""
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        changed_at_ns = path.stat().st_mtime_ns + 10**9 if path.exists() else 10**18
        path.write_bytes(data)
        os.utime(path, ns=(changed_at_ns, changed_at_ns))

    def plan(self) -> PlannedWork | None:
        return self.job.extend(open_source(self.config.source))

    def converter(self, worker: str = "w") -> ShardConverter:
        return ShardConverter(
            source=open_source(self.config.source).store,
            destination=self.store,
            engine=FakeEngine(),
            config=self.config,
            provenance=Provenance("0", "fake", WEIGHTS, self.config.pixel_digest(), worker, "n"),
        )

    def finish(self, converter: ShardConverter | None = None) -> None:
        """Run what is planned, with a converter that lives longer or with a new one."""
        used = converter or self.converter()
        for work in self.job.pending():
            for shard in self.job.shards(work):
                used.run(shard, adopt=work.resuming)
        if converter is None:
            used.close()

    def convert(self) -> None:
        self.plan()
        self.finish()

    def rows(self, source: str | None = None) -> list[dict[str, Any]]:
        """All rows, oldest first, or those of one source."""
        history = open_manifest(self.store).history.to_pylist()
        return [row for row in history if source in {None, row["source"]}]

    def current(self, source: str) -> dict[str, Any]:
        return next(row for row in open_manifest(self.store).current.to_pylist() if row["source"] == source)

    def images(self) -> set[str]:
        return {info.key.removeprefix("images/") for info in self.store.inner.list("images")}

    def findings(self, share: float = 1.0) -> list[tuple[str, str]]:
        return [(finding.code, finding.key) for finding in self.verify(share).findings]

    def verify(self, share: float = 1.0) -> VerifyReport:
        return verify_destination(self.store, self.job.record, share=share)


def killed_at_each_step(
    world: World, start: dict[str, bytes], work: Callable[[World], object], *, stride: int = 1
) -> Iterator[World]:
    """Yield a world for each step of `work`, a create or delete, at which it was killed; it began with `start`.

    Of the steps every `stride`-th one is taken; the run that comes to its end is not yielded.
    """
    step = 0
    while True:
        trial = World(world.photos)
        for key, data in start.items():
            trial.store.inner.replace(key, data)
        trial.job = world.job.__class__(trial.store, world.job.record)
        seen = 0

        def kill(operation: str, _key: str, at: int = step) -> None:
            nonlocal seen
            seen += operation in {"create", "delete"}
            if seen > at:
                raise TransientStorageError("killed here")

        trial.store.before = kill
        try:
            work(trial)
        except TransientStorageError:
            trial.store.before = lambda _operation, _key: None
            yield trial
        else:
            return
        step += stride
