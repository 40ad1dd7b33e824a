"""The tiles of a diffusion decoder on a clip. Arithmetic only, without torch.

They are cut on the grid of its last stage's input, where a cell is 2 frames of 8×8 pixels.
Source: docs/reference/video-diffusion-decoder.md, "Tiled decode".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod

from .config.diffusion_decoder import DiffusionDecoderConfig
from .errors import RequestError
from .grids import Factors, VideoGrid
from .tiles import Axes, Cut, Interval, TilePlan, split

AXES = ("frames", "height", "width")
Size = tuple[int, int, int]  # frames, rows, columns


def cut(plan: TilePlan, grid: VideoGrid, config: DiffusionDecoderConfig) -> Axes:
    """The intervals of each axis, in cells.

    Raises: RequestError if tiles of these sizes are not possible.
    """
    plan.check(config.cell_pixels)
    length = cells_of(grid, config)
    frames, rows, columns = (
        [Interval(0, n)] if one is None or n < least else [*_pieces(n, one.tile // by, one.overlap // by, least)]
        for n, one, by, least in zip(length, plan.cuts, config.cell_pixels, least_cells(config), strict=True)
    )
    return frames, rows, columns


@lru_cache(maxsize=1024)
def _pieces(length: int, tile: int, overlap: int, least: int) -> tuple[Interval, ...]:
    """The tiles of an axis, in cells."""
    return tuple(grown(split(length, max(2, overlap + 1, tile), overlap), least))


def cells_of(grid: VideoGrid, config: DiffusionDecoderConfig) -> Size:
    """The cells of a clip on each axis. In time, the first frame counts as a cell of its own."""
    time, height, width = config.cell_pixels
    return (grid.frames - 1) // time + 1, grid.height // height, grid.width // width


def least_cells(config: DiffusionDecoderConfig) -> Size:
    """The shortest tile that contains complete attention windows of the last stages."""
    growth, stage, last = config.growths[-1].stride, config.stages[-1].kernel, config.denoiser.kernel
    frames, rows, columns = (max(a, -(-b // by)) for a, b, by in zip(stage, last, growth, strict=True))
    return frames, rows, columns


def grown(pieces: Sequence[Interval], least: int) -> list[Interval]:
    """The same pieces, with the last one started earlier if it would be too short."""
    *others, last = pieces
    if not others or last.length >= least:
        return [*pieces]
    start = last.stop - least
    shared = others[-1].stop - start
    return [*others[:-1], replace(others[-1], right=shared), replace(last, start=start, left=shared)]


def pixels(cells: Axes, config: DiffusionDecoderConfig) -> Axes:
    """The pixel frames, rows and columns of intervals of cells. The first cell of the clip is a single frame."""
    frames, rows, columns = (
        [Interval(one.start * by, one.stop * by, one.left * by, one.right * by) for one in axis]
        for axis, by in zip(cells, config.cell_pixels, strict=True)
    )
    lead = config.cell_pixels.time - 1
    return [replace(one, start=max(0, one.start - lead), stop=one.stop - lead) for one in frames], rows, columns


def least_overlap(config: DiffusionDecoderConfig, factors: Factors) -> Size:
    """The minimum overlap of neighbouring tiles: the receptive field of either of the last stages through its
    blocks.
    """
    stage, last, growth = config.stages[-1], config.denoiser, config.growths[-1].stride
    halos = (
        max(stage.depth * (a // 2), -(-last.depth * (b // 2) // by))
        for a, b, by in zip(stage.kernel, last.kernel, growth, strict=True)
    )
    frames, rows, columns = (
        -(-halo * by // factor) * factor for halo, by, factor in zip(halos, config.cell_pixels, factors, strict=True)
    )
    return frames, rows, columns


def of_sizes(sizes: Sequence[int], config: DiffusionDecoderConfig, factors: Factors) -> TilePlan:
    """Tiles of so many frames, rows and columns, with the smallest possible overlap.

    Raises: RequestError if tiles of these sizes are not possible.
    """
    shared = least_overlap(config, factors)
    for axis, size, overlap in zip(AXES, sizes, shared, strict=True):
        if size <= overlap:
            why = f"tiles of this decoder share {overlap} of them with the next, so they must have more"
            raise RequestError(f"tiles of {size} cannot be used for the {axis}", why, f"{2 * overlap} or more")
    plan = _plan(sizes, shared)
    plan.check(config.cell_pixels)
    return plan


def at_least_twice(
    sizes: Sequence[int], grid: VideoGrid, plan: TilePlan, config: DiffusionDecoderConfig
) -> tuple[int, ...] | None:
    """Sizes of tiles, enlarged to at least twice the overlap. None if those of a plan are no longer than that."""
    shared = least_overlap(config, grid.factors)
    longer = tuple(max(size, 2 * overlap) for size, overlap in zip(sizes, shared, strict=True))
    clip = grid.frames, grid.height, grid.width
    now = [length if one is None else min(length, one.tile) for length, one in zip(clip, plan.cuts, strict=True)]
    return longer if any(size < length for size, length in zip(longer, now, strict=True)) else None


def auto(grid: VideoGrid, config: DiffusionDecoderConfig, fits: Callable[[TilePlan], bool]) -> TilePlan | None:
    """The plan that decodes a clip with the least repeated work, among those that fit; None if none fits.

    Among plans with equal work: the one with larger tiles, then with fewer, then with shorter ones.
    Source: docs/reference/video-diffusion-decoder.md, "Automatic tile size".
    """
    shared = least_overlap(config, grid.factors)
    lengths = grid.frames, grid.height, grid.width
    axes = [_candidates(*axis) for axis in zip(lengths, shared, grid.factors, strict=True)]
    if not fits(_plan([min(sizes) for sizes in axes], shared)):
        return None
    ranked = []
    for picked in product(*(sizes.items() for sizes in axes)):
        size, counts = zip(*picked, strict=True)
        count, tile = prod(counts), prod(size)
        ranked.append((count * tile / prod(lengths), -tile, count, size))
    return next((plan for *_, size in sorted(ranked) if fits(plan := _plan(size, shared))), None)


def _candidates(length: int, overlap: int, factor: int) -> dict[int, int]:
    """Lengths of tiles on an axis, from twice the overlap up to the axis itself, and the number of tiles for each."""
    whole = -(-length // factor) * factor
    sizes = range(2 * overlap, whole + 1, factor) or [2 * overlap]
    return {size: len(split(length, size, overlap)) for size in sizes}


def _plan(sizes: Sequence[int], shared: Sequence[int]) -> TilePlan:
    frames, height, width = (Cut(size, overlap) for size, overlap in zip(sizes, shared, strict=True))
    return TilePlan(frames=frames, height=height, width=width)
