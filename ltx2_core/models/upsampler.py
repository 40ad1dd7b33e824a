"""The latent upsamplers: small networks that double a latent in space, in time, or both, or resample it by a ratio.

Source: docs/reference/video-vae.md, "Latent upsamplers".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from ..config.upsampler import UpsamplerConfig
from .video_vae import ChannelStatistics

GROUPS = 32


class ResBlock(nn.Module):
    """Convolution and norm, twice, with SiLU in between and after the sum with the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)), inplace=True)
        h = self.norm2(self.conv2(h))
        return F.silu(h.add_(x), inplace=True)


class BlurDown(nn.Module):
    """Smooth every channel with a fixed 5×5 kernel and keep one pixel of `stride`; a stride of 1 does nothing."""

    kernel: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("kernel", torch.empty(1, 1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=2, groups=len(kernel))


class RationalResampler(nn.Module):
    """Enlarge frames (b c h w) by a numerator, then reduce them by a denominator."""

    def __init__(self, channels: int, ratio: tuple[int, int]) -> None:
        super().__init__()
        numerator, denominator = ratio
        self.conv = nn.Conv2d(channels, numerator**2 * channels, kernel_size=3, padding=1)
        self.shuffle = nn.PixelShuffle(numerator)
        self.blur_down = BlurDown(denominator)

    def forward(self, x: Tensor) -> Tensor:
        return self.blur_down(self.shuffle(self.conv(x)))


def _upsampler(config: UpsamplerConfig) -> nn.Module:
    """The layer that changes the size: on whole clips (b c f h w) where time grows, else on frames (b c h w)."""
    if config.ratio is not None:
        return RationalResampler(config.width, config.ratio)
    if not config.in_time:
        return nn.Sequential(nn.Conv2d(config.width, 4 * config.width, kernel_size=3, padding=1), nn.PixelShuffle(2))
    p = 2 if config.in_space else 1
    unfold = Rearrange("b (c p1 p2 p3) f h w -> b c (f p1) (h p2) (w p3)", p1=2, p2=p, p3=p)
    return nn.Sequential(nn.Conv3d(config.width, 2 * p * p * config.width, kernel_size=3, padding=1), unfold)


class LatentUpsampler(nn.Module):
    """Enlarge an un-normalised latent."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.initial_conv = nn.Conv3d(config.channels, config.width, kernel_size=3, padding=1)
        self.initial_norm = nn.GroupNorm(GROUPS, config.width)
        self.res_blocks = nn.ModuleList(ResBlock(config.width) for _ in range(config.blocks))
        self.upsampler = _upsampler(config)
        self.post_upsample_res_blocks = nn.ModuleList(ResBlock(config.width) for _ in range(config.blocks))
        self.final_conv = nn.Conv3d(config.width, config.channels, kernel_size=3, padding=1)

    def resize(self, x: Tensor) -> Tensor:
        """Change the size of features (b c f h w): frame by frame, or in time, where n frames become 2n − 1."""
        if self.config.in_time:
            return self.upsampler(x)[:, :, 1:]  # the first latent frame stands for a single frame
        frames = self.upsampler(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) c h w -> b c f h w", b=len(x))

    def forward(self, latent: Tensor) -> Tensor:
        """Map an un-normalised latent (b c f h w) to (b c f' h' w') in its dtype."""
        x = self.initial_conv(latent.to(self.initial_conv.weight.dtype))
        x = F.silu(self.initial_norm(x), inplace=True)
        for block in self.res_blocks:
            x = block(x)
        x = self.resize(x)
        for block in self.post_upsample_res_blocks:
            x = block(x)
        return self.final_conv(x).to(latent.dtype)


def upsample_latent(latent: Tensor, upsampler: LatentUpsampler, statistics: ChannelStatistics) -> Tensor:
    """Enlarge a normalised latent (b c f h w). statistics: of its VAE. Returns: normalised again."""
    return statistics.normalize(upsampler(statistics.unnormalize(latent)))
