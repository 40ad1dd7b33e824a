"""The cost of a latent upsampler beside its weights."""

from __future__ import annotations

from ..config.upsampler import UpsamplerConfig

COPIES = 4.1  # copies of the enlarged features
KERNEL = 27


def upsample_bytes(config: UpsamplerConfig, cells: int, itemsize: int) -> int:
    """Peak memory while a latent is enlarged to so many cells."""
    return int(COPIES * config.width * cells * itemsize)


def upsample_workspace_bytes(config: UpsamplerConfig, cells: int, itemsize: int, *, on_cpu: bool = False) -> int:
    """Additional memory of the convolution kernel, which copies the enlarged features that it reads and writes, and on
    the CPU its weights.
    """
    copied = max(KERNEL, _enlarging_taps(config)) * config.width**2
    return (2 * config.width * cells + on_cpu * copied) * itemsize


def _enlarging_taps(config: UpsamplerConfig) -> int:
    """The weights of the layer that enlarges, for each pair of channels."""
    if config.in_time:
        return KERNEL * (8 if config.in_space else 2)
    numerator, _ = config.ratio or (2, 1)
    return KERNEL // 3 * numerator**2


def upsample_flops(config: UpsamplerConfig, before: int, after: int) -> float:
    """FLOPs of two convolutions in each block, at so many cells before and after enlarging."""
    blocks = 2.0 * KERNEL * config.width**2 * 2 * config.blocks * (before + after)
    enlarged = 2.0 * KERNEL // 3 * config.width**2 * after
    ends = 2.0 * KERNEL * config.width * config.channels * (before + after)
    return blocks + enlarged + ends
