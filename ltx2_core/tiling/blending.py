"""Blend tiles of a clip that are computed one after the other, so that memory does not grow with the clip.

Source: docs/reference/video-vae.md, "Tiles".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..tiles import Axes, Interval

Tile = tuple[Interval, Interval, Interval]  # frames, rows, columns


def blend(
    make: Callable[[Tile, Tile], Tensor], source: Axes, target: Axes, blank: Tensor, *, from_zero: bool
) -> Iterator[Tensor]:
    """Compute tiles, frames outermost, and blend them.

    Args: make: computes a tile (b c f h w), from its place in the source and in the result. source, target: the
    intervals of the tiles in both. blank: (b c 0 0 0), in the dtype of the sums. from_zero: whether the first frame of
    a tile that follows another has weight 0.
    Yields: the result in the order of its frames, each as soon as it is finished. A single tile is passed on unchanged.
    """
    if all(len(axis) == 1 for axis in source):
        yield make(_only(source), _only(target))
        return
    frame_masks, row_masks, column_masks = (masks(axis, from_zero=from_zero and axis is target[0]) for axis in target)
    strips = zip(source[1], target[1], row_masks, strict=True)
    planes = list(product(strips, zip(source[2], target[2], column_masks, strict=True)))
    ends = [*(later.start for later in target[0][1:]), target[0][-1].stop]  # where a later group begins
    group = blank.new_zeros(*blank.shape[:3], target[1][-1].stop, target[2][-1].stop)  # what earlier groups left
    for frames_in, frames_out, frame_mask, end in zip(source[0], target[0], frame_masks, ends, strict=True):
        group = F.pad(group, (0, 0, 0, 0, 0, frames_out.length - group.shape[2]))
        for (rows_in, rows_out, row_mask), (columns_in, columns_out, column_mask) in planes:
            place = group[:, :, :, rows_out.slice, columns_out.slice]
            plane_mask = (rearrange(row_mask, "h -> h 1") * column_mask).to(blank.device)
            tile = make((frames_in, rows_in, columns_in), (frames_out, rows_out, columns_out))
            _add(tile, place, frame_mask, plane_mask)
            del place, tile
        finished = end - frames_out.start
        made, group = group, group[:, :, finished:].clone()
        if finished:
            yield made[:, :, :finished]
        del made  # freed before the next group, so that there is only one in memory


def in_order(source: Axes, target: Axes) -> Iterator[tuple[Tile, Tile]]:
    """The places of tiles in the source and in the result, in the order in which `blend` computes them."""
    return zip(product(*source), product(*target), strict=True)


def _only(axes: Axes) -> Tile:
    (frames,), (rows,), (columns,) = axes
    return frames, rows, columns


def _add(tile: Tensor, place: Tensor, frame_mask: Tensor, plane_mask: Tensor) -> None:
    """Add a tile to its place in a group, both (b c f h w), weighted in float32; frame by frame, to save memory."""
    frames = (rearrange(clip, "b c f h w -> f b c h w") for clip in (place, tile))
    for target, frame, weight in zip(*frames, frame_mask.tolist(), strict=True):
        target += frame * (weight * plane_mask)


def masks(intervals: Sequence[Interval], *, from_zero: bool) -> list[Tensor]:
    """The weight of each interval along an axis, float32 on the CPU; their sum is 1 everywhere.

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
