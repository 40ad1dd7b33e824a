"""Random noise. Which numbers are drawn, in which order and dtype, is part of what a seed means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..latents import LatentState

NOISE_DTYPE = torch.bfloat16  # a seed gives the same noise for every dtype of the model


def draw_noise(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Draw normal noise on the generator's device. The dtype matters: bfloat16 and float32 draw different numbers."""
    return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype)


def add_noise(state: LatentState, generator: torch.Generator, scale: float, dtype: torch.dtype) -> LatentState:
    """Add noise to a state whose conditions are applied: by `scale` where the mask is 1, none where it is 0.

    Noise is drawn for every token, including appended ones, in token order, also if the scale is 0, so that later draws
    do not depend on it. With two streams, video comes first.

    Args: scale: 1 gives pure noise, the first sigma of a later stage keeps some of the latent. dtype: of the drawn
    noise.
    Source: docs/reference/sampling.md, "Order of construction".
    """
    noise = draw_noise(state.latent.shape, generator, dtype).to(state.latent.device, torch.float32)
    noisy = torch.lerp(state.latent.float(), noise, scale)
    return state.with_latent(torch.lerp(state.clean.float(), noisy, state.mask.dense))


def draw_standardised_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw float64 noise (b n c) with mean 0 and deviation 1, over the whole and then over each sample of the batch."""
    noise = draw_noise(shape, generator, torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    return (noise - noise.mean((-2, -1), keepdim=True)) / noise.std((-2, -1), keepdim=True)
