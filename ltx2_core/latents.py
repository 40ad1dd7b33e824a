"""Latents as the denoiser sees them: tokens, their positions in time and space, and their conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from .grids import MEL_FRAMES_PER_AUDIO_LATENT, MEL_HOP_SAMPLES, MEL_SAMPLE_RATE_HZ, Factors
from .types import Streams

NO_TIME = Fraction(0)


def patchify_video(latent: Tensor) -> Tensor:
    """Turn a latent grid (b c f h w) into tokens (b n c), time-major, one token per cell."""
    return rearrange(latent, "b c f h w -> b (f h w) c")


def unpatchify_video(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """Turn tokens (b n c) back into a latent grid (b c f h w) of so many frames, rows and columns."""
    f, h, w = shape
    return rearrange(tokens, "b (f h w) c -> b c f h w", f=f, h=h, w=w)


def patchify_audio(latent: Tensor) -> Tensor:
    """Turn an audio latent (b c t m) into tokens (b t c*m), one per time step, channel-major."""
    return rearrange(latent, "b c t m -> b t (c m)")


def unpatchify_audio(tokens: Tensor, channels: int = 8) -> Tensor:
    """Turn audio tokens (b t c*m) back into a latent (b c t m)."""
    return rearrange(tokens, "b t (c m) -> b c t m", c=channels)


def _cell_bounds(shape: Sequence[int], factors: Factors) -> Tensor:
    """Where each cell of a grid (f, h, w) starts and ends, in whole pixels: (3 n 2), the time axis not yet causal."""
    starts = torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in shape))  # (n 3), columns fastest
    bounds = torch.stack([starts, starts + 1], dim=-1) * torch.tensor(factors, device="cpu").unsqueeze(-1)
    return rearrange(bounds, "n a side -> a n side")


def _causal(time: Tensor, factor: int) -> Tensor:
    """Shift time bounds so that the first latent frame covers only the first pixel frame."""
    return (time + 1 - factor).clamp(min=0)


def _time_in_seconds(bounds: Tensor, fps: Fraction) -> Tensor:
    """Bounds in pixels (3 n 2) as float32 positions (1 3 n 2); integers until the single division."""
    time, *space = bounds.float()
    return torch.stack([time / float(fps), *space]).unsqueeze(0)


def video_positions(shape: Sequence[int], fps: Fraction, factors: Factors) -> Tensor:
    """Start and end of each video token of a latent grid (f, h, w).

    Returns: (1 3 n 2) float32: seconds, pixel row, pixel column. It stays float32 in a bfloat16 model.
    Source: docs/reference/transformer.md, "Token positions".
    """
    bounds = _cell_bounds(shape, factors)
    bounds[0] = _causal(bounds[0], factors.time)
    return _time_in_seconds(bounds, fps)


def keyframe_positions(
    shape: Sequence[int], frame: int, fps: Fraction, factors: Factors, *, pixel_frames: int = 1
) -> Tensor:
    """Positions of a latent (f, h, w) of so many pixel frames whose first frame is at a pixel frame of the clip.

    Returns: (1 3 n 2) float32 as in `video_positions`. One pixel frame spans [frame, frame + 1).
    Source: docs/reference/sampling.md, "Positions of appended tokens".
    """
    bounds = _cell_bounds(shape, factors)
    if frame == 0:
        bounds[0] = _causal(bounds[0], factors.time)
    start, end = bounds[0].unbind(-1)
    bounds[0] = frame + torch.stack([start, start + 1 if pixel_frames == 1 else end], dim=-1)
    return _time_in_seconds(bounds, fps)


def reference_positions(
    shape: Sequence[int], fps: Fraction, factors: Factors, *, spatial_scale: int = 1, temporal_scale: int = 1
) -> Tensor:
    """Positions of a reference clip (f, h, w), scaled to a result that is larger and has more frames.

    Returns: (1 3 n 2) float32 as in `video_positions`.
    Source: docs/reference/sampling.md, "Positions of appended tokens".
    """
    seconds, *pixels = video_positions(shape, fps / temporal_scale, factors)[0]
    lead = (temporal_scale - 1) * (
        1 / torch.tensor(float(fps), device="cpu")
    )  # the first latent frame stands for one frame of the other clip
    return torch.stack([(seconds - lead).clamp(min=0), *(axis * spatial_scale for axis in pixels)]).unsqueeze(0)


def audio_positions(count: int, shift: int = 0, begin_s: Fraction = NO_TIME) -> Tensor:
    """Start and end in seconds of each audio token: (1 1 t 2) float32, starting at latent step `shift`.

    Args: begin_s: the time that counts as zero; a step that starts before it is cut to start there.
    Source: docs/reference/transformer.md, "Token positions".
    """
    starts = torch.arange(shift, shift + count, dtype=torch.float32, device="cpu")
    mel_frames = _causal(
        torch.stack([starts, starts + 1], dim=-1) * MEL_FRAMES_PER_AUDIO_LATENT, MEL_FRAMES_PER_AUDIO_LATENT
    )
    begin = float(begin_s * MEL_SAMPLE_RATE_HZ / MEL_HOP_SAMPLES)
    seconds = (mel_frames - begin).clamp(min=0) * MEL_HOP_SAMPLES / MEL_SAMPLE_RATE_HZ
    return rearrange(seconds, "t side -> 1 1 t side")


def to_denoised(noisy: Tensor, velocity: Tensor, timesteps: Tensor | float) -> Tensor:
    """The clean estimate x0 = x − timestep × v, computed in float32, in the dtype of the noisy latent."""
    return (noisy.float() - velocity.float() * timesteps).to(noisy.dtype)


def to_velocity(noisy: Tensor, denoised: Tensor, sigma: float) -> Tensor:
    """The velocity v = (x − x0) / sigma, in float32, rounded to the dtype of the noisy latent. Needs sigma > 0."""
    return ((noisy.float() - denoised.float()) / sigma).to(noisy.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseMask:
    """How much of each token is generated, 1 for all and 0 for nothing.

    Modulation is computed once per distinct level instead of once per token, so the number of levels is part of a
    shape. It is computed on the CPU, where conditions change the values, so that the device need not be synchronised.

    Args: values: (b n 1) float32, on the CPU. levels: (k) float32, the distinct ones. index: (b n) int64 into the
    levels, None if there is only one. Both are on the device of the latent.
    """

    values: Tensor
    levels: Tensor
    index: Tensor | None

    @classmethod
    def full(cls, shape: tuple[int, int], level: float, device: torch.device | str = "cpu") -> Self:
        """The same level everywhere."""
        values = torch.full((1, 1, 1), level, dtype=torch.float32, device="cpu")
        return cls(values=values.expand(*shape, 1), levels=values.flatten().to(device), index=None)

    @classmethod
    def from_dense(cls, values: Tensor, device: torch.device | str = "cpu") -> Self:
        """Find the levels of a mask (b n 1). device: of the latent."""
        values = values.float().cpu()
        levels, index = torch.unique(rearrange(values, "b n 1 -> b n"), return_inverse=True)
        return cls(values=values, levels=levels.to(device), index=index.to(device) if len(levels) > 1 else None)

    @property
    def shape(self) -> tuple[int, int]:
        """Batch and tokens."""
        b, n, _ = self.values.shape
        return b, n

    @property
    def dense(self) -> Tensor:
        """The mask of every token: (b n 1) float32, on the device of the latent."""
        tokens = self.levels.expand(self.shape) if self.index is None else self.levels[self.index]
        return tokens.unsqueeze(-1)

    def select(self, tokens: Tensor) -> Self:
        """The mask of some tokens (m), int64 on the CPU, with the levels of all."""
        index = None if self.index is None else self.index[:, tokens.to(self.index.device)]
        return replace(self, values=self.values[:, tokens], index=index)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentState:
    """One stream between noise and latent: the tokens of its grid, then those that conditions appended.

    Args: grid: (f, h, w) of video, (t,) of audio; its tokens come first. latent: (b n c), noisy. clean: (b n c), the
    conditioning latents; used where the mask is below 1. positions: (b axes n 2) float32, on the CPU wherever the
    latent is. attention_mask: (b n n) in [0, 1], None if every token attends to every other. keyframes_mask: (b n 1)
    float32, 1 on tokens of a latent frame with a single pixel frame; None for audio. is_frozen: nothing changes in this
    stage. slot_tokens: those of the keyframes that the model generates. origin_s: the time in the whole clip at which
    positions start; not 0 in a window of it.

    Source: docs/reference/sampling.md, "Latent state".
    """

    grid: tuple[int, ...]
    latent: Tensor
    clean: Tensor
    mask: DenoiseMask
    positions: Tensor
    attention_mask: Tensor | None = None
    keyframes_mask: Tensor | None = None
    is_frozen: bool = False
    slot_tokens: range = range(0)
    origin_s: float = 0.0

    @classmethod
    def video(cls, latent: Tensor, fps: Fraction, factors: Factors) -> Self:
        """Start from a latent grid (b c f h w); use zeros to start from noise only."""
        b, _, f, h, w = latent.shape
        state = cls._initial((f, h, w), patchify_video(latent), video_positions((f, h, w), fps, factors))
        is_first_frame = torch.arange(f * h * w, device=latent.device) < h * w
        return replace(state, keyframes_mask=is_first_frame.float().view(1, -1, 1).expand(b, -1, 1))

    @classmethod
    def audio(cls, latent: Tensor, first: int = 0, begin_s: Fraction = NO_TIME) -> Self:
        """Start from an audio latent (b c t m); use zeros to start from noise only.

        Args: first: its first latent step. begin_s: the time that counts as zero.
        """
        t = latent.shape[2]
        return cls._initial((t,), patchify_audio(latent), audio_positions(t, first, begin_s))

    @classmethod
    def _initial(cls, grid: tuple[int, ...], tokens: Tensor, positions: Tensor) -> Self:
        b, n, _ = tokens.shape
        return cls(
            grid=grid,
            latent=tokens,
            clean=tokens,
            mask=DenoiseMask.full((b, n), 1.0, tokens.device),
            positions=positions.expand(b, -1, -1, -1),
        )

    @property
    def base_tokens(self) -> int:
        """Tokens of the grid itself. Appended tokens follow them."""
        return prod(self.grid)

    @property
    def base(self) -> Tensor:
        """The latent of the grid's own tokens (b n c): the result after denoising."""
        return self.latent[:, : self.base_tokens]

    @property
    def slots(self) -> Tensor:
        """The keyframes that the model generated: (b c k h w), each a clip of a single frame."""
        _, h, w = self.grid
        tokens = self.latent[:, self.slot_tokens.start : self.slot_tokens.stop]
        return unpatchify_video(tokens, (len(self.slot_tokens) // (h * w), h, w))

    def with_latent(self, latent: Tensor) -> Self:
        """The same state with other noisy tokens (b n c), converted to the dtype of the present ones."""
        return replace(self, latent=latent.to(self.latent.dtype))

    def select(self, tokens: Tensor, grid: tuple[int, ...]) -> Self:
        """The state of some tokens (m), int64 on the CPU, of which those of a grid come first."""
        here, attention, keyframes = tokens.to(self.latent.device), self.attention_mask, self.keyframes_mask
        return replace(
            self,
            grid=grid,
            latent=self.latent[:, here],
            clean=self.clean[:, here],
            mask=self.mask.select(tokens),
            positions=self.positions[:, :, tokens],
            attention_mask=None if attention is None else attention[:, here][:, :, here],
            keyframes_mask=None if keyframes is None else keyframes[:, here],
        )

    def freeze(self) -> Self:
        """Keep every token unchanged; the other stream still attends to this one."""
        return replace(self, mask=DenoiseMask.full(self.mask.shape, 0.0, self.latent.device), is_frozen=True)

    def unique_timesteps(self, sigma: float) -> Tensor:
        """The distinct timesteps of the tokens: (k) float32, indexed as the mask's levels are."""
        return self.mask.levels * sigma

    def timesteps(self, sigma: float) -> Tensor:
        """The timestep of every token: (b n 1) float32."""
        return self.mask.dense * sigma

    def stream_sigma(self, sigma: float) -> Tensor:
        """The noise level of the whole stream: (b) float32, 0 if it is frozen."""
        level = 0.0 if self.is_frozen else sigma
        return torch.full(self.latent.shape[:1], level, dtype=torch.float32, device=self.latent.device)

    def keep_given(self, denoised: Tensor) -> Tensor:
        """Blend the conditioning latents into a clean estimate (b n c), according to the mask; keeps the estimate's
        dtype.
        """
        mask = self.mask.dense
        return (denoised * mask + self.clean.float() * (1 - mask)).to(denoised.dtype)

    def euler_step(self, denoised: Tensor, sigma: float, sigma_next: float) -> Self:
        """One Euler step from the noisy latent through a clean estimate (b n c), from one noise level to the next.

        The velocity is rounded to the latent's dtype before the step, as in the reference; in bfloat16 this makes a
        difference.
        """
        velocity = to_velocity(self.latent, denoised, sigma)
        return self.with_latent(self.latent.float() + velocity.float() * (sigma_next - sigma))


Latents = Streams[Tensor]
States = Streams[LatentState]
