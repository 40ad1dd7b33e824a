"""Adaptive norms: from timesteps to the shifts, scales and gates of the denoiser.

Source: docs/reference/transformer.md, "AdaLN" and "Rows of the tables".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

SINUSOID_WIDTH = 256


class AdaLN(nn.Module):
    """Compute `rows` modulation rows of a width from sinusoidal embeddings of timesteps."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.embed_in = nn.Linear(SINUSOID_WIDTH, width)
        self.embed_out = nn.Linear(width, width)
        self.linear = nn.Linear(width, rows * width)

    def forward(self, sinusoids: Tensor) -> tuple[Tensor, Tensor]:
        """From the output of `sinusoid` (b k 256): rows (b k r d) and the embedded timesteps (b k d)."""
        embedded = self.embed_out(F.silu(self.embed_in(sinusoids.to(self.linear.weight.dtype))))
        return rearrange(self.linear(F.silu(embedded)), "b k (r d) -> b k r d", r=self.rows), embedded


@dataclass(frozen=True, slots=True)
class Modulation:
    """Shifts, scales and gates from AdaLN, optionally with a block's trained offsets added.

    Args: rows: (b k r d), once per distinct timestep. timestep_index: the index of each token's timestep.
    """

    rows: Tensor
    timestep_index: Tensor | None

    def with_table(self, table: Tensor, scales: slice) -> Self:
        """The same with trained offsets (r d) added to all rows, and 1 added to the scales."""
        rows = self.rows + table.to(self.rows.dtype)
        rows[:, :, scales].add_(1)
        return replace(self, rows=rows)

    def of_tokens(self, tokens: slice) -> Self:
        """The same for some of the tokens."""
        if self.timestep_index is None:
            return self
        return replace(self, timestep_index=self.timestep_index[:, tokens])

    def row(self, index: int) -> Tensor:
        """One row for every token: (b n d), or (b 1 d) if all tokens share one timestep."""
        return per_token(self.rows[:, :, index], self.timestep_index)

    def apply(self, normed: Tensor, *, shift: int, scale: int) -> Tensor:
        """Scale and shift (b n d) by two rows."""
        return normed * self.row(scale) + self.row(shift)


def sinusoid(timesteps: Tensor) -> Tensor:
    """Embed (b k) float32 timesteps, scaled, as (b k 256): cosines first, then sines."""
    half = SINUSOID_WIDTH // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[..., None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def per_token(values: Tensor, timestep_index: Tensor | None) -> Tensor:
    """The values of each distinct timestep (b k d) for the tokens that have it: (b n d), or (b 1 d) if k is 1."""
    if timestep_index is None:
        return values
    return torch.take_along_dim(values, timestep_index[..., None], dim=1)
