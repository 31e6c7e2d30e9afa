"""Whether chromaticities (CIE 1931 x, y) can be those of a display or of a colour space for photographs."""

from __future__ import annotations

from collections.abc import Sequence

# Primaries may lie outside of what eyes can see (the blue of ACES AP0 has y = -0.077), but none is far from there.
_MIN_COORDINATE, _MAX_COORDINATE = -0.25, 1.25
# Of the triangle of the primaries: sRGB's is 0.112, that of a poor laptop's panel 0.07.
_MIN_AREA = 0.02
# White is this mixture of the primaries' x and y at least; from sRGB to ACES, and up to 9300 K, no share is below 0.18.
_MIN_WHITE_SHARE = 0.05


def can_be_display(chromaticities: Sequence[float]) -> bool:
    """Whether white, red, green and blue (as x, y; eight numbers) make a colour space that something could show.

    White has light (y > 0, x + y <= 1) and lies well within the triangle of the primaries, and they are no line.
    Otherwise the matrix to XYZ exists, often enough, and turns white into a colour and colours into each other.
    """
    (white_x, white_y), *primaries = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    if not all(_MIN_COORDINATE <= value <= _MAX_COORDINATE for value in chromaticities):
        return False
    if white_x <= 0 or white_y <= 0 or white_x + white_y > 1:
        return False
    red, green, blue = primaries
    whole = _twice_area(red, green, blue)
    if abs(whole) < 2 * _MIN_AREA:
        return False
    white = (white_x, white_y)
    parts = (_twice_area(white, green, blue), _twice_area(red, white, blue), _twice_area(red, green, white))
    return min(part / whole for part in parts) >= _MIN_WHITE_SHARE


def _twice_area(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive where the corners run counter-clockwise."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
