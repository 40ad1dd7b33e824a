"""The input of the denoiser: the inputs of a stream, the passes of a call, and what each of them leaves out."""

from __future__ import annotations

import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ..types import Streams
from .attention import KeysValues
from .chunks import WHOLE, Chunks
from .modulation import Modulation
from .rope import StreamRope
from .segments import TextShares

ALL_BLOCKS: Container[int] = range(sys.maxsize)
NO_BLOCKS: Container[int] = frozenset()
TextMemory = tuple[KeysValues, ...]  # keys and values of one stream, by block


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInput:
    """The input of one stream.

    Args: latent: (b n c) noisy tokens. sigma: (b) noise level of the stream, 0 if it is frozen. unique_timesteps: (b k)
    the distinct timesteps of its tokens, sigma × mask. timestep_index: (b n), the index of each token's timestep; None
    if k is 1. positions: (b a n 2) float32 bounds, in seconds and pixels, or the tables that `rotary_tables` made of
    them. context: (b l d) text features, or the keys and values that `text_memory` made of them. context_mask: additive
    bias if floating, or (b l) with 1 = keep if integer. attention_mask: (b n n) self-attention strengths in [0, 1].
    keyframes_mask: (b n 1), > 0 on tokens with a single pixel frame. text_shares: which of several texts in the context
    each token attends to, then without a mask; None for one text. is_enabled: False leaves the stream unchanged; the
    other still attends to it.
    """

    latent: Tensor
    sigma: Tensor
    unique_timesteps: Tensor
    positions: Tensor | StreamRope
    context: Tensor | TextMemory
    timestep_index: Tensor | None = None
    context_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    keyframes_mask: Tensor | None = None
    text_shares: TextShares | None = None
    is_enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """What one sample leaves out, and in which blocks: self-attention of a stream, or cross-attention in one
    direction.
    """

    video_self: Container[int] = NO_BLOCKS
    audio_self: Container[int] = NO_BLOCKS
    audio_to_video: Container[int] = NO_BLOCKS
    video_to_audio: Container[int] = NO_BLOCKS

    def touches(self, block: int) -> bool:
        return any(block in getattr(self, kind) for kind in self.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMask:
    """What a batch keeps of one block: True all, False nothing, (b 1 1) ones and zeros if the samples differ."""

    video_self: Tensor | bool = True
    audio_self: Tensor | bool = True
    audio_to_video: Tensor | bool = True
    video_to_audio: Tensor | bool = True

    @property
    def has_exchange(self) -> bool:
        """Whether any sample keeps cross-attention between the streams, in any direction."""
        return self.audio_to_video is not False or self.video_to_audio is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInputs:
    """What the blocks and the output layers need of one stream beside its hidden states; all except the text is the
    same for every block.

    Args: modulation: a shift, a scale and a gate for each of two or three steps. exchange: a scale and a shift for each
    direction, and the gate of the other stream's contribution, which all tokens share. embedded: (b k d) embedded
    timesteps. text: (b l d) features, or the keys and values of every block; a block gets its own. text_shares: which
    of several texts among these rows each token attends to. prompt: (b 1 2 d) modulation of the text. chunks: how many
    tokens are processed at a time.
    """

    modulation: Modulation
    embedded: Tensor
    rope: StreamRope
    text: Tensor | TextMemory | KeysValues
    text_bias: Tensor | None
    self_bias: Tensor | None
    prompt: Tensor | None
    text_shares: TextShares | None = None
    exchange: Modulation | None = None
    is_enabled: bool = True
    chunks: Chunks = WHOLE

    def of_block(self, index: int) -> Self:
        """The inputs of one block: the same, with that block's keys and values if these were precomputed."""
        return self if isinstance(self.text, Tensor) else replace(self, text=self.text[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One call of the model.

    follows: index of an earlier pass with the same inputs; this one then starts where it first differs.
    """

    inputs: Streams[StreamInput]
    perturbations: Sequence[Perturbation] = ()
    follows: int | None = None

    def start(self, layers: int) -> int:
        """The first of so many blocks that this pass runs itself."""
        if self.follows is None:
            return 0
        return next((i for i in range(layers) if any(p.touches(i) for p in self.perturbations)), layers)
