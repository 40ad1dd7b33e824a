"""Measures of how similar two clips, audio tracks or latents are."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

PEAK = 255.0
# The published constants of SSIM: a Gaussian window, and two constants that prevent 0 / 0 in the two quotients.
WINDOW, SPREAD = 11, 1.5
LUMINANCE, CONTRAST = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two clips (F H W 3) of 8-bit values; infinite if they are equal."""
    error = (ours.double() - theirs.double()).square().mean().item()
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(ours: Tensor, theirs: Tensor) -> float:
    """Structural similarity of two clips (F H W 3) of 8-bit values: the mean over frames, channels and pixels.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity".
    """
    return sum(_ssim_of_frame(a, b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def relative_l2(ours: Tensor, theirs: Tensor) -> float:
    """|ours − theirs| / |theirs|, over all values."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def _ssim_of_frame(a: Tensor, b: Tensor) -> float:
    a, b = (rearrange(frame.double(), "H W c -> c 1 H W") for frame in (a, b))
    mean_a, mean_b = _blur(a), _blur(b)
    variances = _blur(a * a) - mean_a**2 + _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    return (luminance * (2 * covariance + CONTRAST) / (variances + CONTRAST)).mean().item()


def _blur(x: Tensor) -> Tensor:
    """The weighted mean around each pixel of (c 1 H W) at which the whole window fits."""
    distance = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.softmax(-(distance**2) / (2 * SPREAD**2), dim=-1)
    return F.conv2d(F.conv2d(x, weights[None, None, None, :]), weights[None, None, :, None])
