"""The text path of the toy model as one trainable module: from prompts to contexts, for a whole batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from ltx2_core.models.connector import Connector, TextProjection
from ltx2_core.text.files import find_encoder
from ltx2_core.text.gemma import PromptTokenizer, load_gemma, pad_left
from ltx2_core.types import Streams
from scripts.toy.model import HOME, TEXT_ENCODER, TEXT_ROWS, fresh, fresh_gemma, trained
from scripts.toy.tokenizer import toy_tokenizer


class TextPath(nn.Module):
    """The language model, the projection and both connectors, with the same results as the core's text path."""

    projection: TextProjection
    video_connector: Connector
    audio_connector: Connector

    def __init__(self, gemma: nn.Module, projection: nn.Module, video: nn.Module, audio: nn.Module) -> None:
        super().__init__()
        self.gemma, self.projection, self.video_connector, self.audio_connector = gemma, projection, video, audio
        words = toy_tokenizer()
        self.tokenizer = PromptTokenizer(words, bos=words.token_to_id("<bos>"), pad=words.token_to_id("<pad>"))

    @classmethod
    def fresh(cls, seed: int) -> Self:
        """A text path with initial weights."""
        parts = ("text_projection", "video_connector", "audio_connector")
        return cls(fresh_gemma(seed), *(fresh(part, seed) for part in parts))

    @classmethod
    def trained(cls, folder: Path = HOME) -> Self:
        """A text path with the weights of the files."""
        gemma = load_gemma(find_encoder(folder / TEXT_ENCODER), dtype=torch.float32).model
        parts = ("text_projection", "video_connector", "audio_connector")
        return cls(copy.deepcopy(gemma).requires_grad_(True).train(), *(trained(part, folder) for part in parts))

    def forward(self, prompts: Sequence[str]) -> Streams[Tensor]:
        """The contexts (b rows d) of prompts, one per stream."""
        ids = [self.tokenizer.encode(prompt, TEXT_ROWS) for prompt in prompts]
        length = max(map(len, ids))
        tokens, mask = pad_left(ids, length, self.tokenizer.pad)
        device = self.video_connector.learnable_registers.device
        states = self.gemma(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=torch.arange(TEXT_ROWS - length, TEXT_ROWS, device=device)[None],
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
        hidden = torch.stack(states, dim=-1)
        rows: Streams[list[Tensor]] = Streams([], [])
        for one, count in zip(hidden, map(len, ids), strict=True):  # the projection normalises over one prompt's tokens
            features = Streams(*self.projection(one[None, length - count :]))
            features.map(lambda x, connector, to: to.append(connector.fill(x, TEXT_ROWS)), self._connectors, rows)
        return rows.map(lambda filled, connector: connector.refine(torch.cat(filled)), self._connectors)

    @property
    def _connectors(self) -> Streams[Connector]:
        return Streams(self.video_connector, self.audio_connector)
