"""The audio VAE: a log-mel spectrogram to normalised latents and back.

Convolutions run over time and frequency and are causal in time: the first latent step represents one mel frame, each
later one four. In shapes, `t m` are latent steps and bins, `T M` mel frames and bins.
Source: docs/reference/audio.md, "Audio VAE".
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..config.audio import AudioVAEConfig


def pixel_norm(x: Tensor) -> Tensor:
    """Divide (b c t m) by its root mean square over channels."""
    return x / torch.sqrt(reduce(x.square(), "b c t m -> b 1 t m", "mean") + 1e-6)


class CausalConv(nn.Module):
    """Square convolution that keeps the size: zero padding before in time, on both sides in frequency."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel)
        self.side = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.side, self.side, 2 * self.side, 0)))


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut; the shortcut is a 1 × 1 convolution where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = CausalConv(in_channels, out_channels)
        self.conv2 = CausalConv(out_channels, out_channels)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else CausalConv(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(pixel_norm(x)))
        h = self.conv2(F.silu(pixel_norm(h)))
        return self.nin_shortcut(x) + h


class Downsample(nn.Module):
    """(b c t m) to half the time, rounded up, and half the frequency. Frequency is padded behind only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 2, 0)))


class Upsample(nn.Module):
    """(b c t m) to (b c 2t-1 2m): the first frame stays a single one, as in the encoder's input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))[:, :, 1:]


class PerChannelStatistics(nn.Module):
    """Mean and deviation of every latent channel and bin over the training data, stored channel by channel (c m)."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.channels = config.latent_channels
        for name in ("mean-of-means", "std-of-means"):
            self.register_buffer(name, torch.empty(config.latent_channels * config.latent_bins))

    def normalise(self, latent: Tensor) -> Tensor:
        return (latent - self._grid("mean-of-means")) / self._grid("std-of-means")

    def denormalise(self, latent: Tensor) -> Tensor:
        return latent * self._grid("std-of-means") + self._grid("mean-of-means")

    def _grid(self, name: str) -> Tensor:
        return rearrange(self.get_buffer(name), "(c m) -> c 1 m", c=self.channels)


def _level(in_channels: int, out_channels: int, blocks: int, **resample: nn.Module) -> nn.Sequential:
    """The blocks of one resolution, then the step to the next resolution, named by its keyword."""
    block = nn.Sequential(ResnetBlock(in_channels, out_channels))
    block.extend(ResnetBlock(out_channels, out_channels) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(block=block, **resample))


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(block_1=ResnetBlock(channels, channels), block_2=ResnetBlock(channels, channels)))


class AudioEncoder(nn.Module):
    """Log-mel (b 2 T M) to normalised latent (b c t m), t = ceil(T / 4)."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = CausalConv(config.in_channels, config.channels)
        steps = [*(Downsample(width) for width in widths[:-1]), nn.Identity()]
        levels = zip(pairwise((config.channels, *widths)), steps, strict=True)
        self.down = nn.Sequential(*(_level(*ends, config.blocks, downsample=step) for ends, step in levels))
        self.mid = _middle(widths[-1])
        self.conv_out = CausalConv(widths[-1], 2 * config.latent_channels)
        self.per_channel_statistics = PerChannelStatistics(config)

    def forward(self, mel: Tensor) -> Tensor:
        """The mean of the posterior, normalised; nothing is sampled."""
        mean = self.moments(mel)[:, : self.config.latent_channels]
        return self.per_channel_statistics.normalise(mean)

    def moments(self, mel: Tensor) -> Tensor:
        """The posterior (b 2c t m): its mean, then its log-variance, not normalised."""
        x = self.mid(self.down(self.conv_in(mel)))
        return self.conv_out(F.silu(pixel_norm(x)))


class AudioDecoder(nn.Module):
    """Normalised latent (b c t m) to log-mel (b 2 T M), T = 4t - 3."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.per_channel_statistics = PerChannelStatistics(config)
        self.conv_in = CausalConv(config.latent_channels, widths[-1])
        self.mid = _middle(widths[-1])
        steps = [nn.Identity(), *(Upsample(width) for width in widths[1:])]
        levels = zip(widths, (*widths[1:], widths[-1]), steps, strict=True)
        # Finest level first, as in the file; executed from the last to the first.
        self.up = nn.ModuleList(_level(start, end, config.blocks + 1, upsample=step) for end, start, step in levels)
        self.conv_out = CausalConv(widths[0], config.out_channels)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.per_channel_statistics.denormalise(latent)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(x)))
