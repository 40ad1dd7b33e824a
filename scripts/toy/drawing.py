"""Shapes with anti-aliased edges in one picture; lengths are in heights of the picture, and y points down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Field: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
RGB: TypeAlias = Iterable[float]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Canvas:
    """One picture being drawn: pixels (H W 3) in 0 to 255, and the mask (H W) of its object."""

    pixels: np.ndarray
    mask: np.ndarray

    def paint(self, distance: Field, box: Box, colour: Field, opacity: float = 1.0, marks: bool = False) -> None:
        """Fill a shape inside a box with an anti-aliased edge, and mark it in the mask on request.

        `distance` maps x (1 W) and y (H 1) to the signed distance from the edge, negative inside; `colour` maps them to
        colours that broadcast to (H W 3).
        """
        height, width, _ = self.pixels.shape
        left, top, right, bottom = (round(edge * height) for edge in box)
        rows, columns = slice(max(top - 1, 0), max(bottom + 2, 0)), slice(max(left - 1, 0), max(right + 2, 0))
        y = (np.arange(height, dtype=np.float32)[rows, None] + 0.5) / height
        x = (np.arange(width, dtype=np.float32)[None, columns] + 0.5) / height
        cover = np.clip(0.5 - distance(x, y) * height, 0, 1)
        region = self.pixels[rows, columns]
        region += opacity * cover[..., None] * (colour(x, y) - region)
        if marks:
            self.mask[rows, columns] |= cover > 0.5

    def rectangle(self, box: Box, colour: Field, opacity: float = 1.0) -> None:
        left, top, right, bottom = box
        self.paint(
            lambda x, y: np.maximum(np.maximum(left - x, x - right), np.maximum(top - y, y - bottom)),
            box,
            colour,
            opacity,
        )

    def ellipse(
        self, x0: float, y0: float, wide: float, tall: float, colour: Field, opacity: float = 1.0, marks: bool = False
    ) -> None:
        """An ellipse with these half axes."""
        self.paint(
            lambda x, y: (np.hypot((x - x0) / wide, (y - y0) / tall) - 1) * min(wide, tall),
            (x0 - wide, y0 - tall, x0 + wide, y0 + tall),
            colour,
            opacity,
            marks,
        )

    def convex(self, corners: list[Point], colour: Field, opacity: float = 1.0, marks: bool = False) -> None:
        """A convex polygon."""
        edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
        turn = math.copysign(1, sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges))

        def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            sides = (
                ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) * (turn / math.hypot(x1 - x0, y1 - y0))
                for (x0, y0), (x1, y1) in edges
            )
            return np.maximum.reduce([*sides])

        xs, ys = zip(*corners, strict=True)
        self.paint(distance, (min(xs), min(ys), max(xs), max(ys)), colour, opacity, marks)


def flat(colour: RGB) -> Field:
    """The same colour everywhere."""
    value = np.array(tuple(colour), np.float32)
    return lambda x, y: value


def blend(stops: dict[float, RGB]) -> Field:
    """Colours from top to bottom, linear between the given heights."""
    heights = tuple(stops)
    channels = np.array([tuple(colour) for colour in stops.values()], np.float32).T
    return lambda x, y: np.stack([np.interp(y, heights, channel) for channel in channels], -1).astype(np.float32)


def lit(colour: RGB, x0: float, y0: float, reach: float, bright: float, dim: float) -> Field:
    """A colour that falls from `bright` at (x0, y0) to `dim` at the distance `reach`, as on a ball under a lamp."""
    base = np.array(tuple(colour), np.float32)

    def shade(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        fall = np.minimum(np.hypot(x - x0, y - y0) / reach, 1)[..., None]
        gain = bright + (dim - bright) * fall**2
        return np.minimum(base * gain + 255 * np.maximum(gain - 1, 0), 255)

    return shade


BLACK, WHITE, CLOUD, SHADOW = (0, 0, 0), (255, 255, 255), (92, 100, 112), (20, 22, 30)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """A colour between two, the second with this share."""
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))
