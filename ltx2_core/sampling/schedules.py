"""Schedules: the noise levels (sigmas) for a sampler, from 1 (noise) down to 0 (clean)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import RequestError

DEFAULT_TOKENS = 4096
FEW_TOKENS, MANY_TOKENS = 1024, 4096  # the token counts of base_shift and max_shift


def ltx2_schedule(
    steps: int,
    tokens: int = DEFAULT_TOKENS,
    *,
    base_shift: float = 0.95,
    max_shift: float = 2.05,
    terminal: float | None = 0.1,
) -> Tensor:
    """The schedule of the models that are not distilled: evenly spaced, then shifted towards noise and stretched.

    More tokens shift further, also outside the two counts for which the shifts are given.

    Args: tokens: of the video grid, or the default, which most recipes use at every size. terminal: the last sigma
    above 0; None does not stretch.
    Returns: (steps + 1) float32. In float32 the first is often 0.99999994: never compare it with 1.
    Raises: RequestError for less than 2 steps, which cannot be stretched.
    Source: docs/reference/sampling.md, "LTX-2 schedule".
    """
    if steps < 2:
        raise RequestError(f"steps {steps} cannot be used", "this schedule needs at least 2 steps", "--steps 8")
    slope = (max_shift - base_shift) / (MANY_TOKENS - FEW_TOKENS)
    shift = math.exp(tokens * slope + base_shift - slope * FEW_TOKENS)
    even = torch.linspace(1, 0, steps + 1)[:-1]
    sigmas = shift / (shift + (1 / even - 1))
    if terminal is not None:
        distance = 1 - sigmas
        sigmas = 1 - distance / (distance[-1] / (1 - terminal))
    return torch.cat([sigmas, torch.zeros(1)])


def with_level(sigmas: Tensor, level: float) -> Tensor:
    """A schedule (k) with one more noise level inserted: (k+1), or (k) if it has that level or only lower ones."""
    above, below = sigmas[sigmas > level], sigmas[sigmas < level]
    return torch.cat([above, sigmas.new_tensor([level]), below]) if len(above) else sigmas


def from_level(sigmas: Tensor, level: float) -> Tensor:
    """A noise level followed by the lower levels of a schedule (k); the whole schedule if the level is above all of it.

    Source: docs/reference/pipelines.md, "Restyling".
    """
    sigmas = with_level(sigmas, level)
    return sigmas[sigmas <= sigmas.new_tensor(level)]
