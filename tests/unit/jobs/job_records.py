"""What a job wrote down of itself, for tests of what is done with it later."""

from __future__ import annotations

from pipeline.config import ConversionConfig
from pipeline.job import JOB_SCHEMA_VERSION, JobRecord


def job_record(config: ConversionConfig) -> JobRecord:
    """A job.json of this configuration, its source in a bucket."""
    return JobRecord(
        schema_version=JOB_SCHEMA_VERSION,
        job_id="1",
        created_at="",
        software_version="",
        source_root="s3://b/in",
        weights_name="",
        weights_sha256="",
        has_conditional_create=True,
        store_weakness=None,
        pixel_fields={},
        pixel_digest="",
        config=config,
    )
