"""`hdrfleet demo`: photographs of a rendered scene, converted, with a contact sheet to look at."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from jobs import options as opt
from jobs.camera import render_truths, save_exposures
from jobs.contact_sheet import SheetRow, render_contact_sheet
from jobs.convert import run_conversion
from jobs.demo_scores import Score, print_scores, score
from jobs.progress import ConsoleReporter
from jobs.tables import print_summary
from pipeline.codecs.color import linear_to_srgb, srgb_to_linear
from pipeline.codecs.exr import decode_exr
from pipeline.config import StorageConfig
from pipeline.errors import DestinationError
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

_MARKER = ".hdrfleet-demo"
# Small enough for a minute on two CPU cores, large enough to look at.
_WIDTH_PX, _HEIGHT_PX = 480, 320
_DRAWN_TRUTHS = frozenset({"scene_-2ev.jpg", "scene_0ev.jpg", "scene_+2ev.jpg", "portrait_exif6.jpg"})


def run_demo(folder: Path, executor: str) -> None:
    """Make the input, convert it, print the summary and where everything lies.

    Replaces what an earlier demo left in `folder`; raises DestinationError when the folder holds anything else.
    """
    photos, hdr, sheet = folder / "photos", folder / "hdr", folder / "contact-sheet.png"
    config = opt.build(
        source={"url": str(photos)},
        destination={"url": str(hdr.absolute())},
        encode={"verify": "all"},
        execution={"executor": executor},
    )
    _prepare(folder)
    reporter = ConsoleReporter()
    reporter.note("photographing a rendered scene; one file is broken on purpose")
    save_exposures(photos, width=_WIDTH_PX, height=_HEIGHT_PX)
    outcome = run_conversion(config, reporter)
    scores = write_contact_sheet(photos, hdr, sheet, render_truths(width=_WIDTH_PX, height=_HEIGHT_PX))
    print_summary(outcome.manifest, outcome.headline(), outcome.failures, outcome.destination)
    reporter.note("")
    print_scores(scores)
    places = {"input": photos, "HDR images": hdr / "images", "manifest": hdr / "manifest", "contact sheet": sheet}
    reporter.note("\n" + "\n".join(f"{name:<14} {place}" for name, place in places.items()))
    asked = f"{shlex.quote(str(hdr))} 'select source, status, error_code from manifest'"  # noqa: S608
    reporter.note(f"\nnext: {_program()} query {asked}")


def write_contact_sheet(source: Path, destination: Path, sheet: Path, truths: Mapping[str, np.ndarray]) -> list[Score]:
    """Draw every row of the manifest: the input beside the stored EXR at several exposures, and its truth below.

    `truths` are linear, by source; rows without one are drawn alone. Returns how close those with one came.
    """
    store = open_store(str(destination), StorageConfig())
    rows, scores = [], []
    found = open_manifest(store).current.sort_by("source").to_pylist()
    for row in sorted(found, key=lambda row: row["output"] is None):  # failures last
        if row["output"] is None:
            rows.append(SheetRow(row["source"], None, None, f"{row['error_code']}: {row['error_message']}"))
            continue
        hdr, view = decode_exr(store.read(row["output"])).image.pixels, _view(source / row["source"])
        note = f"{row['width']}x{row['height']}, {row['clipped_fraction']:.1%} clipped"
        truth = truths.get(row["source"])
        if truth is None:
            rows.append(SheetRow(row["source"], view, hdr, note))
            continue
        scores.append(score(row["source"], view, hdr, truth))
        rows.append(SheetRow(row["source"], view, hdr, f"{note}; {scores[-1].note()}"))
        if row["source"] in _DRAWN_TRUTHS:
            rows.append(SheetRow("what was there", None, truth))
    image = render_contact_sheet(rows)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    sheet.write_bytes(buffer.getvalue())
    return scores


def _program() -> str:
    """This command as it can be typed again: `make demo` starts it where no shell looks for it."""
    started, found = Path(sys.argv[0]), shutil.which("hdrfleet")
    if started.name != "hdrfleet" or not started.exists() or (found is not None and started.samefile(found)):
        return "hdrfleet"
    return shlex.quote(sys.argv[0])


def _view(path: Path) -> np.ndarray:
    """The input as a viewer shows it: upright, 8 bit, on black where it is transparent."""
    data = path.read_bytes()
    if path.suffix == ".png":
        pixels = np.asarray(imagecodecs.png_decode(data))
        if pixels.dtype == np.uint16:
            return np.ascontiguousarray(pixels[..., :3] >> 8).astype(np.uint8)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
        pixels = np.asarray(upright, np.float32) / np.float32(255.0)
    # Over black in linear light, as the output beside it, whose colours are associated.
    light = srgb_to_linear(pixels[..., :3]) * pixels[..., 3:]
    codes: np.ndarray = np.rint(linear_to_srgb(light) * np.float32(255.0)).astype(np.uint8)
    return codes


def _prepare(folder: Path) -> None:
    if folder.exists() and not (folder / _MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DestinationError(f"{folder} holds something else than an earlier demo; name an empty or new folder")
    for part in ("photos", "hdr"):
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()
