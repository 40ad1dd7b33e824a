"""Input audio: as it is in its file, and resampled to rates that other steps need.

Source: docs/reference/audio.md, "Reading a file".
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .copy import rate_for
from .inputs import AudioSource, refusal
from .pieces import audio_pieces, joined
from .waveform import Waveform

MISSING_S = Fraction(1, 4)  # how much earlier than announced audio may end, because headers are rounded
COMMON_RATE_HZ = 48000
LARGEST_FILTER = 2**24  # weights: 64 MiB


def read_audio(source: AudioSource, start_s: Fraction = Fraction(0), duration_s: Fraction | None = None) -> Waveform:
    """Decode a part of an audio track at its own rate and with all its channels; up to its end if no duration is given.

    If a track starts later than `start_s`, or lacks packets, there is silence in that place. (The reference moves what
    follows to the front, out of sync with its video.)
    Raises: MediaError if the file is damaged, ends before `start_s`, or ends before its announced end.
    """
    end_s = None if duration_s is None else start_s + duration_s
    pieces = [*audio_pieces(source, start_s, end_s)]
    if not pieces:
        raise refusal(source.path, f"there is no audio at {float(start_s):.2f} s")
    time_s, rate, first = pieces[0]
    if any(piece.sample_rate_hz != rate or len(piece.samples) != len(first) for piece in pieces):
        raise refusal(source.path, "its sample rate or number of channels changes on the way")
    samples = joined(pieces, source.duration_s)
    if not np.isfinite(samples).all():
        raise refusal(source.path, "some of its samples are no numbers")
    missing = round((time_s - start_s) * rate)
    samples = np.pad(samples, ((0, 0), (missing, 0))) if missing > 0 else samples[:, -missing:]
    announced_s = source.duration_s - start_s
    if duration_s is not None:
        samples = samples[:, : round(duration_s * rate)]
        announced_s = min(announced_s, duration_s)
    audio = Waveform(torch.from_numpy(samples), rate, is_given=True)
    if audio.duration_s + MISSING_S < announced_s:
        end = f"{float(start_s + audio.duration_s):.2f} of {float(source.duration_s):.2f} s"
        raise refusal(
            source.path, f"its audio breaks off after {end}", "--start and --duration select the part that exists"
        )
    return audio


def at_workable_rate(audio: Waveform, target_hz: int) -> Waveform:
    """The same audio if it can be resampled to a target rate by a filter of reasonable size, else at 48 kHz.

    The filter has a row of weights for each phase between the two rates: for 44,099 Hz and 16,000 Hz, which have no
    common divisor, that would be gigabytes.
    """
    common = math.gcd(audio.sample_rate_hz, target_hz)
    filter_size = audio.sample_rate_hz // common * (target_hz // common)
    return audio if filter_size <= LARGEST_FILTER else _resample(audio, COMMON_RATE_HZ)


def at_rate_of(codec: str, audio: Waveform) -> Waveform:
    """The same audio at a rate that an encoder supports."""
    rate_hz = rate_for(codec, audio.sample_rate_hz)
    return audio if rate_hz == audio.sample_rate_hz else _resample(audio, rate_hz)


def _resample(audio: Waveform, sample_rate_hz: int) -> Waveform:
    """Resample, channel by channel."""
    length = round(audio.duration_s * sample_rate_hz)
    channels = [_resample_channel(channel, audio.sample_rate_hz, sample_rate_hz, length) for channel in audio.samples]
    return replace(audio, samples=torch.stack(channels), sample_rate_hz=sample_rate_hz)


def _resample_channel(channel: Tensor, rate_hz: int, new_rate_hz: int, length: int) -> Tensor:
    """Samples (s) at another rate, exactly as many as asked."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate_hz)
    frame = av.AudioFrame.from_ndarray(rearrange(channel, "s -> 1 s").numpy(), format="fltp", layout="mono")
    frame.sample_rate = rate_hz
    pieces = [piece.to_ndarray() for part in (frame, None) for piece in resampler.resample(part)]
    samples = torch.from_numpy(np.concatenate(pieces, -1))[0, :length]
    return torch.nn.functional.pad(samples, (0, length - len(samples)))
