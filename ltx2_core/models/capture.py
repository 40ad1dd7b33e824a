"""Where the audio attends in the video: cross-attention weights, summed while passes go through the blocks.

The weights inside an attention kernel never exist as a tensor, so they are computed again, head by head and for some
rows of queries at a time. The pass itself does not change.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..costs.denoiser import MOST_CAPTURED
from .passes import ALL_BLOCKS

if TYPE_CHECKING:
    from .transformer import Exchange

ALL: Container[int] = ALL_BLOCKS  # all blocks, or all steps


@dataclass(kw_only=True)
class AttentionCapture:
    """Sums how much each audio token attends to each video token.

    Args: blocks: of the denoiser, from 0, that are averaged. steps: of the sampler, from 1, that are averaged. samples:
    how many samples of a batch are used, from its first; the following ones are other guidance passes. step: the
    running one. weights: (b na nv) float32, the mean over heads, summed over blocks and evaluations; None until there
    is one. most_weights: how many values may exist at a time.
    """

    blocks: Container[int] = ALL
    steps: Container[int] = ALL
    samples: int = 1
    step: int = 1
    weights: Tensor | None = None
    most_weights: int = MOST_CAPTURED

    @property
    def summed(self) -> Tensor | None:
        """The weights of the first sample (na nv); None until there are any."""
        return None if self.weights is None else self.weights[0]

    def begin(self, step: int, weights: Tensor | None = None) -> None:
        """Start at a step, with the sum from before it: (na nv)."""
        self.step, self.weights = step, None if weights is None else weights[None].clone()

    def note_step(self, done: int, total: int) -> None:
        """So many steps of all are done. An evaluation after the last one counts as part of that."""
        self.step = min(done, total - 1) + 1

    @contextmanager
    def watching(self, block: nn.Module, number: int) -> Iterator[None]:
        """In this block, the exchange of the block with this number is captured."""
        exchange = getattr(block, "exchange", None)
        if exchange is None or number not in self.blocks or self.step not in self.steps:
            yield
            return
        handle = exchange.register_forward_pre_hook(self._add)
        try:
            yield
        finally:
            handle.remove()

    def _add(self, exchange: Exchange, given: tuple[Any, ...]) -> None:
        """Add the weights of one exchange, given what it is called with."""
        x, inputs, _ = given
        if not inputs.audio.is_enabled:
            return
        queries, keys = (part[: self.samples] for part in exchange.reading(x, inputs))
        if self.weights is None:
            shape = (len(queries), queries.shape[2], keys.shape[2])
            self.weights = torch.zeros(shape, dtype=torch.float32, device=queries.device)
        self.weights = self.weights.to(queries.device)
        add_weights(self.weights, queries, keys, self.most_weights)


def add_weights(total: Tensor, queries: Tensor, keys: Tensor, most: int = MOST_CAPTURED) -> None:
    """Add to a map (b n l) float32 the attention weights of queries (b h n d) on keys (b h l d), the mean over heads.

    Args: most: how many weights exist at a time, of some queries of one head, but at least those of one query.
    """
    samples, heads, count, width = queries.shape
    at_once = max(1, most // (samples * keys.shape[2]))
    for head in range(heads):
        found = keys[:, head].float().mT  # float32, because the weights of many keys are small
        for first in range(0, count, at_once):
            rows = slice(first, first + at_once)
            scores = queries[:, head, rows].float() * width**-0.5 @ found
            total[:, rows] += scores.softmax(-1).div_(heads)
