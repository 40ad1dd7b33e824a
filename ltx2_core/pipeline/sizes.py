"""Sizes of clips: what a name, an aspect or an input's own shape means in pixels."""

from __future__ import annotations

import math
from fractions import Fraction

ASPECTS: dict[str, Fraction] = {
    "16:9": Fraction(16, 9),
    "9:16": Fraction(9, 16),
    "1:1": Fraction(1),
    "4:3": Fraction(4, 3),
    "3:4": Fraction(3, 4),
    "21:9": Fraction(21, 9),
}


def nearest_aspect(width: int, height: int) -> str:
    """The name of the aspect that is nearest to a picture's."""
    return min(ASPECTS, key=lambda name: abs(math.log(ASPECTS[name] * height / width)))


def turned(size: tuple[int, int], aspect: str, multiple: int) -> tuple[int, int]:
    """A size of another aspect with about as many pixels, both sides legal. One that lies or stands only turns."""
    width, height = size
    wanted = ASPECTS[aspect]
    if nearest_aspect(width, height) == aspect:
        return size
    if nearest_aspect(height, width) == aspect:
        return height, width
    wide = math.sqrt(width * height * wanted)
    return _legal(wide, multiple), _legal(wide / wanted, multiple)


def _legal(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
