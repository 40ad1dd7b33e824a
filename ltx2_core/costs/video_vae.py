"""The cost of the convolutional video VAE beside its weights: activations and FLOPs of a clip in tiles.

The layers follow models/video_vae.py; tests/unit/test_costs.py compares both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

from ..config.video_vae import IMAGE_CHANNELS, ConvDecoderConfig, ResBlocks, VideoVAEConfig
from ..grids import VideoGrid
from ..tiles import FRAMES_PER_CHUNK, Axes, Interval, TilePlan, pixels

KERNEL = 27  # weights of a 3x3x3 convolution per pair of channels
FLOAT_BYTES = 4  # size of an output number
Size = tuple[int, int, int]  # frames, rows, columns
Tile = tuple[Interval, Interval, Interval]


class Layer(NamedTuple):
    """A convolution and the operations around it. alive: peak number of values. passed: values that it reads and
    writes, which a kernel may copy into another layout. weights: their number, which a kernel on the CPU copies too.
    """

    flops: float
    alive: float
    passed: float
    weights: float


@lru_cache(maxsize=32)
def decode_bytes(config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int) -> int:
    """Peak memory while a latent is decoded: a tile, or frames on their way to the encoder, and the frames that
    neighbouring tiles still contribute to.
    """
    cells = plan.cells(grid.latent, config.factors)
    frames, *_ = pixels(cells, config.factors)
    frame = grid.height * grid.width * IMAGE_CHANNELS * itemsize
    longest = max(piece.length for piece in frames) * frame
    overlap = max(piece.left for piece in frames) * frame
    handed = min(FRAMES_PER_CHUNK, grid.frames) * frame * (1 + FLOAT_BYTES // itemsize)
    tile = max(_alive(_decoder(config, size)) for size in _sizes(cells)) * itemsize
    if all(len(axis) == 1 for axis in cells):
        return int(max(tile, longest + handed))
    return int(longest + handed + max(tile, overlap))


@lru_cache(maxsize=32)
def decode_flops(config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan) -> float:
    """FLOPs of all tiles of a latent; overlaps count twice."""
    sizes = _sizes(plan.cells(grid.latent, config.factors))
    return sum(layer.flops for size in sizes for layer in _decoder(config, size))


@lru_cache(maxsize=32)
def decode_workspace_bytes(
    config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int, *, on_cpu: bool = False
) -> int:
    """Additional memory of the convolution kernels, for copies of their input and output: on the CPU always, and of
    their weights too; on a GPU for some of them.
    """
    sizes = _sizes(plan.cells(grid.latent, config.factors))
    return int(_workspace([layer for size in sizes for layer in _decoder(config, size)], on_cpu) * itemsize)


def encode_bytes(config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int) -> int:
    """Peak memory on the device while a clip is encoded, including the pixels of a tile."""
    sizes = _encoded(config, grid, plan)
    return int(max(_alive(_encoder(config, size)) + IMAGE_CHANNELS * prod(size) for size in sizes) * itemsize)


def held_bytes(config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int) -> int:
    """The frames of a clip in the computer's memory while it is read and encoded in tiles."""
    frames = max(frames for frames, _, _ in _encoded(config, grid, plan))
    return frames * grid.height * grid.width * IMAGE_CHANNELS * itemsize


def encode_workspace_bytes(
    config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan, itemsize: int, *, on_cpu: bool = False
) -> int:
    """Additional memory of the convolution kernels, as for decoding."""
    sizes = _encoded(config, grid, plan)
    return int(_workspace([layer for size in sizes for layer in _encoder(config, size)], on_cpu) * itemsize)


def encode_flops(config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan) -> float:
    """FLOPs of all tiles of a clip; overlaps count twice."""
    return sum(layer.flops for size in _encoded(config, grid, plan) for layer in _encoder(config, size))


def _encoded(config: VideoVAEConfig, grid: VideoGrid, plan: TilePlan) -> list[Size]:
    """The tiles in which a clip is encoded, in pixels."""
    return _sizes(pixels(plan.cells(grid.latent, config.factors), config.factors))


def _sizes(axes: Axes) -> list[Size]:
    return [(f.length, h.length, w.length) for f, h, w in product(*axes)]


def _alive(layers: Iterable[Layer]) -> float:
    return max(layer.alive for layer in layers)


def _workspace(layers: Sequence[Layer], on_cpu: bool) -> float:
    """The number of values that kernels copy; on the CPU as far as a layer with its copies exceeds all layers without.

    Few values pass through the layers with the most weights.
    """
    if not on_cpu:
        return max(layer.passed for layer in layers)
    return max(layer.alive + layer.passed + layer.weights for layer in layers) - _alive(layers)


def _decoder(config: VideoVAEConfig, latent: Size) -> Iterator[Layer]:
    """The layers that decode a tile of so many latent cells."""
    decoder = config.decoder
    assert isinstance(decoder, ConvDecoderConfig)
    border = 2 * (decoder.padding == "reflect")
    width, size = decoder.width, latent
    cut = 0  # values of the frames that an upsampling cuts off; their memory stays allocated with the rest
    yield _convolution(config.latent_channels, width, size, border)
    for block in decoder.blocks:
        if isinstance(block, ResBlocks):
            yield from [_residual(width, size, border, cut)] * (2 * block.layers)
            continue
        made = width // block.multiplier * prod(block.stride)
        yield _convolution(width, made, size, border, after=2 * made + width * (1 + block.is_residual), cut=cut)
        frames, rows, columns = (length * stride for length, stride in zip(size, block.stride, strict=True))
        width, size = width // block.multiplier, (frames - block.stride.time + 1, rows, columns)
        cut = width * (block.stride.time - 1) * rows * columns
    yield _convolution(width, config.patch_channels, size, border, after=2 * config.patch_channels, cut=cut)


def _encoder(config: VideoVAEConfig, clip: Size) -> Iterator[Layer]:
    """The layers that encode a tile of so many pixels."""
    border = 2 * (config.encoder_padding == "reflect")
    frames, height, width_px = clip
    factor = config.factors.time
    width = config.latent_channels
    size = (frames - (frames - 1) % factor, height // config.patch_size, width_px // config.patch_size)
    yield _convolution(config.patch_channels, width, size, border)
    for block in config.encoder_blocks:
        if isinstance(block, ResBlocks):
            yield from [_residual(width, size, border)] * (2 * block.layers)
            continue
        folded = width * block.multiplier // prod(block.stride)
        frames = size[0] + (block.stride.time == 2)
        skipped = folded * frames * prod(size[1:]) + width * prod(size) * (block.stride.time == 2)
        yield _convolution(width, folded, (frames, *size[1:]), border, after=width + 2 * folded, beside=skipped)
        size = (frames // block.stride.time, size[1] // block.stride.height, size[2] // block.stride.width)
        width *= block.multiplier
    yield _convolution(width, config.moments, size, border)


def _convolution(
    channels: int, made: int, size: Size, border: int, after: int = 0, beside: int = 0, cut: int = 0
) -> Layer:
    """A convolution. after: values per position that the next operations hold. beside: values that are held while it
    runs. cut: values that were cut off its input.
    """
    places = prod(size)
    read, written = channels * _padded(size, border), made * places
    alive = max(channels * places + read + written + beside, after * places)
    weights = KERNEL * channels * made
    return Layer(2.0 * weights * places, alive + cut, read + written, weights)


def _residual(width: int, size: Size, border: int, cut: int = 0) -> Layer:
    """One of the two convolutions of a residual block: the sum, the padded input, and the output."""
    places = prod(size)
    padded = _padded(size, border)
    weights = KERNEL * width**2
    return Layer(2.0 * weights * places, width * (places + 2 * padded) + cut, width * (places + padded), weights)


def _padded(size: Size, border: int) -> int:
    frames, rows, columns = size
    return (frames + 2) * (rows + border) * (columns + border)
