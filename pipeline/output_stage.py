"""The last stage of one image: encode, verify, store, measure; or take over what an earlier attempt stored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import perf_counter
from typing import TypeVar

from pipeline.blame import blame_one_object
from pipeline.codecs.exr import (
    ExrProvenance,
    OutputIdentity,
    PreparedHdr,
    decode_exr,
    encode_exr,
    prepare_hdr,
    verify_exr,
)
from pipeline.codecs.ldr import LdrImage
from pipeline.config import EncodeConfig
from pipeline.draft import Draft
from pipeline.errors import OutputRefusedError, VerifyError
from pipeline.faults import fault_point
from pipeline.flow import StageWatch
from pipeline.inference.base import Inference
from pipeline.outputs import OutputStore, StoredOutput
from pipeline.ownership import Ownership
from pipeline.quality.stats import measure
from pipeline.records import ImageResult, Provenance
from pipeline.sharding.names import TRIAL_KEY
from pipeline.storage import ObjectStore
from pipeline.storage.probe import require_writable

_Result = TypeVar("_Result")

# Under `--verify sample` this share of the images is decoded again, chosen by source digest.
_VERIFY_ONE_IN = 20


class OutputStage:
    """Turns network output into a stored EXR and its row. Safe for threads, each with images of its own."""

    def __init__(
        self,
        destination: ObjectStore,
        options: EncodeConfig,
        provenance: Provenance,
        watch: StageWatch,
        ownership: Ownership,
    ) -> None:
        self._destination = destination
        self._outputs = OutputStore(destination, ownership)
        self._options = options
        self._provenance = provenance
        self._watch = watch
        self._checking = threading.Lock()

    def refresh(self) -> None:
        """Look anew at what a collection took away, before a shard begins."""
        self._outputs.refresh()

    def find(self, draft: Draft, first_revision: int) -> StoredOutput | None:
        """The output that an earlier attempt stored for these very bytes, options and weights, if it is whole.

        The draft has its pixels by now. Raises as `finish` does.
        """
        assert draft.ldr is not None
        is_whole = partial(self._is_whole, draft, draft.ldr)
        return self._apart(
            draft,
            lambda: self._outputs.find(draft.task, self._identity(draft), is_whole, first_revision=first_revision),
        )

    def finish(self, draft: Draft, ldr: LdrImage, inference: Inference) -> ImageResult:
        """Encode and store what the network made of `ldr`, and measure it. Raises as codecs and stores do.

        What the store says of this output alone is an ImageError, too: OutputRefusedError.
        """
        with self._working(draft, ldr):
            prepared = prepare_hdr(inference.linear, ldr.alpha, self._options)
            data, verified = self._encode(draft, ldr, prepared, inference)
        fault_point("image.encoded", draft.task.source)
        start = perf_counter()
        is_whole = partial(self._is_whole, draft, ldr)
        stored = self._apart(draft, lambda: self._outputs.put(draft.task, self._identity(draft), data, is_whole))
        draft.clock("put", start)
        fault_point("output.created", draft.task.source)
        if stored.adopted:
            return self.adopt(draft, ldr, stored)
        # A lossy file is measured as a reader will see it; a lossless one is what was encoded.
        with self._working(draft, ldr):
            hdr = decode_exr(data).image if self._options.is_lossy else prepared.image
            stats = measure(ldr.pixels, hdr, self._options.exposure_ev)
        return draft.converted(
            ldr,
            inference.info,
            stored,
            stats,
            num_half_overflow=_num_clamped(prepared, inference),
            exposure_ev=self._options.exposure_ev,
            verified=verified,
        )

    def adopt(self, draft: Draft, ldr: LdrImage, stored: StoredOutput) -> ImageResult:
        """Build the row from the bytes that are in the store, which were found whole."""
        with self._working(draft, ldr):
            decoded = decode_exr(stored.data)
            stats = measure(ldr.pixels, decoded.image, self._options.exposure_ev)
        made = decoded.provenance
        return draft.converted(
            ldr,
            made.inference if made else None,
            stored,
            stats,
            num_half_overflow=made.num_half_overflow if made else 0,
            exposure_ev=self._options.exposure_ev,
            verified=True,
        )

    def _is_whole(self, draft: Draft, ldr: LdrImage, data: bytes) -> bool:
        """Whether `data` decodes to an image of the source's size, with alpha where that has it.

        And with the position if it is asked for, and never without: an earlier run may have had another opinion.
        Raises MemoryError as it is, which says neither.
        """
        with self._checking:  # no budget holds what it decodes: one at a time is enough
            try:
                with self._working(draft, ldr):
                    decoded = decode_exr(data, size=(ldr.pixels.shape[1], ldr.pixels.shape[0]))
            except VerifyError:
                return False
        image, made = decoded.image, decoded.provenance
        wants_position = self._options.keep_gps and ldr.info.capture.has_position
        if made is not None and made.capture.has_position is not wants_position:
            return False
        return (image.alpha is None) == (ldr.alpha is None)

    def _encode(self, draft: Draft, ldr: LdrImage, prepared: PreparedHdr, inference: Inference) -> tuple[bytes, bool]:
        start = perf_counter()
        identity = self._identity(draft)
        provenance = ExrProvenance(
            source=draft.task.source,
            software_version=self._provenance.software_version,
            weights_name=self._provenance.weights_name,
            inference=inference.info,
            num_half_overflow=_num_clamped(prepared, inference),
            capture=ldr.info.capture,
            exposure_ev=self._options.exposure_ev,
        )
        data = encode_exr(prepared.image, self._options, identity, provenance)
        verify = self._options.verify == "all" or (
            self._options.verify == "sample" and int(identity.source_sha256[:8], 16) % _VERIFY_ONE_IN == 0
        )
        if verify:
            verify_exr(data, prepared.image, self._options, identity)
        draft.clock("encode", start)
        return data, verify

    def _apart(self, draft: Draft, operation: Callable[[], _Result]) -> _Result:
        """Do something with the output of one image, which may be refused where others are taken."""
        return blame_one_object(
            operation,
            require_answer=lambda: require_writable(self._destination, TRIAL_KEY),
            as_row=lambda error: OutputRefusedError(
                f"the output of {draft.task.source} cannot be stored, although others can: {error}"
            ),
            is_last=draft.is_last,
        )

    def _working(self, draft: Draft, ldr: LdrImage) -> AbstractContextManager[None]:
        return self._watch.stage(draft.task.source, ldr.info.width * ldr.info.height)

    def _identity(self, draft: Draft) -> OutputIdentity:
        return OutputIdentity(draft.source_sha256, self._provenance.pixel_digest, self._provenance.weights_sha256)


def _num_clamped(prepared: PreparedHdr, inference: Inference) -> int:
    """Samples that were too large for the file; among them those that only the decode of the gamma made infinite."""
    return prepared.num_half_overflow + prepared.num_inf - inference.num_positive_inf
