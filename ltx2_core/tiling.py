"""Run the video VAE tile by tile and blend the results, so that memory does not grow with the clip.

Source: docs/reference/video-vae.md, "Tiles".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .config.video_vae import IMAGE_CHANNELS
from .models.video_vae import VideoDecoder, VideoEncoder
from .tiles import ENCODE_LEAST_OVERLAP, FRAMES_PER_CHUNK, Axes, Interval, TilePlan, pixels


def decode_video(
    latent: Tensor, decoder: VideoDecoder, tiles: TilePlan | None = None, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Decode a video latent into RGB frames, chunk by chunk.

    Args: latent: (1 c f h w), normalised. tiles: how to cut the grid; None decodes in one piece. generator: for a
    decoder that draws noise.
    Yields: (F 3 H W) float32 frames in [0, 1], in display order; 8 * (f - 1) + 1 frames in all.
    Raises: RequestError if tiles of these sizes cannot be made.
    Source: docs/reference/video-vae.md, "Frames for display".
    """
    for video in decode_tiled(latent, decoder, tiles or TilePlan(), generator):
        yield from _shown(video)
        del video  # before the next is made: large frames take gigabytes


def _shown(video: Tensor) -> Iterator[Tensor]:
    """A video (1 3 F H W) as a decoder makes it, as frames for display."""
    frames = rearrange(video, "1 c f h w -> f c h w")
    for chunk in frames.split(FRAMES_PER_CHUNK):
        pixels_01 = (chunk + 1).mul_(0.5)  # a bfloat16 clip rounds here, as the reference frames do
        yield pixels_01.clamp_(0, 1).float()


def decode_tiled(
    latent: Tensor, decoder: VideoDecoder, plan: TilePlan, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Decode a latent tile by tile; frames leave as soon as no later tile changes them.

    Args: latent: (b c f h w), normalised. generator: for a decoder that draws noise; it draws for each tile in turn.
    Yields: (b 3 F H W) in display order, as the decoder makes them: about [-1, 1], not clamped. One tile equals the
    plain decoder.
    Raises: RequestError if tiles of these sizes cannot be made.
    """
    factors = decoder.config.factors
    plan.check(factors)
    cells = plan.cells(latent.shape[2:], factors)
    yield from _run_tiles(partial(decoder, generator=generator), latent, cells, pixels(cells, factors), IMAGE_CHANNELS)


def encode_tiled(video: Tensor, encoder: VideoEncoder, plan: TilePlan) -> Tensor:
    """Encode a video tile by tile.

    Args: video: (b 3 F H W) in [-1, 1]; F is cropped to 8k + 1 frames.
    Returns: (b c f h w), normalised. One tile equals the plain encoder.
    Raises: RequestError if tiles of these sizes cannot be made, or overlap by less than 16 frames or 64 pixels.
    """
    factors = encoder.config.factors
    plan.check(factors, least_overlap=ENCODE_LEAST_OVERLAP)
    frames, height, width = video.shape[2:]
    latent = (frames - 1) // factors.time + 1, height // factors.height, width // factors.width
    cells = plan.cells(latent, factors)
    chunks = _run_tiles(encoder, video, pixels(cells, factors), cells, encoder.config.latent_channels)
    return torch.cat(list(chunks), dim=2)


def _run_tiles(
    model: Callable[[Tensor], Tensor], x: Tensor, source: Axes, target: Axes, channels: int
) -> Iterator[Tensor]:
    """Run a model on tiles of x (b c f h w), frames outermost, and blend what it makes of them.

    Args: source, target: the intervals of the tiles in x and in the result. channels: of the result.
    Yields: the result in the order of its frames, each as soon as it is finished.
    """
    if all(len(axis) == 1 for axis in source):
        yield model(x)
        return
    frame_masks, row_masks, column_masks = (masks(axis, from_zero=axis is target[0]) for axis in target)
    strips = zip(source[1], target[1], row_masks, strict=True)
    planes = list(product(strips, zip(source[2], target[2], column_masks, strict=True)))
    ends = [*(later.start for later in target[0][1:]), target[0][-1].stop]  # what a later group does not change
    group = x.new_zeros(len(x), channels, 0, target[1][-1].stop, target[2][-1].stop)  # what earlier ones have begun
    for frames_in, frames_out, frame_mask, end in zip(source[0], target[0], frame_masks, ends, strict=True):
        group = F.pad(group, (0, 0, 0, 0, 0, frames_out.length - group.shape[2]))
        for (rows_in, rows_out, row_mask), (columns_in, columns_out, column_mask) in planes:
            place = group[:, :, :, rows_out.slice, columns_out.slice]
            plane_mask = (rearrange(row_mask, "h -> h 1") * column_mask).to(x.device)
            _add(model(x[:, :, frames_in.slice, rows_in.slice, columns_in.slice]), place, frame_mask, plane_mask)
            del place
        finished = end - frames_out.start
        made, group = group, group[:, :, finished:].clone()
        if finished:
            yield made[:, :, :finished]
        del made  # before the next group is made: together they would take twice as much


def _add(tile: Tensor, place: Tensor, frame_mask: Tensor, plane_mask: Tensor) -> None:
    """Add a tile to its place in a group, both (b c f h w), weighted in float32; by frames, to widen little at once."""
    frames = (rearrange(clip, "b c f h w -> f b c h w") for clip in (place, tile))
    for target, frame, weight in zip(*frames, frame_mask.tolist(), strict=True):
        target += frame * (weight * plane_mask)


def masks(intervals: Sequence[Interval], *, from_zero: bool) -> list[Tensor]:
    """The weight of each interval along an axis, float32 on the CPU; all together they are 1 everywhere.

    Trapezoids of neighbours add up to 1 by themselves, unless two ramps of one interval meet. Then they are scaled.
    """
    weights = [trapezoid(piece.length, piece.left, piece.right, from_zero=from_zero) for piece in intervals]
    total = torch.zeros(intervals[-1].stop, device="cpu")
    for piece, weight in zip(intervals, weights, strict=True):
        total[piece.slice] += weight
    return [weight / total[piece.slice] for piece, weight in zip(intervals, weights, strict=True)]


def trapezoid(length: int, left: int, right: int, *, from_zero: bool) -> Tensor:
    """Ones with a rising ramp at the start and a falling one at the end, float32 on the CPU.

    from_zero: the rise begins at 0.
    """
    left, right = min(left, length), min(right, length)
    first = 0 if from_zero else 1
    rise = torch.linspace(0, 1, left + 1 + first, device="cpu")[first:-1]
    mask = torch.ones(length, device="cpu")
    mask[:left] *= rise
    mask[length - right :] *= torch.linspace(1, 0, right + 2, device="cpu")[1:-1]
    return mask
