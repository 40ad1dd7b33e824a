"""Conversion of decoded frames to pixels for the video encoder.

Source: docs/reference/sampling.md, "Preparing given media".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def to_clip(frames: Iterable[Tensor], height: int, width: int) -> Tensor:
    """Resize uint8 frames of any size, (F 3 H W) each, and join them: (1 3 F height width) float32 in [-1, 1].

    Only the resized clip is in memory as a whole.
    """
    return torch.cat([*clip_pieces(frames, height, width)], dim=2)


def clip_pieces(frames: Iterable[Tensor], height: int, width: int) -> Iterator[Tensor]:
    """The same clip in pieces, (1 3 F height width) of each (F 3 H W), computed on demand."""
    for some in frames:
        yield rearrange(cover(some, height, width) / 127.5 - 1, "F c H W -> 1 c F H W")


def cover(frames: Tensor, height: int, width: int) -> Tensor:
    """Scale frames (F 3 H W) until they cover a size, then crop equally on both sides: float32 in the same range.

    There is no anti-aliasing filter. Scaled sizes are rounded up in double precision without correction, which can make
    them a pixel too large; this affects what is cropped, as in the reference.
    """
    old_height, old_width = frames.shape[-2:]
    scale = max(height / old_height, width / old_width)
    new_height, new_width = math.ceil(old_height * scale), math.ceil(old_width * scale)
    scaled = F.interpolate(frames.float(), (new_height, new_width), mode="bilinear", align_corners=False)
    top, left = (new_height - height) // 2, (new_width - width) // 2
    return scaled[..., top : top + height, left : left + width]


def resized(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (F 3 H W) of a size, stretched where they have another: float32 in the same range."""
    if frames.shape[-2:] == (height, width):
        return frames.float()
    return F.interpolate(frames.float(), (height, width), mode="bilinear", align_corners=False)


def filled_up(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (F 3 H W), no larger than a size, centred in it; their outermost rows and columns are repeated."""
    below, beside = height - frames.shape[-2], width - frames.shape[-1]
    top, left = below // 2, beside // 2
    return F.pad(frames, (left, beside - left, top, below - top), mode="replicate")


def fit(frames: Tensor, height: int, width: int) -> Tensor:
    """Scale frames (F 3 H W) down until they fit into a size, and pad at the bottom and on the right.

    Returns: float32 in the same range. The padding mirrors the frame, without its last row and column; if the padding
    is larger than the frame, the last row and column are repeated.
    """
    old_height, old_width = frames.shape[-2:]
    scale, scaled = min(height / old_height, width / old_width), frames.float()
    if scale < 1:
        size = round(old_height * scale), round(old_width * scale)
        scaled = F.interpolate(scaled, size, mode="bilinear", align_corners=False)
    below, right = height - scaled.shape[-2], width - scaled.shape[-1]
    is_mirrored = below < scaled.shape[-2] and right < scaled.shape[-1]
    return F.pad(scaled, (0, right, 0, below), mode="reflect" if is_mirrored else "replicate")
