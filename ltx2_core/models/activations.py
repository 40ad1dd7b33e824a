"""Antialiased activations of the vocoder: SnakeBeta between an upsampling and a downsampling filter.

SnakeBeta is periodic, so it adds overtones. It is applied at twice the sample rate, where they do not alias. Both
filters are read from the checkpoint: computed ones would differ from those that the model was trained with.
Shapes: b batch, c channels, s samples.
Source: docs/reference/audio.md, "Vocoder"; Lee et al., "BigVGAN" (arXiv 2206.04658).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

TAPS, RATIO = 12, 2
# Groups of channels that are activated one after another, because tensors at twice the rate are large. A group has at
# least two channels: convolutions of a single one may round differently.
PARTS, LEAST_CHANNELS = 8, 2
EPSILON = 1e-9


class SnakeBeta(nn.Module):
    """x + sin²(αx) / β for (b c s), with an α and a β for each channel, both stored as logarithms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """Activate some of the channels, which x consists of; by default all."""
        logarithms = self.alpha[channels], self.beta[channels]
        alpha, beta = (rearrange(logarithm.exp(), "c -> c 1") for logarithm in logarithms)
        return x + torch.sin(x * alpha).square() / (beta + EPSILON)


class Upsample(nn.Module):
    """(b c s) to (b c 2s) through the stored filter; the ends are repeated."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.empty(1, 1, TAPS))

    def forward(self, x: Tensor) -> Tensor:
        side = TAPS // RATIO - 1
        crop = side * RATIO + (TAPS - RATIO) // 2
        padded = F.pad(rearrange(x, "b c s -> (b c) 1 s"), (side, side), mode="replicate")
        upsampled = RATIO * F.conv_transpose1d(padded, self.filter, stride=RATIO)
        return rearrange(upsampled[..., crop:-crop], "(b c) 1 s -> b c s", b=len(x))


class LowPass(nn.Module):
    """(b c 2s) to (b c s) through the stored filter; the ends are repeated."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.empty(1, 1, TAPS))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(rearrange(x, "b c s -> (b c) 1 s"), (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return rearrange(F.conv1d(padded, self.filter, stride=RATIO), "(b c) 1 s -> b c s", b=len(x))


class Downsample(nn.Module):
    """The low-pass filter, under its name in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class Antialiased(nn.Module):
    """SnakeBeta at twice the rate: (b c s) to (b c s), some channels at a time, which gives the same values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = Upsample()
        self.act = SnakeBeta(channels)
        self.downsample = Downsample()

    def forward(self, x: Tensor) -> Tensor:
        activated, count = torch.empty_like(x), x.shape[1]
        parts = max(1, min(PARTS, count // LEAST_CHANNELS))
        for start, stop in pairwise(count * part // parts for part in range(parts + 1)):
            channels = slice(start, stop)
            activated[:, channels] = self.downsample(self.act(self.upsample(x[:, channels]), channels))
        return activated
