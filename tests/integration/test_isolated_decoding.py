"""Decoding in child processes: the same pixels and errors as within the worker, and a crash costs one image."""

from __future__ import annotations

import base64
import io
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import imagecodecs
import numpy as np
import psutil
import pytest
import tifffile
from commands import wait_until
from fakes import FakeEngine
from photographs import jpeg, picture, png, tiff
from poison import CODE_BY_FAULT, FAULTS, poison_jpeg, poison_tiff

from pipeline.codecs.decoder_process import DecoderProcess
from pipeline.codecs.decoder_wire import bytes_with_child, private_bytes_allowed
from pipeline.codecs.isolation import ImageDecoder
from pipeline.codecs.ldr import LdrImage, decode_ldr
from pipeline.config import DecodeConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import (
    AlreadyHdrError,
    AlreadyHdrTransferError,
    CorruptImageError,
    ImageError,
    InterruptedJobError,
    QuarantinedError,
    TooLargeError,
    TruncatedImageError,
    UnsupportedFormatError,
    WorkerLostError,
)
from pipeline.records import ImageTask, Provenance, Shard
from pipeline.storage import open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "codecs"))
from ldr_samples import all_formats, save_tiff

SAMPLES = all_formats()
ALL = DecodeConfig(isolate=True)
GRACE_S = 20


@pytest.fixture
def decoder() -> Iterator[ImageDecoder]:
    with_all = ImageDecoder(ALL)
    yield with_all
    with_all.close()


def decode(decoder: ImageDecoder, data: bytes) -> LdrImage:
    with decoder.open(data) as image:
        return image.decode()


def error_of(decoder: ImageDecoder, data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(decoder, data)
    return caught.value


_OF_OTHERS: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def _children_of_other_tests() -> None:
    _OF_OTHERS.clear()
    _OF_OTHERS.update(psutil.Process().children())


def children() -> list[psutil.Process]:
    """The decoder children that this test started and that are alive."""
    return [child for child in psutil.Process().children() if child not in _OF_OTHERS]


def assert_same(image: LdrImage, expected: LdrImage) -> None:
    assert image.info == expected.info
    assert image.pixels.dtype == expected.pixels.dtype
    assert np.array_equal(image.pixels, expected.pixels)
    assert image.pixels.flags.c_contiguous
    assert image.pixels.flags.writeable
    assert (image.alpha is None) == (expected.alpha is None)
    assert image.alpha is None or np.array_equal(image.alpha, expected.alpha)


def test_a_child_decodes_every_format_as_the_worker_would(decoder: ImageDecoder) -> None:
    for name, data in SAMPLES.items():
        with decoder.open(data) as image:
            expected = decode_ldr(data, ALL)
            assert image.info == expected.info, name
            assert_same(image.decode(), expected)
    assert len(children()) == 1, "one child serves one thread"


def test_images_beyond_the_memory_that_is_kept(decoder: ImageDecoder) -> None:
    small = png(picture(9, 7))
    for pixels in (np.zeros((6000, 6000, 3), np.uint8), np.full((3600, 7000, 3), 40_000, np.uint16)):
        pixels[17, 23] = (1, 2, 3)
        data = save_tiff(pixels)
        assert_same(decode(decoder, data), decode_ldr(data, ALL))
        assert_same(decode(decoder, small), decode_ldr(small, ALL))


def test_files_of_the_same_size_are_not_mixed_up(decoder: ImageDecoder) -> None:
    files = [save_tiff(picture(16, 24) // 2 + shade) for shade in range(3)]
    assert len({len(data) for data in files}) == 1
    with decoder.open(files[0]):
        pass  # its pixels are never asked for
    for data in files[1:]:
        assert_same(decode(decoder, data), decode_ldr(data, ALL))


ERRORS = {
    TruncatedImageError: save_tiff(picture(40, 50))[:-400],
    CorruptImageError: SAMPLES["heic"].replace(b"pitm", b"free", 1),
    UnsupportedFormatError: SAMPLES["heic"].replace(b"hvc1", b"vvc1", 1),
    AlreadyHdrError: tiff(np.zeros((8, 8, 3), np.float32)),
    AlreadyHdrTransferError: bytes(imagecodecs.avif_encode(picture(16, 16), primaries=9, transfer=16, matrix=9)),
    TooLargeError: save_tiff(np.zeros((2001, 1000, 3), np.uint8), compression="deflate"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_cross_the_border_unchanged(kind: type[ImageError]) -> None:
    limits = DecodeConfig(isolate=True, max_pixels=2_000_000)
    decoder = ImageDecoder(limits)
    with pytest.raises(ImageError) as expected:
        decode_ldr(ERRORS[kind], limits)
    error = error_of(decoder, ERRORS[kind])
    decoder.close()
    assert type(error) is type(expected.value) is kind
    assert str(error) == str(expected.value)
    assert error.warnings == expected.value.warnings


def test_jpeg_and_png_need_no_child_unless_told() -> None:
    decoder = ImageDecoder(DecodeConfig())
    for data in (jpeg(picture(9, 7)), png(picture(9, 7))):
        assert_same(decode(decoder, data), decode_ldr(data, ALL))
    assert error_of(decoder, b"no image").code == "unsupported_format"
    assert children() == []
    decode(decoder, SAMPLES["tiff"])
    assert len(children()) == 1
    decoder.close()
    assert children() == []


@pytest.mark.parametrize("fault", CODE_BY_FAULT)
def test_a_fault_costs_one_image(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(FAULTS.items())))
    decoder = ImageDecoder(DecodeConfig(isolate=True, timeout_s=20 if fault != "sleep" else 1))
    sound = SAMPLES["webp"]
    assert_same(decode(decoder, sound), decode_ldr(sound, ALL))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (poison_tiff(fault), poison_jpeg(fault)):
        error = error_of(decoder, data)
        assert isinstance(error, QuarantinedError)
        assert (error.code, error.status) == (CODE_BY_FAULT[fault], "quarantined")
        assert_same(decode(decoder, sound), decode_ldr(sound, ALL))
    # What the child allocates without end is not the worker's memory.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 64 * 2**10
    names = {"abort": "SIGABRT", "segfault": "SIGSEGV", "exit": "exit code 7", "sleep": "within 1"}
    assert names.get(fault, "memory") in str(error)
    decoder.close()
    assert children() == []


@pytest.mark.parametrize("fault", CODE_BY_FAULT)
def test_faults_are_inert_unless_asked_for(decoder: ImageDecoder, fault: str) -> None:
    assert_same(decode(decoder, poison_tiff(fault)), decode_ldr(poison_tiff(fault), ALL))


def test_a_child_that_earlier_images_spoilt_does_not_cost_the_next_one(decoder: ImageDecoder) -> None:
    with decoder.open(SAMPLES["tiff"]) as image:
        image.decode()
        (child,) = children()
        child.kill()
    child.wait(GRACE_S)
    assert_same(decode(decoder, SAMPLES["avif"]), decode_ldr(SAMPLES["avif"], ALL))
    (other,) = children()
    assert other.pid != child.pid


def test_a_child_has_no_credentials_and_few_rights(decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-in-the-environment")
    decode(decoder, SAMPLES["tiff"])
    (child,) = children()
    assert b"canary" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    assert "Max file size             0                    0 " in limits
    assert "Max core file size        0                    0 " in limits
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"
    loaded = Path(f"/proc/{child.pid}/maps").read_text()
    assert "libtorch" not in loaded
    assert "_raylet" not in loaded


def test_children_work_side_by_side(decoder: ImageDecoder) -> None:
    faults: list[BaseException] = []

    def work(names: list[str]) -> None:
        try:
            for name in names * 3:
                assert_same(decode(decoder, SAMPLES[name]), decode_ldr(SAMPLES[name], ALL))
        except BaseException as error:  # noqa: BLE001  a thread's error is the test's
            faults.append(error)

    threads = [threading.Thread(target=work, args=(list(SAMPLES)[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert 1 <= len(children()) <= 4


def test_closing_ends_a_hang_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(FAULTS.items())))
    decoder = ImageDecoder(ALL)
    errors: list[BaseException] = []

    def hang() -> None:
        try:
            decode(decoder, poison_tiff("sleep"))
        except InterruptedJobError as error:
            errors.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    wait_until(lambda: any(is_asleep(child) for child in children()), "the child hangs")
    decoder.close()
    thread.join(GRACE_S)
    assert len(errors) == 1
    assert children() == []
    with pytest.raises(InterruptedJobError):
        decode(decoder, SAMPLES["tiff"])


def is_asleep(process: psutil.Process) -> bool:
    try:
        return Path(f"/proc/{process.pid}/wchan").read_text() in {"hrtimer_nanosleep", "do_nanosleep"}
    except OSError:
        return False


PARENT = """
import sys, threading
from pathlib import Path
from pipeline.codecs.decoder_process import DecoderProcess
from pipeline.codecs.decoder_wire import bytes_with_child, private_bytes_allowed
from pipeline.codecs.isolation import ImageDecoder
from pipeline.config import DecodeConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
decoder = ImageDecoder(DecodeConfig(isolate=True))
def work(path):
    with decoder.open(Path(path).read_bytes()) as image:
        image.decode()
    print("done", flush=True)
for path in sys.argv[1:]:
    threading.Thread(target=work, args=(path,)).start()
"""


def test_children_die_with_a_killed_parent_even_within_a_decoder(tmp_path: Path) -> None:
    (tmp_path / "sound.tif").write_bytes(SAMPLES["tiff"])
    (tmp_path / "hangs.tif").write_bytes(poison_tiff("sleep"))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "sound.tif", tmp_path / "hangs.tif"],
        env={**os.environ, **FAULTS}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "done\n"
        wait_until(lambda: any(map(is_asleep, psutil.Process(parent.pid).children())), "a child hangs")
        orphans = psutil.Process(parent.pid).children()
        assert len(orphans) == 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate(timeout=GRACE_S)
    _, alive = psutil.wait_procs(orphans, GRACE_S)
    assert alive == []


def test_where_no_child_can_start_it_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decoder: ImageDecoder
) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken here')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(WorkerLostError, match="numpy is broken here"):
        decode(decoder, SAMPLES["tiff"])


def declare(name: str, side: int) -> bytes:
    """The sample with a header that declares `side` x `side` pixels."""
    data = bytearray(SAMPLES[name])
    if name == "jpeg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = side.to_bytes(2, "big") * 2
    elif name == "png":
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif name == "tiff":
        for tag in (256, 257, 278):  # width, length, rows per strip
            at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[at : at + 4] = side.to_bytes(4, "little")
    elif name == "webp_animated":
        at = data.index(b"VP8X") + 12
        data[at : at + 6] = (side - 1).to_bytes(3, "little") * 2
    else:
        at = data.index(b"ispe")
        while at >= 0:
            data[at + 8 : at + 16] = side.to_bytes(4, "big") * 2
            at = data.find(b"ispe", at + 4)
    return bytes(data)


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff", "webp_animated", "avif", "heic"])
def test_a_declared_size_is_refused_before_its_pixels_are_allocated(decoder: ImageDecoder, name: str) -> None:
    decode(decoder, SAMPLES[name])
    (child,) = children()
    before = peak_bytes(child)
    error = error_of(decoder, declare(name, 60_000))
    assert error.code == "too_large" or (name == "tiff" and error.code == "decode_corrupt"), error
    assert children() == [child]
    assert peak_bytes(child) - before < 32 * 2**20


# Found by coverage-guided fuzzing: a length of type BYTE, times a width of 4,294,901,760.
TEXT_FOR_A_SIZE = base64.b64decode(
    "SUkqAAgAAAAQAAABYgABAAAAQAQAAAABAQABAAAAMAAAAAIBAwADAPb/zQAAAAMBAwABAAAAsoAAAAYBAwD//////f3//xUBAwAB"
    "AAAAAwAAAI6Nwe1KsR5Phq9tJt+4KAkHWE6WPytGq35aL8+5U6UAaay8Yd+fnc+kfGkGkwxabkToKgv/ib+5XsEcdc6ugUJbLqHT"
    "kk06CnyJ4NHqyU9FDbIHQP////////////////////////////////9PFQK5hfPtQAAAAAAAAD8AAC8AAAAAAABWUDYgAP4BtgH2"
    "AVdYfW9PdvxJ/FXpnyFP"
)


def with_width_as_text() -> bytes:
    """The same fault in a file that is whole otherwise, for that one lacks values that its directory points to."""
    data = bytearray(save_tiff(picture(16, 24)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        entry = file.pages[0].tags[256].offset
    data[entry + 2 : entry + 4] = (1).to_bytes(2, "little")  # BYTE
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "code"), [(TEXT_FOR_A_SIZE, "decode_truncated"), (with_width_as_text(), "decode_corrupt")]
)
def test_a_size_that_is_text_takes_no_memory(decoder: ImageDecoder, data: bytes, code: str) -> None:
    assert error_of(decoder, data).code == code


def peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_waiting_is_measured_for_the_image_alone(decoder: ImageDecoder) -> None:
    """What a worker does between header and pixels does not count against the image."""
    config = DecodeConfig(isolate=True, timeout_s=1)
    quick = ImageDecoder(config)
    with quick.open(SAMPLES["tiff"]) as image:
        time.sleep(1.5)
        assert_same(image.decode(), decode_ldr(SAMPLES["tiff"], ALL))
    quick.close()


class Crowd:
    """How many children decode at once; `wanted` of them wait for each other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
        self.most, self._now, self._lock = 0, 0, threading.Lock()
        barrier, decode = threading.Barrier(wanted), DecoderProcess.decode

        def counted(child: DecoderProcess, *arguments: object) -> LdrImage:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            try:
                barrier.wait(60)
                return decode(child, *arguments)  # type: ignore[arg-type]
            finally:
                with self._lock:
                    self._now -= 1

        monkeypatch.setattr(DecoderProcess, "decode", counted)


@pytest.mark.parametrize(("num_at_once", "room"), [(3, 3.5), (2, 2.5), (1, 1.5), (1, 0.0)])
def test_children_together_take_no_more_than_the_worker_may(
    monkeypatch: pytest.MonkeyPatch, num_at_once: int, room: float
) -> None:
    """Room for so many images, and more threads that would decode them; a file that is decoded here waits for none."""
    pixels = picture(90, 120)
    data = tiff(pixels)
    one_image = bytes_with_child(len(data), pixels.nbytes)
    crowd = Crowd(monkeypatch, num_at_once)
    with closing(ImageDecoder(DecodeConfig())) as decoder:
        assert decoder.child_bytes(data) == bytes_with_child(len(data))
        assert decoder.child_bytes(jpeg(pixels)) == 0
        with decoder.open(data) as image:
            assert image.child_bytes == one_image
    source = open_store(f"memory://{uuid4().hex}", StorageConfig())
    infos = [source.create(f"{index}.tif", data) for index in range(6)]
    config = build_config(
        source={"url": "s"}, destination={"url": "d"}, execution={"num_decode_threads": 4, "num_encode_threads": 1}
    )
    converter = ShardConverter(
        source=source,
        destination=open_store(f"memory://{uuid4().hex}", StorageConfig()),
        engine=FakeEngine(),
        config=config,
        provenance=Provenance("0", "fake", "f" * 64, config.pixel_digest(), "w", "n"),
        decoders_bytes=int(room * one_image),
    )
    tasks = tuple(ImageTask(info.key, info.key, info.size_bytes, info.etag) for info in infos)
    try:
        result = converter.run(Shard(1, 0, tasks))
    finally:
        converter.close()
    assert (result.num_ok, result.num_failed) == (6, 0)
    assert crowd.most == num_at_once


def test_the_childs_limit_is_what_is_counted_for_it(decoder: ImageDecoder) -> None:
    data = tiff(picture(90, 120))
    with decoder.open(data) as image:
        image.decode()
        (child,) = children()
        limit = int(Path(f"/proc/{child.pid}/limits").read_text().partition("Max data size")[2].split()[0])
        base = limit - private_bytes_allowed(len(data), picture(90, 120).nbytes)
        assert 0 < base < 2**31, "what its libraries take"
        assert image.child_bytes > limit - base
