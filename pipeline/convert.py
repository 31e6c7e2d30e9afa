"""The data path: fetch, decode, infer, encode, verify, put, measure, commit. It knows no executor.

Each image passes three stages that overlap: threads fetch and decode the next images, the calling thread owns the
device, and other threads encode, store and measure the last ones. Byte budgets bound what waits between them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

from pipeline.codecs.exr import (
    ExrProvenance,
    OutputIdentity,
    PreparedHdr,
    decode_exr,
    encode_exr,
    prepare_hdr,
    verify_exr,
)
from pipeline.codecs.isolation import ImageDecoder
from pipeline.codecs.ldr import LdrImage, estimate_decoded_bytes
from pipeline.config import ConversionConfig
from pipeline.draft import Draft, probe_result, quarantine_error
from pipeline.errors import (
    EmptyImageError,
    ImageError,
    InterruptedJobError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectMissingError,
    ObjectTooLargeError,
    SourceChangedError,
    SourceDeniedError,
    SourceLostError,
    SourceMissingError,
    TooLargeError,
)
from pipeline.faults import fault_point
from pipeline.flow import ByteBudget, StageWatch
from pipeline.inference.base import Engine, Inference
from pipeline.manifest import commit_part
from pipeline.outputs import OutputStore, StoredOutput
from pipeline.quality.stats import measure
from pipeline.records import (
    ConversionStatus,
    ImageResult,
    ImageTask,
    Provenance,
    Shard,
    ShardResult,
)
from pipeline.storage import ObjectStore

# Under `--verify sample` this share of the images is decoded again, chosen by source digest.
_VERIFY_ONE_IN = 20
# float32 RGB from the network, its half copy, and the encoded file.
_OUTPUT_BYTES_PER_PIXEL = 12 + 6 + 6


@dataclass(slots=True)
class ConversionCounts:
    """Running totals of one converter."""

    num_images: int = 0
    num_failed: int = 0
    megapixels: float = 0.0
    failed_by_code: Counter[str] = field(default_factory=Counter)

    def add(self, result: ImageResult) -> None:
        """Count one finished image."""
        self.num_images += 1
        if result.error_code:
            self.num_failed += 1
            self.failed_by_code[result.error_code] += 1
        if result.image and result.status is ConversionStatus.OK:
            self.megapixels += result.image.width * result.image.height / 1e6


class ShardConverter:
    """Converts shards with one engine. `run` may be called from several threads; the device is used by one at a time.

    Owns its threads and the decoder's processes (`close` ends them), not the stores or the engine. `source_is_there`
    is asked when every image of a shard is missing or any was denied, so that an unmounted source or withdrawn rights
    stop the job instead of failing every row; it raises CredentialsError where the source refuses to be listed.
    `before_commit` raises when this process may not commit any more.
    """

    def __init__(
        self,
        *,
        source: ObjectStore,
        destination: ObjectStore,
        engine: Engine,
        config: ConversionConfig,
        provenance: Provenance,
        source_is_there: Callable[[], bool] = lambda: True,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._outputs = OutputStore(destination)
        self._engine = engine
        self._config = config
        self._provenance = provenance
        self._source_is_there = source_is_there
        self._before_commit = before_commit
        execution = config.execution
        self._decoder = ImageDecoder(config.decode)
        self._decoders = ThreadPoolExecutor(execution.num_decode_threads, thread_name_prefix="decode")
        self._encoders = ThreadPoolExecutor(execution.num_encode_threads, thread_name_prefix="encode")
        self._fetched_budget = ByteBudget(execution.queue_bytes)
        self._decoded_budget = ByteBudget(execution.queue_bytes)
        self._output_budget = ByteBudget(execution.queue_bytes)
        self._watch = StageWatch(execution.image_timeout_s)
        self._device_lock = threading.Lock()
        self._counts = ConversionCounts()
        self._counts_lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self, shard: Shard, attempt: int = 1, *, adopt: bool = False) -> ShardResult:
        """Convert every image of the shard and commit its manifest part.

        With `adopt`, outputs of an earlier attempt are looked for before the device works. An ImageError costs one
        row. StorageError and SystemicError end the attempt: nothing is committed, and what was stored is adopted
        by the next attempt. A probe stores its outputs and commits nothing.
        """
        self._outputs.refresh()
        quarantined = {entry.source: entry for entry in shard.quarantined}
        loads = {
            self._decoders.submit(self._load, task, adopt, 1 if shard.adopts_earlier else task.revision)
            for task in shard.tasks
            if task.source not in quarantined
        }
        results: list[Future[ImageResult]] = [
            self._fail(Draft(task), quarantine_error(quarantined[task.source]))
            for task in shard.tasks
            if task.source in quarantined
        ]
        is_broken = threading.Event()
        try:
            for load in as_completed(tuple(loads)):
                loads.discard(load)
                results.append(self._advance(load.result()))
                results[-1].add_done_callback(lambda done: is_broken.set() if _has_failed(done) else None)
                if is_broken.is_set():
                    break
            rows = _all_or_first_failure(results)
        except BaseException:
            self._abandon(loads, results)
            raise
        self._require_source(rows)
        if shard.is_probe:
            return probe_result(rows, shard, attempt)
        fault_point("part.ready")
        self._before_commit()
        result = commit_part(self._destination, rows, shard, attempt, self._provenance)
        fault_point("part.created")
        return result

    def counts(self) -> ConversionCounts:
        """Totals since this converter was built."""
        with self._counts_lock:
            return replace(self._counts, failed_by_code=Counter(self._counts.failed_by_code))

    def overdue(self) -> tuple[str, ...]:
        """The sources that are in one stage for longer than their deadline."""
        return self._watch.overdue()

    def stop(self) -> None:
        """Make every running and later `run` end soon with InterruptedJobError.

        Images in flight finish first, but for those in a decoder's process: they may be what hangs.
        """
        self._stopping.set()
        self._decoder.close()

    def close(self) -> None:
        """End the threads and the decoder's processes; images in flight finish first, as far as they are decoded."""
        self._decoder.close()
        self._decoders.shutdown(cancel_futures=True)
        self._encoders.shutdown(cancel_futures=True)

    # Stage 1, on a decode thread.

    def _load(self, task: ImageTask, adopt: bool, first_revision: int) -> Draft:
        draft = Draft(task)
        if self._stopping.is_set():
            raise InterruptedJobError("stopped before the shard was finished")
        try:
            with self._fetched_budget.hold(task.size_bytes):
                start = perf_counter()
                with self._watch.stage(task.source):
                    data = self._fetch(task)
                draft.clock("fetch", start)
                draft.source_sha256 = hashlib.sha256(data).hexdigest()
                fault_point("image.fetched", task.source)
                with self._decoder.open(data) as image:
                    info = image.info
                    draft.held_bytes = self._decoded_budget.acquire(estimate_decoded_bytes(info))
                    start = perf_counter()
                    with self._watch.stage(task.source, info.width * info.height):
                        draft.ldr = image.decode()
                        fault_point("image.decoded", task.source)
                    draft.clock("decode", start)
            if adopt or task.revision > 1:
                draft.existing = self._outputs.find(task, self._identity(draft), first_revision=first_revision)
        except ImageError as error:
            draft.error = error
            self._release(draft)
        except BaseException:
            self._release(draft)
            raise
        return draft

    def _fetch(self, task: ImageTask) -> bytes:
        max_bytes = self._config.decode.max_bytes
        try:
            data = self._source.read(task.key, if_match=task.etag or None, max_bytes=max_bytes)
        except ObjectMissingError as error:
            raise SourceMissingError(f"{task.source} is not at the source, or not any more") from error
        except ObjectChangedError as error:
            raise SourceChangedError(
                f"{task.source} changed after it was planned; the next run plans it again"
            ) from error
        except ObjectDeniedError as error:
            raise SourceDeniedError(f"{task.source} may not be read: {error}") from error
        except ObjectTooLargeError as error:
            raise TooLargeError(f"{task.source} is larger than the limit of {max_bytes} bytes") from error
        if not data:
            raise EmptyImageError(f"{task.source} has zero bytes")
        return data

    # Stage 2, on the calling thread.

    def _advance(self, draft: Draft) -> Future[ImageResult]:
        """Run the network if the image still needs it, and hand the image to an encode thread."""
        if self._stopping.is_set():
            self._release(draft)
            raise InterruptedJobError("stopped before the shard was finished")
        if draft.ldr is None:
            return self._fail(draft, draft.error)
        if draft.existing is not None:
            return self._hand_over(draft, partial(self._adopt, draft, draft.ldr, draft.existing))
        info = draft.ldr.info
        output_bytes = self._output_budget.acquire(info.width * info.height * _OUTPUT_BYTES_PER_PIXEL)
        try:
            with self._device_lock, self._watch.stage(draft.task.source, info.width * info.height):
                start = perf_counter()
                inference = self._engine.infer(draft.ldr.pixels)
            draft.clock("infer", start)
            fault_point("image.inferred", draft.task.source)
            finish = partial(self._finish, draft, draft.ldr, inference)
            return self._hand_over(draft, finish, output_bytes)
        except ImageError as error:
            self._output_budget.release(output_bytes)
            self._release(draft)
            return self._fail(draft, error)
        except BaseException:
            self._output_budget.release(output_bytes)
            self._release(draft)
            raise

    def _hand_over(self, draft: Draft, finish: Callable[[], ImageResult], output_bytes: int = 0) -> Future[ImageResult]:
        """Queue the image for an encode thread; what it holds is given back there, or here if it is dropped first."""
        result = self._encoders.submit(self._store, draft, finish, output_bytes)

        def give_back(done: Future[ImageResult]) -> None:
            if done.cancelled():
                self._output_budget.release(output_bytes)
                self._release(draft)

        result.add_done_callback(give_back)
        return result

    def _fail(self, draft: Draft, error: ImageError | None) -> Future[ImageResult]:
        """The row of an image that gets no further; it is ready at once."""
        assert error is not None
        ready: Future[ImageResult] = Future()
        ready.set_result(self._count(draft.failed(error)))
        return ready

    # Stage 3, on an encode thread.

    def _store(self, draft: Draft, finish: Callable[[], ImageResult], output_bytes: int) -> ImageResult:
        """Finish one image into its row, and give back what it held; an ImageError becomes the row of a failure."""
        num_pixels = draft.ldr.info.width * draft.ldr.info.height if draft.ldr else 0
        try:
            with self._watch.stage(draft.task.source, num_pixels):
                result = finish()
                fault_point("image.measured", draft.task.source)
        except ImageError as error:
            result = draft.failed(error)
        finally:
            self._output_budget.release(output_bytes)
            self._release(draft)
        return self._count(result)

    def _finish(self, draft: Draft, ldr: LdrImage, inference: Inference) -> ImageResult:
        prepared = prepare_hdr(inference.linear, ldr.alpha, self._config.encode)
        data, verified = self._encode(draft, ldr, prepared, inference)
        fault_point("image.encoded", draft.task.source)
        start = perf_counter()
        stored = self._outputs.put(draft.task, self._identity(draft), data)
        draft.clock("put", start)
        fault_point("output.created", draft.task.source)
        if stored.adopted:
            return self._adopt(draft, ldr, stored)
        # A lossy file is measured as a reader will see it; a lossless one is what was encoded.
        hdr = decode_exr(data).image if self._config.encode.is_lossy else prepared.image
        return draft.converted(
            ldr,
            inference.info,
            stored,
            measure(ldr.pixels, hdr, self._config.encode.exposure_ev),
            num_half_overflow=prepared.num_half_overflow,
            verified=verified,
        )

    def _adopt(self, draft: Draft, ldr: LdrImage, stored: StoredOutput) -> ImageResult:
        """Build the row from the bytes that are in the store; decoding them verifies them."""
        decoded = decode_exr(stored.data)
        made = decoded.provenance
        return draft.converted(
            ldr,
            made.inference if made else None,
            stored,
            measure(ldr.pixels, decoded.image, self._config.encode.exposure_ev),
            num_half_overflow=made.num_half_overflow if made else 0,
            verified=True,
        )

    def _encode(self, draft: Draft, ldr: LdrImage, prepared: PreparedHdr, inference: Inference) -> tuple[bytes, bool]:
        start = perf_counter()
        options = self._config.encode
        identity = self._identity(draft)
        provenance = ExrProvenance(
            source=draft.task.source,
            software_version=self._provenance.software_version,
            weights_name=self._provenance.weights_name,
            inference=inference.info,
            num_half_overflow=prepared.num_half_overflow,
            capture=ldr.info.capture,
        )
        data = encode_exr(prepared.image, options, identity, provenance)
        verify = options.verify == "all" or (
            options.verify == "sample" and int(identity.source_sha256[:8], 16) % _VERIFY_ONE_IN == 0
        )
        if verify:
            verify_exr(data, prepared.image, options, identity)
        draft.clock("encode", start)
        return data, verify

    # Book-keeping.

    def _require_source(self, rows: Sequence[ImageResult]) -> None:
        """Raise SourceLostError or CredentialsError when it is the source that failed, and not its images."""
        is_suspect = all(row.error_code == SourceMissingError.code for row in rows) or any(
            row.error_code == SourceDeniedError.code for row in rows
        )
        if is_suspect and not self._source_is_there():
            raise SourceLostError("the source lists nothing any more; is it still mounted?")

    def _identity(self, draft: Draft) -> OutputIdentity:
        return OutputIdentity(draft.source_sha256, self._provenance.pixel_digest, self._provenance.weights_sha256)

    def _count(self, result: ImageResult) -> ImageResult:
        with self._counts_lock:
            self._counts.add(result)
        return result

    def _release(self, draft: Draft) -> None:
        if draft.held_bytes:
            self._decoded_budget.release(draft.held_bytes)
            draft.held_bytes = 0

    def _abandon(self, loads: Iterable[Future[Draft]], results: Iterable[Future[ImageResult]]) -> None:
        """Drop what no stage took over, and let what was being stored finish, so that the attempt is really over.

        What is queued for a store that fails is dropped: it would be waited for once per image.
        """
        for load in loads:
            if not load.cancel():
                load.add_done_callback(self._release_loaded)
        wait(results, return_when=FIRST_EXCEPTION)
        if any(_has_failed(result) for result in results if result.done()):
            for result in results:
                result.cancel()
        wait(results)

    def _release_loaded(self, load: Future[Draft]) -> None:
        if not load.cancelled() and load.exception() is None:
            self._release(load.result())


def _has_failed(result: Future[ImageResult]) -> bool:
    return not result.cancelled() and result.exception() is not None


def _all_or_first_failure(results: Sequence[Future[ImageResult]]) -> list[ImageResult]:
    """Wait for all results, or raise the first failure as soon as there is one, whatever is still queued before it."""
    done, _ = wait(results, return_when=FIRST_EXCEPTION)
    for result in done:
        result.result()
    return [result.result() for result in results]
