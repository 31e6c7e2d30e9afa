"""Draw the memory that a soak test noted: `python -m bench.soak_plot FOLDER/memory.csv docs/images/soak.png`."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_ROLES = {
    "driver": ("tab:red", "driver"),
    "kept": ("tab:green", "worker on the node that is spared"),
    "worker": ("tab:blue", "other workers, each until it is killed"),
}


def draw(samples: Path, target: Path) -> None:
    held: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with samples.open(newline="") as file:
        for seconds, role, pid, num_bytes in csv.reader(file):
            held[role, pid].append((float(seconds), int(num_bytes) / 2**20))
    start = min(points[0][0] for points in held.values())
    figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
    for (role, _), points in sorted(held.items()):
        minutes = [(seconds - start) / 60 for seconds, _ in points]
        axes.plot(minutes, [size for _, size in points], color=_ROLES[role][0], linewidth=1)
    for color, label in _ROLES.values():
        axes.plot([], [], color=color, label=label)
    axes.set(xlabel="minutes", ylabel="resident MiB", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
