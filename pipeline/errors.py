"""Every error that hdrfleet raises on purpose, in one tree.

Each class has a stable `code` that scripts and the manifest may rely on::

    HdrfleetError
    ├── UsageError                     exit 2: nothing has started; the message says what to do
    │   ├── ConfigError                bad_config
    │   ├── SourceError                bad_source
    │   ├── DestinationError           bad_destination
    │   ├── WeightsError               bad_weights
    │   ├── SceneError                 bad_scene
    │   ├── DestinationInUseError      destination_in_use
    │   ├── JobServerError             job_server
    │   └── QueryError                 bad_query
    ├── ImageError                     costs one manifest row; `code` becomes its error_code
    │   ├── SourceMissingError         source_missing
    │   ├── SourceChangedError         source_changed
    │   ├── SourceDeniedError          source_denied
    │   ├── SourceUnreadableError      source_unreadable
    │   ├── EmptyImageError            empty
    │   ├── TooLargeError              too_large
    │   ├── UnsupportedFormatError     unsupported_format
    │   │   └── AlreadyHdrError        already_hdr_float
    │   │       └── AlreadyHdrTransferError  already_hdr_transfer
    │   ├── TruncatedImageError        decode_truncated
    │   ├── CorruptImageError          decode_corrupt
    │   ├── InferenceError             inference_failed
    │   ├── EncodeError                encode_failed
    │   ├── VerifyError                verify_failed
    │   ├── OutputRefusedError         output_refused
    │   └── QuarantinedError           quarantined: the row's status says so too
    │       ├── WorkerCrashError       worker_crash
    │       ├── WorkerOutOfMemoryError worker_oom
    │       ├── WorkerHangError        worker_hang
    │       ├── DecoderCrashError      decoder_crash
    │       ├── DecoderOutOfMemoryError  decoder_oom
    │       └── DecoderHangError       decoder_hang
    ├── StorageError                   raised by ObjectStore; the caller decides what it costs
    │   ├── ObjectExistsError          object_exists
    │   ├── ObjectMissingError         object_missing
    │   ├── ObjectChangedError         object_changed
    │   ├── ObjectDeniedError          object_denied
    │   ├── ObjectTooLargeError        object_too_large
    │   └── TransientStorageError      storage_unavailable
    └── SystemicError                  exit 1: the job stops and can be resumed; never a manifest row
        ├── CredentialsError           credentials
        ├── SourceLostError            source_lost
        ├── DiskFullError              disk_full
        ├── DeviceLostError            device_lost
        ├── WorkerLostError            worker_lost
        ├── StuckError                 stuck
        ├── LeaseLostError             lease_lost
        ├── LostSightError             lost_sight
        ├── TooManyFailuresError       too_many_failures
        ├── BudgetSpentError           budget_spent (exit 4)
        ├── DivergedError              diverged
        ├── ManifestError              bad_manifest
        ├── StandardOutputError        standard_output
        └── InterruptedJobError        interrupted

Foreign exceptions are mapped once, where they enter (`raise ... from`): storage, codecs, checkpoint, execution.
"""

from __future__ import annotations

from typing import ClassVar


class HdrfleetError(Exception):
    """Root of the tree. `str(error)` is one line for a person; `code` is stable for programs."""

    code: ClassVar[str] = "error"


class UsageError(HdrfleetError):
    """Bad usage or configuration, found before any work starts (exit code 2)."""

    code = "bad_usage"


class ConfigError(UsageError):
    """An option is invalid or contradicts another."""

    code = "bad_config"


class SourceError(UsageError):
    """The source is missing, empty or unreadable, or holds no image."""

    code = "bad_source"


class DestinationError(UsageError):
    """The destination cannot be written, or belongs to a different job."""

    code = "bad_destination"


class WeightsError(UsageError):
    """The weights file is not a usable HDRUNet checkpoint; the message names the file and the fault."""

    code = "bad_weights"


class SceneError(UsageError):
    """An HDR scene for training or evaluation is unusable; the message names the file and the fault."""

    code = "bad_scene"


class DestinationInUseError(UsageError):
    """Another driver owns the destination and is alive."""

    code = "destination_in_use"


class JobServerError(UsageError):
    """A Ray cluster's job server cannot be reached, refuses us, or knows no such job."""

    code = "job_server"


class QueryError(UsageError):
    """The SQL is invalid, or asks for something other than the manifest."""

    code = "bad_query"


class ImageError(HdrfleetError):
    """One image cannot be converted. It costs one manifest row and nothing else.

    `status` is the row's status. `warnings` are codes for the row's `warnings`: what the failure says of an input that
    was never decoded.
    """

    code = "image_failed"
    status: ClassVar[str] = "failed"
    warnings: ClassVar[tuple[str, ...]] = ()


class SourceMissingError(ImageError):
    """The planned source is gone."""

    code = "source_missing"


class SourceChangedError(ImageError):
    """The source is no longer the object that was planned; the next plan takes it up again."""

    code = "source_changed"


class SourceDeniedError(ImageError):
    """This one source may not be read, although others may."""

    code = "source_denied"


class SourceUnreadableError(ImageError):
    """The source's store fails for this one object time and again, although it answers for others."""

    code = "source_unreadable"


class EmptyImageError(ImageError):
    """The file has zero bytes."""

    code = "empty"


class TooLargeError(ImageError):
    """The file or its declared pixel count exceeds the configured limit."""

    code = "too_large"


class UnsupportedFormatError(ImageError):
    """The bytes are not an image in a supported format."""

    code = "unsupported_format"


class AlreadyHdrError(UnsupportedFormatError):
    """The file holds floating-point pixels: it is HDR already, and the network is for LDR."""

    code = "already_hdr_float"
    # As gain maps, PQ and HLG are: one query over `warnings` finds every input that is HDR already.
    warnings = (code,)


class AlreadyHdrTransferError(AlreadyHdrError):
    """The codes are PQ or HLG (ITU-R BT.2100): taken for sRGB, tones and colours would be wrong."""

    code = "already_hdr_transfer"
    warnings = (code,)


class TruncatedImageError(ImageError):
    """The file ends before its pixels do."""

    code = "decode_truncated"


class CorruptImageError(ImageError):
    """The file claims a supported format but its data is damaged."""

    code = "decode_corrupt"


class InferenceError(ImageError):
    """The network failed on this image although the device is sound."""

    code = "inference_failed"


class EncodeError(ImageError):
    """The HDR pixels could not be encoded."""

    code = "encode_failed"


class VerifyError(ImageError):
    """The bytes that were encoded or stored do not decode to what was meant."""

    code = "verify_failed"


class OutputRefusedError(ImageError):
    """The destination does not take or give this one output, although it takes others."""

    code = "output_refused"


class QuarantinedError(ImageError):
    """The image takes down the process that works on it: it is left alone, and its row has the status quarantined."""

    code = "quarantined"
    status = "quarantined"


class WorkerCrashError(QuarantinedError):
    """A worker died each time that it worked on this image."""

    code = "worker_crash"


class WorkerOutOfMemoryError(QuarantinedError):
    """A worker ran out of memory each time that it worked on this image."""

    code = "worker_oom"


class WorkerHangError(QuarantinedError):
    """A worker did not come to an end with this image within its deadline."""

    code = "worker_hang"


class DecoderCrashError(QuarantinedError):
    """The decoder's process died of this image, twice where it had decoded others before."""

    code = "decoder_crash"


class DecoderOutOfMemoryError(QuarantinedError):
    """Decoding asked for far more memory than the pixels that the file declares."""

    code = "decoder_oom"


class DecoderHangError(QuarantinedError):
    """Decoding did not come to an end within the image's deadline."""

    code = "decoder_hang"


class StorageError(HdrfleetError):
    """An object store operation failed. Keys in messages carry no credentials and no query strings."""

    code = "storage_failed"


class ObjectExistsError(StorageError):
    """A conditional create met an existing object."""

    code = "object_exists"


class ObjectMissingError(StorageError):
    """There is no such object."""

    code = "object_missing"


class ObjectChangedError(StorageError):
    """The object's etag is not the one that the caller required."""

    code = "object_changed"


class ObjectDeniedError(StorageError):
    """The store knows us but does not allow this operation on this object."""

    code = "object_denied"


class ObjectTooLargeError(StorageError):
    """The object is larger than the caller is ready to read."""

    code = "object_too_large"


class TransientStorageError(StorageError):
    """The store stayed unavailable through every bounded retry.

    `retry_after_s` is how long the store asked to be left alone, 0 where it did not say.
    """

    code = "storage_unavailable"
    retry_after_s: float = 0.0


def may_pass(error: StorageError) -> bool:
    """Whether another attempt may fare better: the store is away, or what was there is not what was expected."""
    return isinstance(error, TransientStorageError | ObjectExistsError | ObjectMissingError | ObjectChangedError)


class SystemicError(HdrfleetError):
    """The environment is broken, not an image: the job stops (exit code 1) and can be resumed."""

    code = "systemic"


class CredentialsError(SystemicError):
    """Credentials are missing, wrong or expired."""

    code = "credentials"


class SourceLostError(SystemicError):
    """The source as a whole is gone, for example unmounted."""

    code = "source_lost"


class DiskFullError(SystemicError):
    """No space left where the job writes."""

    code = "disk_full"


class DeviceLostError(SystemicError):
    """The accelerator stopped working.

    `suspect` is the source of the image that it was lost with, where the device was seen to be sound right before.
    """

    code = "device_lost"

    def __init__(self, message: str, *, suspect: str | None = None) -> None:
        super().__init__(message)
        self.suspect = suspect


class WorkerLostError(SystemicError):
    """Workers died or failed on the same shard more often than the job allows."""

    code = "worker_lost"


class StuckError(SystemicError):
    """An image does not come to an end, in a process that cannot be replaced: it has to be left at once."""

    code = "stuck"


class LeaseLostError(SystemicError):
    """Another driver has taken over the destination: this one was silent for too long."""

    code = "lease_lost"


class LostSightError(SystemicError):
    """A submitted job that was followed cannot be seen any more; it may go on."""

    code = "lost_sight"


class TooManyFailuresError(SystemicError):
    """So many images fail that it is not the images: the job is configured wrongly."""

    code = "too_many_failures"


class BudgetSpentError(SystemicError):
    """What the user allowed for workers is spent, and work is left."""

    code = "budget_spent"


class DivergedError(SystemicError):
    """Training left the finite numbers and did not come back; the last checkpoint is from before."""

    code = "diverged"


class ManifestError(SystemicError):
    """What the destination records about the job contradicts itself."""

    code = "bad_manifest"


class StandardOutputError(SystemicError):
    """Standard output does not take the result."""

    code = "standard_output"


class InterruptedJobError(SystemicError):
    """The user or the platform asked the job to stop; committed work is kept."""

    code = "interrupted"


def first_line(error: BaseException, *, max_chars: int | None = None) -> str:
    """Return the first line of an exception's text that is not blank, or the name of its class where there is none.

    For messages that quote a library's exception: libraries append stack traces and advice. Stripped, and cut to
    `max_chars` characters.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text[:max_chars]


def image_errors_by_code(root: type[ImageError] = ImageError) -> dict[str, type[ImageError]]:
    """The classes of ImageError by what rows have in `error_code`."""
    below = (image_errors_by_code(child) for child in root.__subclasses__())
    return {root.code: root} | {code: kind for kinds in below for code, kind in kinds.items()}
