"""Which file names are taken for images when a source is listed. What the bytes are, `codecs.formats` decides."""

from __future__ import annotations

from typing import Final

IMAGE_EXTENSIONS: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
        *(".png", ".apng"),
        *(".tif", ".tiff"),
        ".webp",
        *(".avif", ".avifs"),
        *(".heic", ".heif", ".heics", ".heifs", ".hif"),
    }
)
"""Extensions, lower-case and with the dot, of every format that `decode_ldr` reads."""
