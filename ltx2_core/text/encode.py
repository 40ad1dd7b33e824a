"""Prompts to contexts: Gemma once for all of them, then projection and connectors, prompt by prompt.

Source: docs/reference/text.md, "Running only the real tokens", "Hidden states" and "Connectors".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.text import TEXT_ROWS
from ..models.connector import Connector, TextProjection
from .gemma import Gemma


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContext:
    """What the denoiser reads of one prompt: (1 l d) for each stream. All rows count; there is no mask.

    Args: dropped: how many tokens at the end of the prompt did not fit.
    """

    video: Tensor
    audio: Tensor
    dropped: int = 0


class ContextModels(NamedTuple):
    """What turns hidden states into contexts; all of it comes from the checkpoint."""

    projection: TextProjection
    video: Connector
    audio: Connector

    @torch.no_grad()
    def connect(self, hidden: Tensor, rows: int, dropped: int = 0) -> TextContext:
        """Turn the hidden states (1 l d k) of one prompt's real tokens into its context of so many rows.

        They are computed with in their own dtype, on their own device; the models are told to be there too.
        """
        video, audio = self.projection(hidden)
        return TextContext(video=self.video(video, rows), audio=self.audio(audio, rows), dropped=dropped)


def encode_prompts(
    prompts: Sequence[str],
    encoder: Callable[[], AbstractContextManager[Gemma]],
    models: Callable[[], AbstractContextManager[ContextModels]],
    rows: int = TEXT_ROWS,
) -> list[TextContext]:
    """Encode prompts, the negative one among them, in one batch.

    Args: encoder, models: give a model and take it back, so that the first is gone before the second comes; each is
    called once, and both compute in one dtype on one device. rows: tokens and registers of a context together.
    """
    with encoder() as gemma:
        hidden = gemma(prompts, rows)
        dropped = [gemma.tokenizer.count_dropped(prompt, rows) for prompt in prompts]
    del gemma  # the name would keep its weights
    with models() as made_of:
        return [made_of.connect(states, rows, count) for states, count in zip(hidden, dropped, strict=True)]
