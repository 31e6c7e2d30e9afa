"""The data path: fetch, decode, infer, encode, verify, put, measure, commit. It knows no executor.

Each image passes three stages that overlap: threads fetch and decode the next images, the calling thread owns the
device, and other threads encode, store and measure the last ones. Byte budgets bound what waits between them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from pipeline.codecs.isolation import ImageDecoder
from pipeline.codecs.ldr import estimate_decoded_bytes
from pipeline.config import ConversionConfig
from pipeline.draft import ConversionCounts, Draft, part_result, probe_result, quarantine_error, quarantined_tasks
from pipeline.errors import ImageError, InterruptedJobError
from pipeline.faults import fault_point
from pipeline.flow import ByteBudget, StageWatch
from pipeline.futures import abandon, all_or_first_failure, has_failed
from pipeline.inference.base import Engine
from pipeline.inference.witness import Witness
from pipeline.lending import Lending, OpenImages, OpenWork
from pipeline.manifest import commit_part
from pipeline.output_stage import OutputStage
from pipeline.ownership import Ownership
from pipeline.records import ImageResult, ImageTask, Provenance, Shard, ShardKey, ShardResult
from pipeline.source_reader import SourceReader
from pipeline.storage import ObjectStore
from pipeline.tally import Tally

# float32 RGB from the network, its half copy, and the encoded file.
_OUTPUT_BYTES_PER_PIXEL = 12 + 6 + 6
_ASKED_PER_LEASE_TIMEOUT = 6


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at a shard: its images that are open, their counts, and what holds for all of them.

    `known` are sources whose rows are there already.
    """

    shard: Shard
    images: OpenImages
    counts: ConversionCounts
    adopt: bool
    is_last: bool
    is_suspect: bool
    known: frozenset[str]

    def draft(self, task: ImageTask) -> Draft:
        """Begin with an image."""
        return Draft(task, is_last=self.is_last)


class ShardConverter:
    """Converts shards with one engine. `run` may be called from several threads; the device is used by one at a time.

    Owns its threads and the decoder's processes (`close` ends them), not the stores or the engine. `source_is_there`
    is asked when every image of a shard is missing or any was denied, so that an unmounted source or withdrawn rights
    stop the job instead of failing every row; it raises CredentialsError where the source refuses to be listed.
    `ask_owner` raises LeaseLostError when this process may not write any more (`Ownership`). `decoders_bytes` is what
    all children of the decoder may take (an image that declares more passes alone); by default as much as a queue.
    `num_encode_threads` are the configured ones or the fewest by default, and `output_bytes` bounds what is between
    network and store, by default by one queue. `on_row` hears of every finished image, from any thread.
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
        ask_owner: Callable[[], None] = lambda: None,
        decoders_bytes: int | None = None,
        num_encode_threads: int | None = None,
        output_bytes: int | None = None,
        on_row: Callable[[ImageResult], None] = lambda _: None,
    ) -> None:
        self._source = SourceReader(source, config.decode.max_bytes, source_is_there)
        self._destination = destination
        self._witness = Witness(engine)
        self._provenance = provenance
        self._on_row = on_row
        execution = config.execution
        self._ownership = Ownership(ask_owner, execution.lease_timeout_s / _ASKED_PER_LEASE_TIMEOUT)
        self._decoder = ImageDecoder(config.decode)
        self._decoders = ThreadPoolExecutor(execution.num_decode_threads, thread_name_prefix="decode")
        num_encoders = num_encode_threads or execution.encode_threads(engine.device, 0)
        self._encoders = ThreadPoolExecutor(num_encoders, thread_name_prefix="encode")
        self._fetched_budget = ByteBudget(execution.queue_bytes)
        self._children_budget = ByteBudget(execution.queue_bytes if decoders_bytes is None else decoders_bytes)
        self._decoded_budget = ByteBudget(execution.queue_bytes)
        self._output_budget = ByteBudget(execution.queue_bytes if output_bytes is None else output_bytes)
        self._lending = Lending()
        self._watch = StageWatch(execution.image_timeout_s)
        self._output = OutputStage(destination, config.encode, provenance, self._watch, self._ownership)
        self._device_lock = threading.Lock()
        self._tally = Tally()
        self._stopping = threading.Event()

    def run(
        self,
        shard: Shard,
        attempt: int = 1,
        *,
        adopt: bool = False,
        known: Sequence[ImageResult] = (),
        is_last: bool = False,
        is_suspect: bool = False,
    ) -> ShardResult:
        """Convert every image of the shard and commit its manifest part.

        With `adopt`, outputs of an earlier attempt are looked for before the device works. An ImageError costs one
        row, and so does an object that its store fails for while it answers for others: where that may pass, only with
        `is_last`, after which the shard is not tried again. Any other StorageError and SystemicError end the attempt:
        nothing is committed, and what was stored is adopted by the next one. A probe stores its outputs and commits
        nothing. Images with `known` rows are not touched. A part, and a shard of which images were ceded meanwhile, are
        not committed: the result has the rows. With `is_suspect`, a DeviceLostError names the image that did it, where
        that can be told (`Witness`).
        """
        self._output.refresh()
        images = OpenImages(shard, known)
        with self._tally.attempt(is_kept=not shard.is_probe) as counts:
            sources = frozenset(row.task.source for row in known)
            work = _Attempt(shard, images, counts, adopt=adopt, is_last=is_last, is_suspect=is_suspect, known=sources)
            with ExitStack() as stack:
                if not shard.is_probe:  # it looks for what kills workers: one at a time is enough
                    stack.enter_context(self._lending.at_work(images))
                rows = [*known, *self._convert(work)]
            return self._settle(shard, attempt, images, rows)

    def _settle(self, shard: Shard, attempt: int, images: OpenImages, rows: list[ImageResult]) -> ShardResult:
        """Commit what came of an attempt, where that is its part."""
        if rows:
            self._source.require_there(rows)
        if shard.is_probe:
            return probe_result(rows, shard, attempt)
        if shard.part or images.has_ceded:
            fault_point("rows.ready")
            return part_result(rows, shard, attempt, self._provenance)
        fault_point("part.ready")
        self._ownership.confirm()
        result = commit_part(self._destination, rows, shard, attempt, self._provenance)
        fault_point("part.created")
        return result

    def _convert(self, work: _Attempt) -> list[ImageResult]:
        """The rows of the images that are open, as far as they are not ceded, and of those in quarantine."""
        images = work.images
        loads = {
            self._decoders.submit(self._load_if_open, work, task) for task in work.shard.tasks if images.is_open(task)
        }
        results = [
            self._fail(work, work.draft(task), quarantine_error(entry))
            for task, entry in quarantined_tasks(work.shard)
            if task.source not in work.known
        ]
        is_broken = threading.Event()
        try:
            for load in as_completed(tuple(loads)):
                loads.discard(load)
                draft = load.result()
                if draft is None:
                    continue
                if not images.claim(draft.task):
                    self._release(draft)
                    continue
                results.append(self._advance(work, draft))
                results[-1].add_done_callback(lambda done: is_broken.set() if has_failed(done) else None)
                if is_broken.is_set():
                    break
            return all_or_first_failure(results)
        except BaseException:
            abandon(loads, results, self._release)
            raise

    def open_work(self) -> tuple[OpenWork, ...]:
        """What is left of each shard that is at work here, as far as others could do it."""
        return self._lending.open_work()

    def cede(self, key: ShardKey, num_parts: int) -> tuple[tuple[ImageTask, ...], ...]:
        """See `OpenImages.cede`. From then on `run` gives back rows instead of committing."""
        return self._lending.cede(key, num_parts)

    def counts(self) -> ConversionCounts:
        """Totals since this converter was built, each image once, however often its shard was tried."""
        return self._tally.total()

    def settled_counts(self) -> ConversionCounts:
        """The same without what attempts at work have done, which others repeat should this process end now."""
        return self._tally.settled()

    def queued_bytes(self) -> dict[str, int]:
        """Bytes that are fetched, decoded, and to be encoded now."""
        budgets = {"fetched": self._fetched_budget, "decoded": self._decoded_budget, "output": self._output_budget}
        return {name: budget.used_bytes for name, budget in budgets.items()}

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

    def _load_if_open(self, work: _Attempt, task: ImageTask) -> Draft | None:
        return self._load(work, task) if work.images.is_open(task) else None

    def _load(self, work: _Attempt, task: ImageTask) -> Draft:
        draft = work.draft(task)
        if self._stopping.is_set():
            raise InterruptedJobError("stopped before the shard was finished")
        try:
            with self._fetched_budget.hold(task.size_bytes):
                start = perf_counter()
                data = self._source.read(task, is_last=draft.is_last)
                draft.clock("fetch", start)
                draft.source_sha256 = hashlib.sha256(data).hexdigest()
                fault_point("image.fetched", task.source)
                with ExitStack() as stack:
                    with self._children_budget.hold(self._decoder.child_bytes(data)), self._watch.stage(task.source):
                        image = stack.enter_context(self._decoder.open(data))
                    info = image.info
                    draft.held_bytes = self._decoded_budget.acquire(estimate_decoded_bytes(info))
                    # Last, and for the decoding alone: whoever holds it waits for nothing else.
                    with self._children_budget.hold(image.child_bytes):
                        start = perf_counter()
                        with self._watch.stage(task.source, info.width * info.height):
                            draft.ldr = image.decode()
                            fault_point("image.decoded", task.source)
                        draft.clock("decode", start)
            if work.adopt or task.revision > 1:
                draft.existing = self._output.find(draft, 1 if work.shard.adopts_earlier else task.revision)
        except ImageError as error:
            draft.error = error
            self._release(draft)
        except BaseException:
            self._release(draft)
            raise
        return draft

    # Stage 2, on the calling thread.

    def _advance(self, work: _Attempt, draft: Draft) -> Future[ImageResult]:
        """Run the network if the image still needs it, and hand the image to an encode thread."""
        if self._stopping.is_set():
            self._release(draft)
            raise InterruptedJobError("stopped before the shard was finished")
        if draft.ldr is None or draft.error is not None:
            return self._fail(work, draft, draft.error)
        if draft.existing is not None:
            return self._hand_over(work, draft, partial(self._output.adopt, draft, draft.ldr, draft.existing))
        info = draft.ldr.info
        output_bytes = self._output_budget.acquire(info.width * info.height * _OUTPUT_BYTES_PER_PIXEL)
        try:
            with self._device_lock, self._watch.stage(draft.task.source, info.width * info.height):
                if work.is_suspect:
                    self._witness.check()
                start = perf_counter()
                inference = self._witness.infer(draft.ldr.pixels, draft.task.source)
            draft.clock("infer", start)
            fault_point("image.inferred", draft.task.source)
            finish = partial(self._output.finish, draft, draft.ldr, inference)
            return self._hand_over(work, draft, finish, output_bytes)
        except ImageError as error:
            self._output_budget.release(output_bytes)
            self._release(draft)
            return self._fail(work, draft, error)
        except BaseException:
            self._output_budget.release(output_bytes)
            self._release(draft)
            raise

    def _hand_over(
        self, work: _Attempt, draft: Draft, finish: Callable[[], ImageResult], output_bytes: int = 0
    ) -> Future[ImageResult]:
        """Queue the image for an encode thread; what it holds is given back there, or here if it is dropped first."""
        result = self._encoders.submit(self._store, work, draft, finish, output_bytes)

        def give_back(done: Future[ImageResult]) -> None:
            if done.cancelled():
                self._output_budget.release(output_bytes)
                self._release(draft)

        result.add_done_callback(give_back)
        return result

    def _fail(self, work: _Attempt, draft: Draft, error: ImageError | None) -> Future[ImageResult]:
        """The row of an image that gets no further; it is ready at once."""
        assert error is not None
        ready: Future[ImageResult] = Future()
        ready.set_result(self._count(work, draft.failed(error)))
        return ready

    # Stage 3, on an encode thread.

    def _store(self, work: _Attempt, draft: Draft, finish: Callable[[], ImageResult], output_bytes: int) -> ImageResult:
        """Finish one image into its row, and give back what it held; an ImageError becomes the row of a failure."""
        try:
            result = finish()
            fault_point("image.measured", draft.task.source)
        except ImageError as error:
            result = draft.failed(error)
        finally:
            self._output_budget.release(output_bytes)
            self._release(draft)
        return self._count(work, result)

    # Book-keeping.

    def _count(self, work: _Attempt, result: ImageResult) -> ImageResult:
        self._tally.add(work.counts, result)
        self._on_row(result)
        return result

    def _release(self, draft: Draft) -> None:
        if draft.held_bytes:
            self._decoded_budget.release(draft.held_bytes)
            draft.held_bytes = 0
