"""The cost of the diffusion decoder of a video VAE beside its weights: activations and FLOPs of a clip in tiles.

The layers follow models/diffusion_decoder.py; tests/unit/test_costs.py compares both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from math import prod

from ..config.diffusion_decoder import AttentionStage, DiffusionDecoderConfig, Growth
from ..config.video_vae import IMAGE_CHANNELS, VideoVAEConfig
from ..diffusion_tiles import auto, cells_of, cut, least_overlap, of_sizes, pixels
from ..grids import Factors, VideoGrid
from ..tiles import FRAMES_PER_CHUNK, Axes, Interval, TilePlan

QUERY_BOX = Factors(4, 8, 8)  # as in models/neighbours.py
TOKENS_AT_A_TIME = 16_384  # as in models/diffusion_layers.py
FLOAT_BYTES, SUM_BYTES = 4, 2  # of an output number; of a number in the sum of tiles, for bfloat16
MASK_SHARE = 2  # numbers of a mask per bfloat16 number
Size = tuple[int, int, int]  # frames, rows, columns


@lru_cache(maxsize=4096)
def decode_bytes(vae: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int) -> int:
    """Peak memory while a latent is decoded: its features while they are computed, then a tile with its canvas, the
    features, and the frames that neighbouring tiles still contribute to.
    """
    config = _diffusion(vae)
    grid = enlarged(grid, config)
    features, first = _features(vae, grid)
    cells = cut(plan, grid, config)
    frames, *_ = pixels(cells, config)
    sums = itemsize if itemsize > SUM_BYTES else SUM_BYTES
    frame = grid.height * grid.width * IMAGE_CHANNELS
    tile = max(_tile_peak(vae, *sizes) for sizes in _largest(config, grid, cells))
    handed = min(FRAMES_PER_CHUNK, grid.frames) * frame * (itemsize + FLOAT_BYTES)
    if all(len(axis) == 1 for axis in cells):
        last = features * itemsize + grid.frames * frame * itemsize + handed
        return int(max(first * itemsize, (features + tile) * itemsize, last))
    longest, overlap = max(one.length for one in frames), max(one.left for one in frames)
    group = longest * frame * sums
    return int(
        max(first * itemsize, features * itemsize + group + max(tile * itemsize, overlap * frame * sums + handed))
    )


@lru_cache(maxsize=64)
def decode_flops(vae: VideoVAEConfig, grid: VideoGrid, plan: TilePlan) -> float:
    """FLOPs of all tiles of a latent; overlaps count twice, and each box of queries counts all its gathered keys."""
    config = _diffusion(vae)
    grid = enlarged(grid, config)
    sizes = _stage_sizes(config, grid)
    total = 2.0 * prod(sizes[0]) * vae.latent_channels * config.stages[0].channels
    for stage, growth, size in list(zip(config.stages, config.growths, sizes, strict=True))[:-1]:
        total += _stage_flops(stage, size) + _growth_flops(stage, growth, size)
    last, growth, pixel = config.stages[-1], config.growths[-1], config.denoiser
    for size, canvas in _tiles(config, grid, plan):
        total += _stage_flops(last, size) + _growth_flops(last, growth, size)
        ends = 4.0 * prod(canvas) * vae.patch_channels * pixel.channels
        contexts = 2.0 * pixel.depth * prod(canvas) * pixel.channels**2
        total += config.steps * (_stage_flops(pixel, canvas, _border(pixel)) + ends + contexts)
    return total


@lru_cache(maxsize=64)
def auto_plan(vae: VideoVAEConfig, grid: VideoGrid, itemsize: int, nbytes: int) -> TilePlan:
    """The plan that decodes a clip with the least work within so many bytes; the smallest tiles if none fits."""
    config = _diffusion(vae)
    plan = auto(grid, config, lambda one: decode_bytes(vae, grid, one, itemsize) <= nbytes)
    overlaps = least_overlap(config, grid.factors)
    return plan or of_sizes([2 * overlap for overlap in overlaps], config, grid.factors)


def _diffusion(vae: VideoVAEConfig) -> DiffusionDecoderConfig:
    assert isinstance(vae.decoder, DiffusionDecoderConfig)
    return vae.decoder


@lru_cache(maxsize=64)
def enlarged(grid: VideoGrid, config: DiffusionDecoderConfig) -> VideoGrid:
    """The clip whose latent is large enough for every window."""
    frames, rows, columns = map(max, zip(grid.latent, config.least_latent, strict=True))
    time, height, width = grid.factors
    return VideoGrid(frames=1 + (frames - 1) * time, height=rows * height, width=columns * width, factors=grid.factors)


def _stage_sizes(config: DiffusionDecoderConfig, grid: VideoGrid) -> list[Size]:
    """Frames, rows and columns of each stage on the whole clip, with ghosts."""
    frames, rows, columns = grid.latent
    sizes = [(frames + config.ghost_frames, rows, columns)]
    for growth in config.growths[:-1]:
        sizes.append(_grown(sizes[-1], growth))
    return sizes


def _grown(size: Size, growth: Growth) -> Size:
    frames, rows, columns = (length * by for length, by in zip(size, growth.stride, strict=True))
    return frames - growth.stride.time + 1, rows, columns


def _tiles(config: DiffusionDecoderConfig, grid: VideoGrid, plan: TilePlan) -> Iterator[tuple[Size, Size]]:
    """Cells of all tiles, the last ones in time including their ghost frames; and the part of each that is denoised."""
    yield from _sized(config, product(*cut(plan, grid, config)), grid)


def _largest(config: DiffusionDecoderConfig, grid: VideoGrid, cells: Axes) -> Iterator[tuple[Size, Size]]:
    """The tiles that can need the most memory: the longest, and the last in time."""
    frames, rows, columns = cells
    row, column = (max(axis, key=lambda one: one.length) for axis in (rows, columns))
    in_time = {max(frames, key=lambda one: one.length), frames[-1]}
    yield from _sized(config, ((one, row, column) for one in in_time), grid)


def _sized(
    config: DiffusionDecoderConfig, tiles: Iterable[tuple[Interval, ...]], grid: VideoGrid
) -> Iterator[tuple[Size, Size]]:
    ghosts = config.ghost_frames * prod(growth.stride.time for growth in config.growths[:-1])
    last, end = config.growths[-1], cells_of(grid, config)[0]
    for one, row, column in tiles:
        size = one.length + ghosts * (one.stop == end), row.length, column.length
        length, *plane = _grown(size, last)
        kept = max(config.denoiser.kernel.time, length - ghosts * last.stride.time) if one.stop == end else length
        yield size, (kept, plane[0], plane[1])


@lru_cache(maxsize=64)
def _features(vae: VideoVAEConfig, grid: VideoGrid) -> tuple[float, float]:
    """Values of the features, and the peak while they are computed."""
    config = _diffusion(vae)
    sizes = _stage_sizes(config, grid)
    peak = 0.0
    for stage, growth, size in list(zip(config.stages, config.growths, sizes, strict=True))[:-1]:
        peak = max(peak, _stage_peak(stage, size), _growth_peak(stage, growth, size))
    return prod(sizes[-1]) * config.stages[-1].channels, peak


def _tile_peak(vae: VideoVAEConfig, size: Size, canvas: Size) -> float:
    """The peak number of values while a tile is decoded."""
    config = _diffusion(vae)
    stage, growth, pixel = config.stages[-1], config.growths[-1], config.denoiser
    context = prod(canvas) * pixel.channels
    shown = prod(canvas) * vae.patch_channels
    denoising = context + shown + max(_stage_peak(pixel, canvas, _border(pixel)), context + 2 * shown)
    cropping = prod(_grown(size, growth)) * pixel.channels + context
    return max(_stage_peak(stage, size), _growth_peak(stage, growth, size), cropping, denoising)


def _border(stage: AttentionStage) -> int:
    """Copies of the first and of the last column that the denoiser sees."""
    return stage.kernel.width // 2


def _stage_peak(stage: AttentionStage, size: Size, border: int = 0) -> float:
    """Peak number of values in a block, including the volume that it adds to."""
    frames, rows, columns = size
    width, tokens = stage.channels, prod(size)
    box = [min(a, b) for a, b in zip(QUERY_BOX, size, strict=True)]
    span, down, along = _spans(stage, size, border)
    frame, wide = rows * columns * width, rows * (columns + 2 * border) * width
    held = 3 * wide
    reading = min(frames, span + box[0]) * held + 8 * wide
    boxes = -(-columns // box[2])
    keys, queries = boxes * span * down * along, boxes * box[0] * box[1] * box[2]
    mask = boxes * (box[0] * box[1] * box[2]) * (span * down * along) / MASK_SHARE
    strip = max(3 * keys * width, 2 * keys * width + 3 * queries * width, 2 * mask) + mask
    attending = span * held + 2 * span * wide + 2 * box[0] * frame + strip
    feeding = min(TOKENS_AT_A_TIME, tokens) * width * 9
    return tokens * width + max(reading, attending, feeding)


def _spans(stage: AttentionStage, size: Size, border: int) -> tuple[int, int, int]:
    """Frames, rows and columns of the keys of a box of queries."""
    keys = (size[0], size[1], size[2] + 2 * border)
    frames, rows, columns = (
        min(n, kernel + min(box, length) - 1)
        for n, kernel, box, length in zip(keys, stage.kernel, QUERY_BOX, size, strict=True)
    )
    return frames, rows, columns


def _growth_peak(stage: AttentionStage, growth: Growth, size: Size) -> float:
    """Peak number of values while a volume is enlarged, one frame at a time."""
    made = stage.channels * prod(growth.stride) // growth.reduction
    return prod(size) * (stage.channels + made) + 2 * size[1] * size[2] * made


def _stage_flops(stage: AttentionStage, size: Size, border: int = 0) -> float:
    frames, rows, columns = size
    width, tokens = stage.channels, prod(size)
    inner = -(-4 * width // 16) * 16
    linear = 2.0 * frames * rows * (columns + 2 * border) * width * 3 * width + 2.0 * tokens * width * (
        width + 3 * inner
    )
    counts = [-(-length // min(box, length)) for length, box in zip(size, QUERY_BOX, strict=True)]
    across = counts[2] * min(QUERY_BOX.width, columns)
    attention = 4.0 * frames * rows * across * prod(_spans(stage, size, border)) * width
    return stage.depth * (linear + attention)


def _growth_flops(stage: AttentionStage, growth: Growth, size: Size) -> float:
    return 2.0 * prod(size) * stage.channels**2 * prod(growth.stride) / growth.reduction
