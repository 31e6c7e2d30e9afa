"""How close the demo's conversion came to the scene that was photographed, beside a plain sRGB decode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline.evaluation import evaluate_pair
from pipeline.evaluation.baselines import srgb_decode

_METRICS = ("mu_psnr_db", "clipped_error_stops")  # those that need no optional package


@dataclass(frozen=True, slots=True)
class Score:
    """mu-PSNR in dB, and the mean error in the clipped area in stops (NaN where nothing is clipped), of two methods.

    Both are defined in docs/evaluation.md.
    """

    name: str
    mu_psnr_db: float
    clipped_error_stops: float
    srgb_mu_psnr_db: float
    srgb_clipped_error_stops: float

    def note(self) -> str:
        """One line for a contact sheet."""
        text = f"mu-PSNR {self.mu_psnr_db:.1f} dB (sRGB decode {self.srgb_mu_psnr_db:.1f})"
        if np.isnan(self.clipped_error_stops):
            return text
        return f"{text}, clipped area {self.clipped_error_stops:.2f} stops off ({self.srgb_clipped_error_stops:.2f})"


def score(
    name: str, ldr: NDArray[np.uint8] | NDArray[np.uint16], output: NDArray[np.floating], truth: NDArray[np.float32]
) -> Score:
    """Measure one output: `ldr` (H, W, 3) codes, `output` and `truth` (H, W, 3) linear with 1.0 = clipping level."""
    ours = evaluate_pair(ldr, output.astype(np.float32), truth, _METRICS)
    srgb = evaluate_pair(ldr, srgb_decode(ldr), truth, _METRICS)
    return Score(name, *(values[metric] for values in (ours, srgb) for metric in _METRICS))


def print_scores(scores: Iterable[Score]) -> None:
    """Print a table to standard output."""
    table = Table(title="against the rendered scene", title_justify="left", box=None, pad_edge=False)
    table.add_column("file")
    for heading in ("mu-PSNR, dB", "sRGB decode", "clipped area, stops off", "sRGB decode"):
        table.add_column(heading, justify="right")
    for found in scores:
        clipped = [found.clipped_error_stops, found.srgb_clipped_error_stops]
        table.add_row(
            found.name,
            f"{found.mu_psnr_db:.1f}",
            f"{found.srgb_mu_psnr_db:.1f}",
            *("-" if np.isnan(value) else f"{value:.2f}" for value in clipped),
        )
    Console(highlight=False).print(table)
