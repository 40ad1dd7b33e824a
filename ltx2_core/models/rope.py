"""Rotary position embedding over continuous coordinates, as the denoiser and the text connectors use it.

Source: docs/reference/transformer.md, "Rotary positions"; docs/reference/text.md, "Positions of the connectors".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Rope:
    """Cosines and sines for every token: (b h n d/2) in the split layout, (b h n d) if interleaved; b may be 1."""

    cos: Tensor
    sin: Tensor
    is_interleaved: bool

    def repeated(self, times: int) -> Rope:
        """The tables for a batch that repeats the same tokens; tables of one sample are broadcast."""
        if len(self.cos) == 1:
            return self
        cos, sin = (repeat(table, "b h n d -> (times b) h n d", times=times) for table in (self.cos, self.sin))
        return replace(self, cos=cos, sin=sin)

    def of_tokens(self, tokens: slice) -> Rope:
        """The tables of some of the tokens."""
        return replace(self, cos=self.cos[:, :, tokens], sin=self.sin[:, :, tokens])

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (b h n d)."""
        if self.is_interleaved:
            return x * self.cos + _rotate_pairs(x) * self.sin
        halves = rearrange(x, "b h n (two r) -> two b h n r", two=2)
        rotated = halves * self.cos
        rotated[0].addcmul_(halves[1], self.sin, value=-1)
        rotated[1].addcmul_(halves[0], self.sin)
        return rearrange(rotated, "two b h n r -> b h n (two r)")


@dataclass(frozen=True, slots=True)
class LazyRope:
    """Tables that are computed on demand, for the tokens that need them.

    Args: coordinates: (b n a), as for `rope_tables`. make: from coordinates to their tables.
    """

    coordinates: Tensor
    make: Callable[[Tensor], Rope]

    def repeated(self, times: int) -> LazyRope:
        """The same for a batch that repeats the same tokens."""
        if len(self.coordinates) == 1:
            return self
        return replace(self, coordinates=repeat(self.coordinates, "b n a -> (times b) n a", times=times))

    def of_tokens(self, tokens: slice) -> Rope:
        """The tables of some of the tokens."""
        return self.make(self.coordinates[:, tokens])


@dataclass(frozen=True, slots=True)
class StreamRope:
    """The tables of one stream: for self-attention, and on the common time axis for cross-attention."""

    own: Rope | LazyRope
    exchange: Rope | LazyRope | None = None

    def repeated(self, times: int) -> StreamRope:
        """The tables for a batch that holds the same tokens so many times."""
        exchange = None if self.exchange is None else self.exchange.repeated(times)
        return StreamRope(self.own.repeated(times), exchange)


def frequency_grid(count: int, *, theta: float, double_grid: bool) -> Tensor:
    """The frequencies theta^(j / (count − 1)) · π / 2, float32 (count); `double_grid` rounds once, from float64."""
    exponents = torch.linspace(0, 1, count, dtype=torch.float64 if double_grid else torch.float32, device="cpu")
    return (theta**exponents * (math.pi / 2)).float()


def rope_tables(
    coordinates: Tensor,
    width: int,
    heads: int,
    *,
    theta: float,
    is_interleaved: bool,
    double_grid: bool,
    dtype: torch.dtype,
) -> Rope:
    """Compute the tables for tokens at given coordinates.

    Args: coordinates: (b n a) float32, each axis scaled to [−1, 1] over its longest extent. width: of all heads
    together. theta: the base. dtype: of the tables; angles, cosines and sines are always computed in float32, because
    the largest angles reach 1.6e4 and their float32 rounding is part of the trained result.
    """
    axes = coordinates.shape[-1]
    grid = frequency_grid(width // (2 * axes), theta=theta, double_grid=double_grid).to(coordinates.device)
    angles = rearrange(coordinates[:, :, None, :] * grid[:, None], "b n j a -> b n (j a)")

    def table(values: Tensor, padding: float) -> Tensor:
        if is_interleaved:
            values = repeat(values, "b n r -> b n (r two)", two=2)
        missing = (width if is_interleaved else width // 2) - values.shape[-1]  # width % (2 · axes) may not be 0
        return rearrange(F.pad(values, (missing, 0), value=padding), "b n (h r) -> b h n r", h=heads).to(dtype)

    return Rope(table(angles.cos(), 1.0), table(angles.sin(), 0.0), is_interleaved)


def _rotate_pairs(x: Tensor) -> Tensor:
    """(x0, x1, x2, x3 …) becomes (−x1, x0, −x3, x2 …)."""
    even, odd = rearrange(x, "... (r two) -> two ... r", two=2)
    return rearrange([-odd, even], "two ... r -> ... (r two)")
