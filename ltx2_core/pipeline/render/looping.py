"""Clips whose end connects to their beginning: denoised as a ring, which has no end, and decoded around its seam.

The latent frames from the second on represent equally many pixel frames each, and so do the audio steps from the second
on. They are arranged in a ring, and before every step the ring is rotated, so that the model sees the seam inside the
clip and never at its ends. The first latent frame and the first step, which represent less, are copies of the last.
Source: docs/loops.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...grids import AUDIO_LATENTS_PER_SECOND, MEL_FRAMES_PER_AUDIO_LATENT, MEL_HOP_SAMPLES, MEL_SAMPLE_RATE_HZ, Factors
from ...latents import Latents, LatentState, States
from ...media.waveform import Waveform
from ...sampling.denoiser import GuidedDenoiser
from ...sampling.guidance import GuidanceScales
from ...types import Streams
from ..request import AROUND

GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of this share of a turn are spread evenly for any count
AUDIO_AROUND = 12  # audio steps that are decoded before and after the ring: 0.48 s
FADE_S = 0.01  # duration of a crossfade between two pieces of audio


class Ring(NamedTuple):
    """A stream as a ring: all units of its grid, latent frames or audio steps, from the second on, or some of them.

    Args: length: in units. size: of a unit, in tokens.
    """

    length: int
    size: int

    @property
    def tokens(self) -> slice:
        """Their places in the stream."""
        return slice(self.size, self.size * (self.length + 1))

    def turned(self, units: int) -> Tensor:
        """The tokens of one round, starting at a unit: (n) int64 on the CPU."""
        return torch.arange(self.tokens.start, self.tokens.stop, device="cpu").roll(-units * self.size)

    def closed(self, estimate: Tensor, tokens: int) -> Tensor:
        """An estimate (b n c) in which the grid's own tokens before and after the ring repeat it."""
        grid = torch.arange(tokens, device=estimate.device)
        inside = (grid - self.size) % (self.length * self.size) + self.size
        return torch.cat([estimate[:, inside], estimate[:, tokens:]], dim=1)


class View(NamedTuple):
    """A stream as the model sees it. tokens: (n) int64, the indices of its tokens in the stream."""

    state: LatentState
    tokens: Tensor


@dataclass(frozen=True)
class LoopDenoiser:
    """Estimate the clean latents of rings that are rotated further at each step.

    Appended tokens are moved to their place in the rotated clip, and so is a conditioned first latent frame, as a
    single frame among the others.
    """

    denoise: GuidedDenoiser
    fps: Fraction
    factors: Factors
    _same: dict[str, Tensor] = field(default_factory=dict, init=False)  # positions, to reuse their tables

    @property
    def scales(self) -> Streams[GuidanceScales]:
        return self.denoise.scales

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        """Estimate at a noise level; steps count from 0."""
        rings = self.rings(states)
        assert rings.video is not None
        turn = int(step * GOLDEN % 1 * rings.video.length)
        steps = round(turn * self.factors.time / self.fps * Fraction(AUDIO_LATENTS_PER_SECOND))
        views = Streams(
            None if states.video is None else self.video_view(states.video, rings.video, turn),
            None if states.audio is None or rings.audio is None else self.audio_view(states.audio, rings.audio, steps),
        )
        estimates = self.denoise(views.map(lambda view: view.state), sigma, step)

        def whole(state: LatentState, view: View, estimate: Tensor, ring: Ring) -> Tensor:
            found = torch.zeros_like(state.latent, dtype=estimate.dtype)
            found[:, view.tokens] = estimate
            return ring.closed(found, state.base_tokens)

        return states.map(whole, views, estimates, rings)

    def rings(self, states: States) -> Streams[Ring]:
        """The rings of both streams: all latent frames except the first, and as many audio steps as last equally
        long.
        """
        video, audio = states
        assert video is not None
        f, h, w = video.grid
        period_s = (f - 1) * self.factors.time / self.fps
        return Streams(Ring(f - 1, h * w), None if audio is None else audio_ring(audio.grid[0], period_s))

    def video_view(self, state: LatentState, ring: Ring, turn: int) -> View:
        """One round of the video, starting at a latent frame."""
        first = range(ring.size) if state.mask.values[:, : ring.size].max() < 1 else range(0)
        along = torch.tensor(
            [*first, *range(state.base_tokens, state.latent.shape[1])], dtype=torch.int64, device="cpu"
        )
        tokens = torch.cat([ring.turned(turn), along])
        part = state.select(tokens, (ring.length, *state.grid[1:]))
        seen = self._same.setdefault("video", state.positions[:, :, ring.tokens])
        if len(along):
            seen = self._placed(state.positions, ring, along, turn)
        return View(replace(part, positions=seen), tokens.to(state.latent.device))

    def audio_view(self, state: LatentState, ring: Ring, turn: int) -> View:
        """One round of the audio, starting at a step."""
        tokens = ring.turned(turn)
        part = state.select(tokens, (ring.length,))
        heard = self._same.setdefault("audio", state.positions[:, :, ring.tokens])
        return View(replace(part, positions=heard), tokens.to(state.latent.device))

    def _placed(self, positions: Tensor, ring: Ring, along: Tensor, turn: int) -> Tensor:
        """Positions (b 3 n 2) of a rotated ring, and of the tokens that move with it."""
        moved = positions[:, :, along].clone()
        shift_s = turn * self.factors.time / float(self.fps)
        period_s = ring.length * self.factors.time / float(self.fps)
        begins = moved[:, 0, :, :1] - shift_s
        moved[:, 0] += torch.where(begins < -0.5 / float(self.fps), period_s - shift_s, -shift_s)
        return torch.cat([positions[:, :, ring.tokens], moved], dim=-2)


def audio_ring(steps: int, period_s: Fraction) -> Ring:
    """The ring of as many audio steps as last a period, from those after the first."""
    return Ring(min(round(period_s * Fraction(AUDIO_LATENTS_PER_SECOND)), steps - 1), 1)


def video_around(latent: Tensor) -> Tensor:
    """A video ring (1 c f h w) with some of its latent frames repeated on both sides, for the decoder: (1 c f' h w)."""
    return _around(latent, latent.shape[2] - 1, AROUND)


def audio_around(latent: Tensor, period_s: Fraction) -> Tensor:
    """The same for an audio ring (1 c t m), whose video lasts a period: (1 c t' m)."""
    return _around(latent, audio_ring(latent.shape[2], period_s).length, AUDIO_AROUND)


def _around(latent: Tensor, length: int, more: int) -> Tensor:
    return latent[:, :, torch.arange(-more, length + more, device=latent.device) % length + 1]


def stillest(chunks: Iterator[Tensor], among: int) -> tuple[int, Iterator[Tensor]]:
    """The index of the frame that differs least from the one before, counted from the second frame, and all frames
    again.

    Args: chunks: of frames (F 3 H W). among: how many frames are compared; no more chunks than needed are read.
    """
    held: list[Tensor] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) > among:
            break
    steps = torch.cat(held)[: among + 1].float().diff(dim=0).abs().mean((1, 2, 3))
    return int(steps.argmin()), chain(held, chunks)


def turned(audio: Waveform, time_s: Fraction) -> Waveform:
    """A loop that starts at a later time of it."""
    return replace(audio, samples=audio.samples.roll(-round(time_s * audio.sample_rate_hz), -1))


def cut_loop(audio: Waveform, steps: int, period_s: Fraction) -> Waveform:
    """The decoded samples around a ring, cut to a period whose end connects to its beginning.

    Steps of 40 ms rarely last exactly as long as the frames. The difference is cut out, or repeated, where the samples
    on both sides are most similar, so that waves are in phase.
    Args: audio: (c s). steps: of the ring.
    """
    rate_hz, fade = audio.sample_rate_hz, round(FADE_S * audio.sample_rate_hz)
    hop_s = Fraction(MEL_HOP_SAMPLES, MEL_SAMPLE_RATE_HZ)
    begin = round((AUDIO_AROUND - 1) * MEL_FRAMES_PER_AUDIO_LATENT * hop_s * rate_hz)
    ring, period = round(steps / Fraction(AUDIO_LATENTS_PER_SECOND) * rate_hz), round(period_s * rate_hz)
    samples = audio.samples[:, begin:]
    behind = samples[:, ring : ring + fade]
    cut = _without(samples[:, : ring + fade], ring - period, fade)[:, :period]
    head = _crossfade(behind, cut[:, :fade])
    return replace(audio, samples=torch.cat([head, cut[:, fade:]], dim=1))


def _without(samples: Tensor, excess: int, fade: int) -> Tensor:
    """Remove `excess` samples of (c s), or repeat `-excess` of them, where both sides of the cut are most similar."""
    if excess == 0:
        return samples
    lead = max(0, -excess) + fade  # the first fade is not changed: it connects to the end
    here = samples[:, lead : samples.shape[1] - max(0, excess)]
    there = samples[:, lead + excess :][:, : here.shape[1]]
    difference = (here - there).square().mean(0)
    place = int(F.avg_pool1d(difference[None, None], fade, 1)[0, 0].argmin()) + lead
    after = place + excess
    joint = _crossfade(samples[:, place : place + fade], samples[:, after : after + fade])
    return torch.cat([samples[:, :place], joint, samples[:, after + fade :]], dim=1)


def _crossfade(out: Tensor, into: Tensor) -> Tensor:
    """Cross-fade from samples (c s) to others over their whole length."""
    ramp = torch.linspace(0, 1, out.shape[1])
    return out * (1 - ramp) + into * ramp
