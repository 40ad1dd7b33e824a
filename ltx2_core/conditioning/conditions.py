"""Conditions that replace tokens, append tokens, or change the mask of one stream. They apply in list order.

Conditioning latents are written to the clean tokens, never to the noisy ones: noise is added later, according to the
mask.
Source: docs/reference/sampling.md, "Conditions".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, Self

import torch
from torch import Tensor

from ..grids import Factors
from ..latents import DenoiseMask, LatentState, keyframe_positions, patchify_video, reference_positions

REFERENCE_GAP_S = 0.04


class Condition(Protocol):
    """One way to steer a stream."""

    def apply(self, state: LatentState) -> LatentState: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTokens:
    """Conditioning tokens of the grid: frames of a video, or steps of audio.

    Args: tokens: (b m c). start: the first token of the grid that they replace. strength: 1 keeps them exactly.
    """

    tokens: Tensor
    start: int = 0
    strength: float = 1.0

    @classmethod
    def frames(cls, latent: Tensor, index: int = 0, strength: float = 1.0) -> Self:
        """Latent frames (b c f h w) at a latent frame of the clip."""
        h, w = latent.shape[-2:]
        return cls(tokens=patchify_video(latent), start=index * h * w, strength=strength)

    def apply(self, state: LatentState) -> LatentState:
        end = self.start + self.tokens.shape[1]
        assert end <= state.base_tokens, "given tokens reach beyond the grid"
        clean, mask = state.clean.clone(), state.mask.values.clone()
        clean[:, self.start : end] = self.tokens
        mask[:, self.start : end] = 1 - self.strength
        return replace(state, clean=clean, mask=DenoiseMask.from_dense(mask, clean.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """Regenerate the tokens that overlap a window of time, and keep everything else: a retake."""

    start_s: float
    end_s: float

    def apply(self, state: LatentState) -> LatentState:
        start, end = state.positions[:, 0].unbind(-1)
        inside = (end > self.start_s) & (start < self.end_s)
        return replace(state, mask=DenoiseMask.from_dense(inside.unsqueeze(-1), state.latent.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe:
    """An image, or a short clip, appended beside the grid at the position of a pixel frame.

    Args: latent: (b c f h w). frame: pixel frame. pixel_frames: the number of pixel frames in the latent.
    """

    latent: Tensor
    frame: int
    fps: Fraction
    factors: Factors
    strength: float = 1.0
    pixel_frames: int = 1

    def apply(self, state: LatentState) -> LatentState:
        shape = self.latent.shape[2:]
        positions = keyframe_positions(shape, self.frame, self.fps, self.factors, pixel_frames=self.pixel_frames)
        return append_given(state, patchify_video(self.latent), positions, self.strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceVideo:
    """A reference clip for an in-context LoRA.

    Args: latent: (b c f h w). spatial_scale, temporal_scale: the size and the number of frames of the result, relative
    to the reference.
    """

    latent: Tensor
    fps: Fraction
    factors: Factors
    spatial_scale: int = 1
    temporal_scale: int = 1
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        scales = {"spatial_scale": self.spatial_scale, "temporal_scale": self.temporal_scale}
        positions = reference_positions(self.latent.shape[2:], self.fps, self.factors, **scales)
        return append_given(state, patchify_video(self.latent), positions, self.strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceAudio:
    """Reference audio for an in-context LoRA. Args: tokens: (b m c). positions: (1 1 m 2) seconds."""

    tokens: Tensor
    positions: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        return append_given(state, self.tokens, self.positions, self.strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeSlots:
    """Single frames beside the grid that the model generates, which steadies a long clip.

    Args: frames: pixel frames. seeds: (b c k h w), the latents that they start from; None starts them from noise only.
    """

    frames: Sequence[int]
    fps: Fraction
    factors: Factors
    seeds: Tensor | None = None

    def apply(self, state: LatentState) -> LatentState:
        _, *size = state.grid
        b, n, c = state.latent.shape
        each = [keyframe_positions((1, *size), frame, self.fps, self.factors) for frame in self.frames]
        positions = torch.cat(each, dim=-2)
        zeros = state.latent.new_zeros(b, positions.shape[-2], c)
        latent = zeros if self.seeds is None else patchify_video(self.seeds)
        slotted = append(state, latent=latent, clean=zeros, level=1.0, positions=positions, keyframes=1.0)
        return replace(slotted, slot_tokens=range(n, slotted.latent.shape[1]))


@dataclass(frozen=True, slots=True)
class WithAttention:
    """A condition that appends tokens, with the attention between the grid and these tokens limited by weights.

    Args: weights: (b m) in [0, 1], or one for all.
    """

    condition: Condition
    weights: Tensor | float

    def apply(self, state: LatentState) -> LatentState:
        after = self.condition.apply(state)
        appended = after.latent.shape[1] - state.latent.shape[1]
        return replace(after, attention_mask=grown_attention(state, appended, self.weights))


def append_given(state: LatentState, tokens: Tensor, positions: Tensor, strength: float) -> LatentState:
    """Append conditioning tokens (b m c)."""
    level = 1 - strength
    return append(state, latent=torch.zeros_like(tokens), clean=tokens, level=level, positions=positions, keyframes=0.0)


def append(
    state: LatentState, *, latent: Tensor, clean: Tensor, level: float, positions: Tensor, keyframes: float
) -> LatentState:
    """Append tokens (b m c), with one mask level, positions (1 axes m 2) and one entry of the keyframes mask.

    The level passes through the dtype of the latent, as in the reference: 0.2 becomes 0.2001953125 in bfloat16.
    """
    b, m, _ = latent.shape
    levels = torch.full((b, m, 1), level, dtype=latent.dtype, device="cpu").float()
    marked, attention = state.keyframes_mask, state.attention_mask
    marks = latent.new_full((b, m, 1), keyframes, dtype=torch.float32)
    return replace(
        state,
        latent=torch.cat([state.latent, latent.to(state.latent.dtype)], dim=1),
        clean=torch.cat([state.clean, clean.to(state.clean.dtype)], dim=1),
        mask=DenoiseMask.from_dense(torch.cat([state.mask.values, levels], dim=1), state.latent.device),
        positions=torch.cat([state.positions, positions.expand(b, -1, -1, -1)], dim=-2),
        keyframes_mask=None if marked is None else torch.cat([marked, marks], dim=1),
        attention_mask=None if attention is None else grown_attention(state, m, 1.0),
    )


def grown_attention(state: LatentState, appended: int, weights: Tensor | float) -> Tensor:
    """The attention mask (b n+m n+m) of a state to which tokens are appended, in the dtype of its latent.

    The grid and the new tokens attend to each other by their weights (b m), new tokens attend to each other fully, and
    new and earlier appended tokens do not attend to each other.
    """
    b, n, _ = state.latent.shape
    grid, new = slice(state.base_tokens), slice(n, None)
    mask = state.latent.new_zeros(b, n + appended, n + appended)
    mask[:, :n, :n] = 1 if state.attention_mask is None else state.attention_mask
    mask[:, new, new] = 1
    weights = torch.as_tensor(weights).to(mask).expand(b, appended)
    mask[:, grid, new] = weights.unsqueeze(-2)
    mask[:, new, grid] = weights.unsqueeze(-1)
    return mask


def before_start(positions: Tensor) -> Tensor:
    """Move the positions of audio (1 1 t 2) before time zero, so that they do not coincide with the clip's own."""
    return positions - positions[..., -1:, 1:] - REFERENCE_GAP_S
