"""What a latent upsampler costs beside its weights."""

from __future__ import annotations

from ..config.upsampler import UpsamplerConfig

COPIES = 4.1  # of the enlarged features
KERNEL = 27


def upsample_bytes(config: UpsamplerConfig, cells: int, itemsize: int) -> int:
    """The most that is alive while a latent becomes one of so many cells."""
    return int(COPIES * config.width * cells * itemsize)


def upsample_workspace_bytes(config: UpsamplerConfig, cells: int, itemsize: int) -> int:
    """What the kernel of a convolution takes besides, to copy the enlarged features that it reads and makes."""
    return 2 * config.width * cells * itemsize


def upsample_flops(config: UpsamplerConfig, before: int, after: int) -> float:
    """Two convolutions in each block, at the size of so many cells before and after it is enlarged."""
    blocks = 2.0 * KERNEL * config.width**2 * 2 * config.blocks * (before + after)
    enlarged = 2.0 * KERNEL // 3 * config.width**2 * after
    ends = 2.0 * KERNEL * config.width * config.channels * (before + after)
    return blocks + enlarged + ends
