"""Makespan, cost and waste of a large job on a simulated cluster, against the best possible schedule.

    python -m bench.cluster_simulation --shard-images 1000 --csv simulation.csv --plot simulation.png

Without `--shard-images`, shards have the default's images; a hundred million of them then take minutes of a core for
each scenario. The real scaling policy, tail splitting and lease book run on a fake clock (`bench.simulated_cluster`).
The bounds no schedule can beat: time, one start and then all pixels at full strength; worker-hours, one start and the
pixels.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.simulated_cluster import Result, Setup, Simulation
from pipeline.config import ShardingConfig
from pipeline.execution.scaling import ScalingLimits


@dataclass(frozen=True)
class Bounds:
    makespan_s: float
    worker_s: float


def scenarios(num_images: int, num_workers: int, shard_images: int) -> dict[str, Setup]:
    limits = ScalingLimits(max_workers=num_workers)
    base = Setup(num_images // shard_images, images_per_shard=shard_images, limits=limits)
    pixels_s = num_images * base.megapixels_per_image / base.megapixels_per_s
    deadline_s = 2.5 * pixels_s / num_workers
    budget = replace(base.limits, budget_worker_s=1.2 * pixels_s)
    spot = replace(base, losses_per_h=0.05)
    return {
        "no losses": base,
        "spot, 5 %/h lost": spot,
        "spot, 20 %/h lost": replace(base, losses_per_h=0.2),
        "spot, 5 %/h, tail not split": replace(spot, splits_tail=False),
        "spot, 5 %/h, deadline 2.5 times the pixels' time": replace(spot, deadline_s=deadline_s),
        "spot, 5 %/h, budget 1.2 times the pixels'": replace(spot, limits=budget),
    }


def bounds(setup: Setup, result: Result) -> Bounds:
    capacity_s = result.useful_s / setup.limits.max_workers
    return Bounds(setup.start_s + capacity_s, setup.start_s + result.useful_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--shard-images", type=int, default=ShardingConfig().max_images)
    parser.add_argument("--price", type=float, default=1.0, help="of a worker-hour, to show the cost in money")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    results: dict[str, tuple[Setup, Result]] = {}
    rows = []
    for name, setup in scenarios(args.images, args.workers, args.shard_images).items():
        began = time.perf_counter()
        result = Simulation(setup).run()
        results[name] = setup, result
        rows.append(row(name, setup, result, args.price) | {"simulated_in_s": round(time.perf_counter() - began)})
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if args.plot:
        plot(results, args.plot)


def row(name: str, setup: Setup, result: Result, price: float) -> dict[str, Any]:
    best = bounds(setup, result)
    once = sum(count == 1 for count in result.done.values())
    return {
        "scenario": name,
        "shards_done_once": once,
        "shards": setup.num_shards,
        "makespan_s": round(result.makespan_s),
        "makespan_ratio": round(result.makespan_s / best.makespan_s, 3),
        "worker_hours": round(result.paid_s / 3600, 1),
        "cost": round(result.paid_s / 3600 * price, 2),
        "cost_ratio": round(result.paid_s / best.worker_s, 3),
        "waste_starting": f"{result.starting_s / result.paid_s:.2%}",
        "waste_idle_or_slow": f"{result.idle_s / result.paid_s:.2%}",
        "waste_repeated": f"{result.repeated_s / result.paid_s:.3%}",
        "most_workers": result.most_workers,
        "lost": result.num_lost,
        "leased_again": result.num_given_back,
        "decisions": len(result.reasons),
    }


def plot(results: dict[str, tuple[Setup, Result]], target: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 7), layout="constrained", height_ratios=(3, 2))
    for name, (_, result) in results.items():
        above.plot([at / 3600 for at, _, _ in result.workers], [num for _, num, _ in result.workers], label=name, lw=1)
    first = next(iter(results.values()))
    above.axvline(bounds(*first).makespan_s / 3600, color="black", ls=":", lw=1, label="no schedule ends earlier")
    above.set(xlabel="hours", ylabel="workers that are ready", xlim=(0, None), ylim=(0, None))
    above.legend(fontsize=8, loc="upper right")
    left = [0.0] * len(results)
    parts = {"starting": "starting_s", "idle, or slower than the mean": "idle_s", "done again": "repeated_s"}
    for label, field in parts.items():
        shares = [100 * max(0.0, getattr(result, field)) / result.paid_s for _, result in results.values()]
        below.barh(list(results), shares, left=left, label=label)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    below.invert_yaxis()
    below.set(xlabel="waste, % of the worker-hours that were paid")
    below.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
