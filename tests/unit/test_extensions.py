"""Which names are taken for images."""

from __future__ import annotations

from PIL import Image

from pipeline.codecs.formats import ImageFormat
from pipeline.extensions import IMAGE_EXTENSIONS


def test_every_format_that_is_decoded_is_listed_and_nothing_else() -> None:
    assert {f".{kind}" for kind in ImageFormat} <= IMAGE_EXTENSIONS
    # Pillow's registry is the independent list; HEIF is not in it, and `.jif` is JPEG by another old name.
    Image.init()
    kinds = {"JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF"}
    known = {extension for extension, kind in Image.registered_extensions().items() if kind in kinds}
    assert {".jpg", ".mpo", ".apng", ".tif", ".webp", ".avifs"} <= known
    assert known | {".jif", ".heic", ".heif", ".heics", ".heifs", ".hif"} == IMAGE_EXTENSIONS


def test_extensions_are_written_as_names_are_compared() -> None:
    assert all(extension == extension.lower() and extension.startswith(".") for extension in IMAGE_EXTENSIONS)
