"""Time the network by precision and tile size, beside the matrix-multiply peak of the same device in the same run.

    python -m bench.inference --size 1060x1900 --precision fp32 bf16 --tile-px 256 512 1024 0
    python -m bench.inference --memory --precision fp32

Prints, per row: seconds for one image (best of --repeats), CPU seconds, megapixels per second, the speed as a ratio to
the first row, useful TFLOP/s (2 x 355,136 per output pixel, halos not counted) and its share of the GEMM peak.
`--memory` prints peak memory per computed pixel instead. Weights are random; speed does not depend on them.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.config import InferenceConfig, Precision
from pipeline.inference.engine import InferenceEngine
from pipeline.inference.memory import retain_freed_memory
from pipeline.inference.precision import DTYPES, resolve_device, resolve_precision
from pipeline.models.descriptor import HDRUNET
from pipeline.models.hdrunet import HDRUNet


def main() -> None:
    args = parse_arguments()
    retained = False if args.no_retain else retain_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print(measure_peak_bytes(args.device, args.precision[0], args.memory_of))
        return
    device = resolve_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"device {device} ({name}), torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"freed memory {'retained' if retained else 'returned'}")
    if args.memory:
        report_memory(args)
    else:
        report_speed(args, device)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1060x1900", help="height x width of the image in pixels")
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--tile-px", nargs="+", type=int, default=[0], help="core sides; 0 is the whole image")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-retain", action="store_true", help="let malloc return freed memory, as by default")
    parser.add_argument("--memory", action="store_true", help="measure peak memory per computed pixel")
    parser.add_argument("--memory-of", metavar="SIZES", help=argparse.SUPPRESS)
    return parser.parse_args()


def report_speed(args: argparse.Namespace, device: torch.device) -> None:
    height, width = parse_size(args.size)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    print(f"image {height} x {width}")
    print(f"{'precision':>9} {'tile px':>7} {'tiles':>5} {'s':>8} {'cpu s':>7} {'MP/s':>8} {'ratio':>6}", end="")
    print(f" {'TFLOP/s':>8} {'of GEMM':>7}")
    first_s: float | None = None
    for precision in args.precision:
        dtype = DTYPES[resolve_precision(precision, device)]
        peak = gemm_flops_per_s(device, dtype)
        for tile_px in args.tile_px:
            engine = build_engine(args.device, precision, tile_px or max(height, width) + 3 & ~3)
            num_tiles = engine.infer(pixels).info.num_tiles
            wall_s, cpu_s = best_of(args.repeats, lambda: engine.infer(pixels))  # noqa: B023 called at once
            first_s = first_s or wall_s
            rate = height * width / wall_s
            flops = 2 * HDRUNET.macs_per_pixel * rate
            print(f"{engine.precision:>9} {tile_px or 'whole':>7} {num_tiles:5d} {wall_s:8.3f} {cpu_s:7.2f} ", end="")
            print(f"{rate / 1e6:8.3f} {first_s / wall_s:6.2f} {flops / 1e12:8.3f} {flops / peak:7.0%}", flush=True)


def build_engine(device: str, precision: Precision, tile_px: int) -> InferenceEngine:
    torch.manual_seed(0)
    return InferenceEngine(HDRUNet(), InferenceConfig(device=device, precision=precision, tile_px=tile_px))


def best_of(repeats: int, run: Callable[[], object]) -> tuple[float, float]:
    """Return the least wall time and the least CPU time of `repeats` runs, in seconds."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def gemm_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate of a square matrix product in the dtype: what the device can do at most."""
    side = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    multiply()
    return 2 * side**3 / best_of(5, multiply)[0]


def report_memory(args: argparse.Namespace) -> None:
    """Each sequence runs in its own process: a peak is a property of everything that process ever did."""
    sequences = {"one size": "896x896", "a mix": "640x352,128x896,480x480,896x256,736x800,160x160,512x864,896x896"}
    for precision in args.precision:
        for what, sizes in sequences.items():
            command = [sys.executable, "-m", "bench.inference", "--memory-of", sizes, "--precision", precision]
            command += ["--device", args.device, *(["--no-retain"] if args.no_retain else [])]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 our own
            print(f"{precision:>9} {what:>9}: {int(output) / 896**2:6.0f} bytes per pixel")


def measure_peak_bytes(device_name: str, precision: Precision, sizes: str) -> int:
    """Return how far memory grew above a tiny image's while images of these sizes (the largest last) were converted."""
    engine = build_engine(device_name, precision, 4096)
    engine.warm_up()
    base = peak_bytes(engine.device)
    for size in sizes.split(","):
        engine.infer(np.full((*parse_size(size), 3), 128, np.uint8))
    return peak_bytes(engine.device) - base


def peak_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


if __name__ == "__main__":
    main()
