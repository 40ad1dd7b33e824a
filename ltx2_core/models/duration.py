"""The duration head of LTX-2.5: from the text contexts of a prompt to the duration of the clip.

Source: docs/reference/text.md, "Duration head".
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.duration import DurationConfig
from .attention import attention


class StackedAttention(nn.Module):
    """Multi-head attention whose projections to queries, keys and values are stored as one matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Attention from queries (b q d) to tokens (b n d): (b q d)."""
        given = zip((queries, tokens, tokens), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (
            rearrange(F.linear(x, weight, bias), "b n (h d) -> b h n d", h=self.heads) for x, weight, bias in given
        )
        return self.out_proj(rearrange(attention(q, k, v), "b h n d -> b n (h d)"))


class AttentionPooler(nn.Module):
    """A few learned queries that attend to all tokens."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(config.queries, config.width))
        self.cross_attn = StackedAttention(config.width, config.heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b n d) to one vector (b (q d))."""
        queries = repeat(self.query_tokens, "q d -> b q d", b=len(tokens))
        return rearrange(self.cross_attn(queries, tokens), "b q d -> b (q d)")


class DurationHead(nn.Module):
    """Uses the contexts of a prompt, of both streams or of the only one."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        self.config = config
        self.video_input_proj = nn.Linear(config.video_width, config.width)
        self.audio_input_proj = nn.Linear(config.audio_width, config.width)
        self.video_modality_emb = nn.Parameter(torch.empty(config.width))
        self.audio_modality_emb = nn.Parameter(torch.empty(config.width))
        self.attention_pooler = AttentionPooler(config)
        self.mlp_hidden = nn.Linear(config.queries * config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, 1)

    @torch.no_grad()
    def forward(self, video: Tensor | None, audio: Tensor | None) -> Tensor:
        """The durations (b) in seconds of clips with these contexts (b l d); all rows are used."""
        tokens = []
        if video is not None:
            tokens.append(self.video_input_proj(video) + self.video_modality_emb)
        if audio is not None:
            tokens.append(self.audio_input_proj(audio) + self.audio_modality_emb)
        pooled = self.attention_pooler(torch.cat(tokens, dim=-2))
        seconds = self.mlp_out(F.gelu(self.mlp_hidden(pooled), approximate="tanh")).exp()
        return rearrange(seconds, "b 1 -> b")
