"""What lies beside outputs and rows: job.json, the driver's lease, and objects that hdrfleet never writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.errors import ManifestError
from pipeline.job_record import JOB_KEY, JobRecord
from pipeline.lease_record import LEASE_PREFIX, is_lease_key, lease_key, newest_epoch, read_lease
from pipeline.manifest.distrusted import DISTRUST_PREFIX
from pipeline.manifest.head import HEAD_PREFIX
from pipeline.manifest.parts import MANIFEST_PREFIX, parse_part_key
from pipeline.scaling_record import is_scaling_key
from pipeline.sharding.plan import PLAN_PREFIX
from pipeline.storage import ObjectStore
from pipeline.storage.keys import shown
from pipeline.store_verdict import is_verdict_key
from pipeline.verification.findings import Finding
from pipeline.verification.strays import Strays

# Names that hdrfleet gives. What a killed planner, compaction or probe leaves has such a name too, and means nothing.
_KNOWN = re.compile(
    rf"{JOB_KEY}|_hdrfleet/probe/[0-9a-f]{{16}}-\d+|{DISTRUST_PREFIX}/[0-9a-f]{{64}}\.parquet"
    rf"|{PLAN_PREFIX}/[1-9]\d*/(?:plan\.json|part-\d{{5,}}-[0-9a-f]{{12}}\.parquet)"
    rf"|{HEAD_PREFIX}/[1-9]\d*\.json"
    rf"|{MANIFEST_PREFIX}/gen-[1-9]\d*/(?:part|collected)-\d{{5,}}-[0-9a-f]{{12}}\.parquet",
    re.ASCII,
)
_FOLDERS = ("_hdrfleet", MANIFEST_PREFIX)


def check_record(record: JobRecord) -> Iterator[Finding]:
    """Find where job.json contradicts itself."""
    if fault := record.fault():
        yield Finding("job_damaged", JOB_KEY, fault)


def check_lease(store: ObjectStore) -> Iterator[Finding]:
    """Find a newest lease that cannot be read: no driver can own the destination then."""
    try:
        read_lease(store)
    except ManifestError as error:
        epoch = newest_epoch(store)
        yield Finding("lease_damaged", lease_key(epoch) if epoch else LEASE_PREFIX, str(error))


def check_names(store: ObjectStore) -> Iterator[Finding]:
    """Find what lies in our folders under a name that no hdrfleet gives; images/ is left to the rows."""
    for folder in _FOLDERS:
        strays = Strays()
        keys = [info.key for info in store.list(folder, strays) if not _is_known(info.key)]
        for key in (*keys, *map(shown, strays.unusable_names), *map(shown, strays.special_names)):
            yield Finding("unknown_object", key, "not written by hdrfleet; no command reads it")


def _is_known(key: str) -> bool:
    return any(
        (parse_part_key(key), is_lease_key(key), is_scaling_key(key), is_verdict_key(key), _KNOWN.fullmatch(key))
    )
