"""Multipart uploads to S3: for objects too large for one comfortable PUT, with the same condition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from pipeline.errors import HdrfleetError, ObjectExistsError, StorageError, TransientStorageError
from pipeline.faults import fault_point
from pipeline.storage import s3_errors

MULTIPART_THRESHOLD_BYTES = 100 * 2**20

_PART_BYTES = 32 * 2**20
_MAX_PARTS = 10_000  # S3's limit
_NUM_CONCURRENT_PARTS = 4

logger = logging.getLogger(__name__)


class Call(Protocol):
    """Sends one S3 request for the object that is being uploaded, errors mapped."""

    def __call__(self, method: str, *, num_bytes: int = 0, **parameters: Any) -> dict[str, Any]:
        """`num_bytes` is the size of the body."""
        ...


def upload_in_parts(
    data: bytes,
    *,
    metadata: Mapping[str, str],
    condition: Mapping[str, Any],
    call: Call,
    call_once: Call,
    exists: Callable[[], bool] | None,
) -> dict[str, Any]:
    """Upload `data` and return S3's answer to the completion, which alone makes the object visible.

    `condition` holds for the completion. `call` retries, `call_once` does not; `exists` looks for the object where it
    is to be new (None: it may be overwritten). Whatever fails, the upload is aborted, so that no invisible parts are
    paid for; a process that dies on the way leaves some, and so does an upload whose id was lost with the answer:
    see `ObjectStore.discard_unfinished`. Raises ObjectExistsError when the condition does not hold, or when the
    answer to our own completion was lost; TransientStorageError when the upload has to begin again.
    """
    upload_id = call("create_multipart_upload", Metadata=dict(metadata))["UploadId"]
    try:
        fault_point("upload.started")
        parts = _upload_parts(call, upload_id, data)
        fault_point("upload.sent")
        return call("complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition)
    except StorageError as error:
        # A store that answers no more would only be waited for once more.
        _abort(call_once if isinstance(error, TransientStorageError) else call, upload_id)
        _explain_end(error, exists)
        raise
    except BaseException:
        _abort(call_once, upload_id)
        raise


def _upload_parts(call: Call, upload_id: str, data: bytes) -> list[dict[str, Any]]:
    part_bytes = max(_PART_BYTES, -(-len(data) // _MAX_PARTS))
    num_parts = -(-len(data) // part_bytes)

    def upload(index: int) -> dict[str, Any]:
        body = data[index * part_bytes : (index + 1) * part_bytes]
        answer = call("upload_part", num_bytes=len(body), PartNumber=index + 1, UploadId=upload_id, Body=body)
        # A store that made checksums wants them back with the completion.
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        return {"PartNumber": index + 1, "ETag": answer["ETag"], **checksums}

    with ThreadPoolExecutor(_NUM_CONCURRENT_PARTS, thread_name_prefix="hdrfleet-upload") as pool:
        try:
            return list(pool.map(upload, range(num_parts)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _explain_end(error: StorageError, exists: Callable[[], bool] | None) -> None:
    """Raise what it means that the upload is over although nobody here has ended it; otherwise do nothing.

    Either our own completion succeeded and its answer was lost, or a competitor's write ended this upload: S3 wants
    it begun again then, and the object that won is there by now.
    """
    if not s3_errors.has_code(error, "NoSuchUpload", "ConditionalRequestConflict"):
        return
    if exists is not None and exists():
        msg = "already there"
        raise ObjectExistsError(msg) from error
    msg = f"{error}; the upload has to begin again"
    raise TransientStorageError(msg) from error


def _abort(call: Call, upload_id: str) -> None:
    try:
        call("abort_multipart_upload", UploadId=upload_id)
    except HdrfleetError as error:
        if not s3_errors.has_code(error, "NoSuchUpload"):
            logger.warning("an unfinished upload could not be aborted: %s", error)
