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
    """The text context of one prompt: (1 l d) for each stream. All rows are used; there is no mask.

    Args: dropped: how many tokens at the end of the prompt did not fit.
    """

    video: Tensor
    audio: Tensor
    dropped: int = 0


class ContextModels(NamedTuple):
    """The models that turn hidden states into contexts; all of them come from the checkpoint."""

    projection: TextProjection
    video: Connector
    audio: Connector

    @torch.no_grad()
    def connect(self, hidden: Tensor, rows: int, dropped: int = 0) -> TextContext:
        """Turn the hidden states (1 l d k) of one prompt's real tokens into its context of so many rows.

        They are processed in their own dtype and on their own device, where the models must be too.
        """
        video, audio = self.projection(hidden)
        return TextContext(video=self.video(video, rows), audio=self.audio(audio, rows), dropped=dropped)


def encode_prompts(
    prompts: Sequence[str],
    encoder: Callable[[], AbstractContextManager[Gemma]],
    models: Callable[[], AbstractContextManager[ContextModels]],
    rows: int = TEXT_ROWS,
) -> list[TextContext]:
    """Encode prompts, including the negative one, in one batch.

    Args: encoder, models: context managers for models, so that the first is freed before the second is loaded; each is
    called once, and both compute in one dtype on one device. rows: tokens and registers of a context together.
    """
    with encoder() as gemma:
        hidden = gemma(prompts, rows)
        dropped = [gemma.tokenizer.count_dropped(prompt, rows) for prompt in prompts]
    del gemma  # the reference would keep its weights
    with models() as made_of:
        return [made_of.connect(states, rows, count) for states, count in zip(hidden, dropped, strict=True)]
