"""How far a job is, from what its destination records."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from photographs import jpeg, picture

from jobs.status import PlanStatus, job_status
from pipeline.config import StorageConfig, build_config
from pipeline.job import JOB_KEY, open_job
from pipeline.manifest import commit_part
from pipeline.records import ConversionStatus, ImageResult, Provenance
from pipeline.sharding import open_source
from pipeline.storage import open_store


def test_a_job_is_followed_from_its_record_to_its_last_shard(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(picture(8, 8)))
    store = open_store(f"memory://{uuid4().hex}", StorageConfig())
    config = build_config(source={"url": str(tmp_path)}, destination={"url": "memory://d"}, sharding={"max_images": 2})
    job = open_job(store, config, source_root="r", weights_name="identity", weights_sha256="w" * 64)
    store.delete(JOB_KEY)  # whoever asks has read it already: it is not read again

    status = job_status(store, job.record)
    assert (status.job_id, status.source_root, status.weights_name) == (job.record.job_id, "r", "identity")
    assert (status.state, status.plans) == ("incomplete", ())

    work = job.extend(open_source(config.source))
    assert work is not None
    now, provenance = datetime.now(UTC), Provenance("0", "identity", "w" * 64, "p", "w", "n")
    seen = []
    for shard in job.shards(work):
        rows = [ImageResult(task, ConversionStatus.FAILED, now, now, "empty", "why") for task in shard.tasks]
        commit_part(store, rows, shard, 1, provenance)
        status = job_status(store, job.record)
        seen.append((status.state, status.num_ok, status.num_failed))
        assert status.plans == (PlanStatus(1, work.plan.created_at, 3, 2, num_shards_done=len(seen)),)
    assert seen == [("incomplete", 0, 2), ("complete", 0, 3)]
