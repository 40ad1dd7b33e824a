"""Conversion of frames to the pixel format of video codecs."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

BT709 = (  # the matrix from R, G, B to luma, blue and red difference
    (0.2126, 0.7152, 0.0722),
    (-0.1146, -0.3854, 0.5),
    (0.5, -0.4542, -0.0458),
)


def to_i420(frames: Tensor) -> Tensor:
    """Convert frames (F 3 H W) in [0, 1] to planar I420 (F 3H/2 W), uint8: BT.709 matrix, limited range.

    Each frame is its luma plane, then the blue and the red plane of half the height and width, all as rows of W. H and
    W must be even. Values are truncated, not rounded, as in the reference.
    Source: docs/reference/pipelines.md, "Encoding video".
    """
    luma, *colour = torch.einsum("rc,FcHW->rFHW", frames.new_tensor(BT709), frames)
    halves = [reduce(plane, "F (h 2) (w 2) -> F h w", "mean") for plane in colour]
    codes = [luma * 219 + 16, *(plane * 224 + 128 for plane in halves)]
    flat = torch.cat([rearrange(plane, "F h w -> F (h w)") for plane in codes], dim=-1)
    return rearrange(flat, "F (r w) -> F r w", w=frames.shape[-1]).to(torch.uint8)
