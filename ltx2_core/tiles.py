"""The tiles of a clip, for a VAE that processes a large one in pieces. Arithmetic only, without torch.

A plan gives tile sizes in pixels; the cuts are made on the latent grid, axis by axis.
Source: docs/reference/video-vae.md, "Tiles".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Self

from .errors import RequestError
from .grids import Factors

# The automatic plan in latent cells: 80 frames and 768 pixels on the longer side in the released models.
AUTO_FRAMES, AUTO_FRAMES_OVERLAP = 10, 3
AUTO_LONG_SIDE, AUTO_LEAST_SIDE, AUTO_SIDE_OVERLAP = 24, 3, 2
ENCODE_LEAST_OVERLAP = 2  # cells: 16 frames, 64 pixels
STAGE_OVERLAP = 5  # overlap of the tiles of a stage in cells
AUDIO_CONTEXT = 40  # latent steps around a piece of audio: more than a value of its spectrogram or waveform depends on
FRAMES_PER_CHUNK = 4  # decoded frames per chunk, in float32


@dataclass(frozen=True, slots=True)
class Interval:
    """A piece of an axis, and how many of its first and last cells (or pixels) are blended with its neighbours."""

    start: int
    stop: int
    left: int = 0
    right: int = 0

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)


Axes = tuple[list[Interval], list[Interval], list[Interval]]  # frames, rows, columns


class Cut(NamedTuple):
    """Length of the tiles on one axis and their overlap, in frames or pixels."""

    tile: int
    overlap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How to cut a clip. None leaves an axis whole, so `TilePlan()` is the whole clip in one tile."""

    frames: Cut | None = None
    height: Cut | None = None
    width: Cut | None = None

    @classmethod
    def auto(cls, latent: Sequence[int], factors: Factors) -> Self:
        """The plan that decodes a latent grid (f h w) of any size in about the same memory.

        Source: docs/reference/video-vae.md, "Official tile plans".
        """
        _, rows, columns = latent
        cells = (round(AUTO_LONG_SIDE * n / max(rows, columns)) for n in (rows, columns))
        height, width = (max(AUTO_LEAST_SIDE, n) for n in cells)
        return cls(
            frames=Cut(AUTO_FRAMES * factors.time, AUTO_FRAMES_OVERLAP * factors.time),
            height=Cut(height * factors.height, AUTO_SIDE_OVERLAP * factors.height),
            width=Cut(width * factors.width, AUTO_SIDE_OVERLAP * factors.width),
        )

    @classmethod
    def of_sizes(cls, sizes: Sequence[int], factors: Factors) -> Self:
        """Tiles of so many frames, rows and columns; small ones overlap by half, others as in the automatic plan.

        Raises: RequestError if tiles of these sizes are not possible.
        """
        most = AUTO_FRAMES_OVERLAP, AUTO_SIDE_OVERLAP, AUTO_SIDE_OVERLAP
        shared = [min(cells, size // factor // 2) for cells, size, factor in zip(most, sizes, factors, strict=True)]
        cuts = [Cut(size, cells * factor) for size, cells, factor in zip(sizes, shared, factors, strict=True)]
        plan = cls(frames=cuts[0], height=cuts[1], width=cuts[2])
        plan.check(factors)
        return plan

    def halved(self, latent: Sequence[int], factors: Factors) -> tuple[int, ...] | None:
        """Frames, rows and columns of tiles that are half as long on each axis of a latent grid (f h w).

        None if the tiles are as small as they can be.
        """
        axes = zip(latent, self.cuts, factors, strict=True)
        tiles = [length if cut is None else min(length, cut.tile // factor) for length, cut, factor in axes]
        halves = [max(2, cells // 2) for cells in tiles]
        if all(half >= cells for half, cells in zip(halves, tiles, strict=True)):
            return None
        return tuple(cells * factor for cells, factor in zip(halves, factors, strict=True))

    @property
    def cuts(self) -> tuple[Cut | None, Cut | None, Cut | None]:
        return self.frames, self.height, self.width

    def check(self, factors: Factors, *, least_overlap: int = 0) -> None:
        """Check that tiles of these sizes are possible. least_overlap: in latent cells.

        Raises: RequestError that names the axis.
        """
        for axis, cut, factor in zip(("frames", "height", "width"), self.cuts, factors, strict=True):
            if cut is None:
                continue
            tile, overlap = cut
            least = least_overlap * factor
            fits = tile % factor == overlap % factor == 0 and tile >= 2 * factor and least <= overlap < tile
            if not fits:
                raise RequestError(
                    f"tiles of {tile} with an overlap of {overlap} cannot be used for the {axis}",
                    f"both must be multiples of {factor}, the tile at least {2 * factor}, "
                    f"the overlap at least {least} and less than the tile",
                )

    def cells(self, latent: Sequence[int], factors: Factors) -> Axes:
        """The intervals of each axis of a latent grid (f h w), in latent cells."""
        frames, rows, columns = (
            [Interval(0, length)] if cut is None else split(length, cut.tile // factor, cut.overlap // factor)
            for length, cut, factor in zip(latent, self.cuts, factors, strict=True)
        )
        return lead_in(frames), rows, columns


def split(length: int, size: int, overlap: int) -> list[Interval]:
    """Cover an axis with pieces of one size, whose neighbours share the overlap; the last may be shorter."""
    if length <= size:
        return [Interval(0, length)]
    stride = size - overlap
    starts = range(0, length - overlap, stride)
    return [
        Interval(
            start,
            min(start + size, length),
            left=overlap if start > 0 else 0,
            right=overlap if start + size < length else 0,
        )
        for start in starts
    ]


def pieces(length: int, size: int | None) -> list[Interval]:
    """Cut an axis into pieces of one size without overlap, the last one shorter; None leaves it whole."""
    size = size or length
    return [Interval(start, min(start + size, length)) for start in range(0, length, size)]


def split_evenly(length: int, count: int, overlap: int) -> list[Interval]:
    """Cover an axis with so many pieces of one size, whose neighbours share the overlap or a little more.

    One piece covers an axis that is too short for several.
    """
    size = -(-(length + (count - 1) * overlap) // count)
    if count == 1 or size >= length:
        return [Interval(0, length)]
    starts = [i * (length - size) // (count - 1) for i in range(count)]
    shared = [0, *(before + size - start for before, start in pairwise(starts)), 0]
    return [
        Interval(start, start + size, left, right)
        for start, left, right in zip(starts, shared[:-1], shared[1:], strict=True)
    ]


def count_for(length: int, most: int, overlap: int) -> int:
    """How many pieces cover an axis if none is longer than `most`, which must be more than the overlap."""
    return 1 if length <= most else -(-(length - overlap) // (most - overlap))


def lead_in(frames: Sequence[Interval]) -> list[Interval]:
    """Start every interval except the first one latent frame earlier.

    The first latent frame of a piece decodes to one pixel frame instead of a full cell, so it is only a lead-in: weight
    0.
    """
    first, *others = frames
    return [first, *(replace(piece, start=piece.start - 1, left=piece.left + 1) for piece in others)]


def pixels(cells: Axes, factors: Factors) -> Axes:
    """The pixel frames, rows and columns of intervals of latent cells."""
    frames, rows, columns = cells
    return (
        [_frames(piece, factors.time) for piece in frames],
        [_lines(piece, factors.height) for piece in rows],
        [_lines(piece, factors.width) for piece in columns],
    )


def _frames(piece: Interval, frames_per_latent: int) -> Interval:
    """The first latent frame of a piece is one pixel frame, each further one is `frames_per_latent`."""
    start, right = piece.start * frames_per_latent, piece.right * frames_per_latent
    left = 1 + (piece.left - 1) * frames_per_latent if piece.left else 0
    return Interval(start, 1 + (piece.stop - 1) * frames_per_latent, left, right)


def _lines(piece: Interval, factor: int) -> Interval:
    return Interval(piece.start * factor, piece.stop * factor, piece.left * factor, piece.right * factor)
