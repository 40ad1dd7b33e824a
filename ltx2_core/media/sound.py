"""Sound as samples: as long as its picture, and in the 16 bits that every format takes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from .clip import ClipShape


@dataclass(frozen=True, slots=True)
class Sound:
    """A waveform. samples: (c s) float32 in [-1, 1]; two channels in all that is made or written here."""

    samples: Tensor
    sample_rate_hz: int

    @property
    def duration_s(self) -> Fraction:
        return Fraction(self.samples.shape[-1], self.sample_rate_hz)


def fit_sound(sound: Sound, shape: ClipShape) -> Sound:
    """Make generated sound exactly as long as the frames: silence is added at the end, or the end is cut.

    Source: spec cli, "One clock".
    """
    wanted = shape.samples(sound.sample_rate_hz)
    samples = sound.samples[..., :wanted]
    return Sound(functional.pad(samples, (0, wanted - samples.shape[-1])), sound.sample_rate_hz)


def to_pcm16(samples: Tensor) -> Tensor:
    """Samples of any shape in [-1, 1] as int16, cut off towards zero; what lies outside is clipped.

    Source: spec audio, "Output".
    """
    return (samples.clamp(-1, 1) * 32767).to(torch.int16)
