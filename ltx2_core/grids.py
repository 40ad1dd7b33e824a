"""Sizes of clips and of their latent grids. Needs no torch, so a plan can be made without it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

MEL_SAMPLE_RATE_HZ = 16000  # sample rate of the audio VAE's spectrogram, not of the vocoder's output
MEL_HOP_SAMPLES = 160
MEL_FRAMES_PER_AUDIO_LATENT = 4
AUDIO_LATENTS_PER_SECOND = MEL_SAMPLE_RATE_HZ / MEL_HOP_SAMPLES / MEL_FRAMES_PER_AUDIO_LATENT


class Factors(NamedTuple):
    """The number of pixel frames, rows and columns of a latent cell: 8, 32, 32 in the released models."""

    time: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoGrid:
    """The size of a clip in pixels. Its first latent frame represents a single pixel frame."""

    frames: int
    height: int
    width: int
    factors: Factors

    @property
    def latent(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns."""
        time, height, width = self.factors
        return (self.frames - 1) // time + 1, self.height // height, self.width // width

    @property
    def tokens(self) -> int:
        """Video tokens of the grid itself, without those that conditions append."""
        return math.prod(self.latent)


def audio_latent_count(frames: int, fps: Fraction) -> int:
    """The number of audio latent steps (= tokens) for so many pixel frames: 25 per second, ties to even.

    Source: docs/reference/audio.md, "How many audio latents".
    """
    return round(frames / float(fps) * AUDIO_LATENTS_PER_SECOND)


def audio_latents_within(start: int, end: int, fps: Fraction) -> range:
    """The audio latent steps that lie completely between the starts of two pixel frames."""
    first, last = (frame / fps * Fraction(AUDIO_LATENTS_PER_SECOND) for frame in (start, end))
    return range(math.ceil(first), math.floor(last))


def snap_down(frames: int, factor: int = 8) -> int:
    """The largest number of frames that is one more than a multiple of the factor and not above this one."""
    return (frames - 1) // factor * factor + 1


def snap_up(frames: int, factor: int = 8) -> int:
    """The smallest number of frames that is one more than a multiple of the factor and not below this one."""
    return -(-(frames - 1) // factor) * factor + 1


def frames_lasting(seconds: float, fps: float, shortest_s: float, longest_s: float, factor: int = 8) -> int:
    """The frames of a clip of about so many seconds, within bounds: one more than a multiple of the factor.

    If no such number lies between the bounds, the result is the upper bound.
    Source: docs/reference/text.md, "Duration head".
    """
    least, most = round(shortest_s * fps), round(longest_s * fps)
    frames = snap_down(min(max(round(seconds * fps), least), most), factor)
    return frames if frames >= least else min(snap_up(least, factor), most)


def evenly_spaced(count: int, frames: int) -> list[int]:
    """Frames at even distances inside a clip, without its ends; ties to even."""
    return [round(i * (frames - 1) / (count + 1)) for i in range(1, count + 1)]
