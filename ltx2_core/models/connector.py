"""From Gemma's hidden states to the text context: a projection, and a small transformer per stream.

Source: docs/reference/text.md, "Hidden states" and "Connectors".
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.text import PROJECTED_ROWS, ConnectorConfig, ProjectionConfig
from .attention import MLP, Attention, rms_norm
from .rope import Rope, rope_tables

EPS = 1e-6
THETA = 10000.0  # connectors do not read the denoiser's positional_embedding_theta


def normalise_per_layer(hidden: Tensor) -> Tensor:
    """Centre each layer of (b l d k) over all its tokens and channels, and scale its range to 8.

    Source: docs/reference/text.md, "Rounding points": sum, extremes and range stay in the dtype of the input, the rest
    is float32.
    """
    count = hidden.shape[-3] * hidden.shape[-2]
    mean = reduce(hidden, "b l d k -> b 1 1 k", "sum").float() / (count + EPS)
    highest, lowest = (reduce(hidden, "b l d k -> b 1 1 k", which) for which in ("max", "min"))
    return (8 * (hidden - mean) / (highest - lowest + EPS)).to(hidden.dtype)


def normalise_per_token(hidden: Tensor) -> Tensor:
    """Scale each token of each layer of (b l d k) to a root mean square of one over channels.

    Every step but the root is rounded to the dtype of the input. Source: docs/reference/text.md, "Rounding points".
    """
    mean = reduce(hidden**2, "b l d k -> b l 1 k", "mean") + EPS
    return hidden * mean.float().rsqrt().to(hidden.dtype)  # bfloat16 roots on the CPU round twice where vectors end


class RowLinear(nn.Linear):
    """A linear layer that computes some of its outputs at a time.

    The bits are those of one product on the CPU, where kernels round differently only for fewer than 16 outputs.

    Its matrix may be on another device than the input and in another dtype, as in a mapped file: only the rows of those
    outputs are copied to the input's device, and freed afterwards.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (… d) to (… outputs)."""
        weights = self.weight.split(PROJECTED_ROWS)
        biases = [None] * len(weights) if self.bias is None else self.bias.to(input).split(PROJECTED_ROWS)
        pieces = zip(weights, biases, strict=True)
        return torch.cat([F.linear(input, weight.to(input), bias) for weight, bias in pieces], dim=-1)


class TextProjection(nn.Module):
    """Maps all hidden states of a token to one vector per stream."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.config = config
        if config.is_shared:
            self.aggregate_embed = RowLinear(config.features, config.video_width, bias=False)
        else:
            self.video_aggregate_embed = RowLinear(config.features, config.video_width)
            self.audio_aggregate_embed = RowLinear(config.features, config.audio_width)

    def normalise(self, hidden: Tensor) -> Tensor:
        """Normalise the hidden states (b l d k) of real tokens as in training, and flatten them: (b l (d k))."""
        normalise = normalise_per_layer if self.config.is_shared else normalise_per_token
        return rearrange(normalise(hidden), "b l d k -> b l (d k)")

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Turn hidden states of real tokens (b l d k), k counting layers, into features (b l width) per stream."""
        features = self.normalise(hidden)
        if self.config.is_shared:
            shared = self.aggregate_embed(features)
            return shared, shared
        video, audio = (
            embed(features * math.sqrt(embed.out_features / hidden.shape[-2]))
            for embed in (self.video_aggregate_embed, self.audio_aggregate_embed)
        )
        return video, audio


class ConnectorBlock(nn.Module):
    """Self-attention over all rows, then feed-forward; its norms have no weights."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = Attention(width, width, config.heads, config.head_dim, eps=EPS, gated=config.is_gated)
        self.mlp = MLP(width, bias=config.mlp_bias)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Map (b l d) to (b l d)."""
        x = x + self.self_attn(rms_norm(x, EPS), rope=rope)
        return x + self.mlp(rms_norm(x, EPS))


class Connector(nn.Module):
    """Appends learned registers to a prompt's features and lets all rows attend to each other."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.learnable_registers = nn.Parameter(torch.empty(config.registers, config.width))
        self.blocks = nn.ModuleList(ConnectorBlock(config) for _ in range(config.layers))

    def forward(self, features: Tensor, rows: int) -> Tensor:
        """Turn the features (b l d) of real tokens into a context (b rows d).

        Args: rows: at least l, and a multiple of the number of registers.
        """
        return self.refine(self.fill(features, rows))

    def refine(self, x: Tensor) -> Tensor:
        """Let all rows (b rows d) attend to each other."""
        rope = self._positions(x.shape[-2], x)
        for block in self.blocks:
            x = block(x, rope)
        return rms_norm(x, EPS)

    def fill(self, features: Tensor, rows: int) -> Tensor:
        """Append registers; row t is register t mod count, so the first one depends on the length of the text."""
        times, rest = divmod(rows, self.config.registers)
        assert rest == 0, f"{rows} text rows are no multiple of {self.config.registers} registers"
        table = repeat(self.learnable_registers, "r d -> b (times r) d", b=len(features), times=times)
        return torch.cat((features, table[:, features.shape[-2] :].to(features.dtype)), dim=-2)

    def _positions(self, rows: int, x: Tensor) -> Rope:
        coordinates = 2 * (torch.arange(rows, dtype=torch.float32, device=x.device) / self.config.max_pos) - 1
        return rope_tables(
            rearrange(coordinates, "n -> 1 n 1"),
            self.config.width,
            self.config.heads,
            theta=THETA,
            is_interleaved=self.config.is_interleaved,
            double_grid=self.config.has_double_grid,
            dtype=x.dtype,
        )
