"""Texts that follow each other in a clip: each token attends to the text for its own time.

The context of a stream then contains the features of all texts, one after another, and a token attends to the rows of
the one or two texts that apply at its time. Queries, keys, values, gate and projection are those of ordinary text
attention; between two texts the two results are mixed. Nothing else of the denoiser changes.
Source: docs/reference/transformer.md, "Texts that follow each other".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .attention import KeysValues, attention


class Run(NamedTuple):
    """Successive tokens, from start to stop, that attend to the same texts: one, or several with weights."""

    start: int
    stop: int
    texts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextShares:
    """The weight of each text for the tokens of a stream.

    Args: weights: (texts n) float32 on the device of the latent; those of a token add up to 1. runs: all tokens, in
    their order.
    """

    weights: Tensor
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, weights: Tensor, device: torch.device) -> Self:
        """From weights (texts n) on the CPU, where they determine what is computed. device: of the latent."""
        return cls(weights.to(device), tuple(_runs(weights)))

    def of_tokens(self, rows: slice) -> Self:
        """The same for some of the tokens."""
        count = self.weights.shape[-1]
        first, last, _ = rows.indices(count)
        if (first, last) == (0, count):
            return self
        cut = (Run(max(run.start, first) - first, min(run.stop, last) - first, run.texts) for run in self.runs)
        return replace(self, weights=self.weights[:, rows], runs=tuple(run for run in cut if run.start < run.stop))

    def read(self, queries: Tensor, memory: KeysValues) -> Tensor:
        """The attention output for queries (b h n d) of these tokens, with keys and values of all texts, (b h texts·l
        d).
        """
        count = len(self.weights)
        texts = [*zip(memory.keys.chunk(count, dim=-2), memory.values.chunk(count, dim=-2), strict=True)]

        def mixed(run: Run) -> Tensor:
            part = queries[:, :, run.start : run.stop]
            found = [attention(part, *texts[text]) for text in run.texts]
            if len(found) == 1:
                return found[0]
            shares = [self.weights[text, run.start : run.stop, None].to(part.dtype) for text in run.texts]
            return torch.stack([share * one for share, one in zip(shares, found, strict=True)]).sum(0)

        parts = [mixed(run) for run in self.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def _runs(weights: Tensor) -> Iterator[Run]:
    """The runs of tokens with weights (texts n)."""
    counts = (weights > 0).T.tolist()
    start = 0
    for place in range(1, len(counts) + 1):
        if place == len(counts) or counts[place] != counts[start]:
            yield Run(start, place, tuple(text for text, does_count in enumerate(counts[start]) if does_count))
            start = place


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTimes:
    """Which text applies when.

    Args: texts: of each span of the clip, by its place in the context. borders: in seconds, between one span and the
    next. ramp_s: duration of the transition between two texts, half of it on each side of a border.
    """

    texts: tuple[int, ...]
    borders: tuple[float, ...]
    ramp_s: float

    @property
    def count(self) -> int:
        """The number of texts."""
        return max(self.texts) + 1

    def weights(self, positions: Tensor, origin_s: float = 0.0) -> Tensor:
        """The weight of each text for tokens at positions (b a n 2), by the middle of their time: (texts n) float32.

        origin_s: the time in the clip at which positions start.
        """
        middle = positions[0, 0].float().mean(-1) + origin_s
        begun = [((middle - border) / self.ramp_s + 0.5).clamp(0, 1) for border in self.borders]
        edges = [torch.ones_like(middle), *begun, torch.zeros_like(middle)]
        weights = middle.new_zeros((self.count, len(middle)))
        for text, (before, after) in zip(self.texts, pairwise(edges), strict=True):
            weights[text] += before - after
        return weights
