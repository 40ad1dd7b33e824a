"""Audio as samples: fitted to its video, and converted to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Waveform:
    """A waveform.

    Args: samples: (c s) float32 in [-1, 1]; generated audio has two channels. is_given: whether it is the user's audio,
    which is stored without checks.
    """

    samples: Tensor
    sample_rate_hz: int
    is_given: bool = False

    @property
    def duration_s(self) -> Fraction:
        return Fraction(self.samples.shape[-1], self.sample_rate_hz)


def fit_waveform(audio: Waveform, duration_s: Fraction) -> Waveform:
    """Make audio exactly as long as its video: silence is added at the end, or the end is cut.

    Source: docs/cli.md, "One clock".
    """
    wanted = round(duration_s * audio.sample_rate_hz)
    samples = audio.samples[..., :wanted]
    return replace(audio, samples=functional.pad(samples, (0, wanted - samples.shape[-1])))


def to_pcm(audio: Waveform) -> Tensor:
    """The input of an encoder (c s): int16, or int32 for input audio that needs more than 16 bits."""
    if not audio.is_given:
        return to_pcm16(audio.samples)
    samples = audio.samples.double()
    codes = samples * 2**15
    if codes.equal(codes.round()) and (codes < 2**15).all():
        return codes.to(torch.int16)
    return (samples * 2**31).round().clamp(-(2**31), 2**31 - 1).to(torch.int32)


def to_pcm16(samples: Tensor) -> Tensor:
    """Samples of any shape in [-1, 1] as int16, truncated towards zero; values outside are clipped.

    Source: docs/reference/audio.md, "From samples to a file".
    """
    return (samples.clamp(-1, 1) * 32767).to(torch.int16)
