"""Decoded audio piece by piece, each with its time: by PyAV or libsndfile, without torch.

Source: docs/reference/audio.md, "Reading a file".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from .inputs import AudioSource
from .sources import audio_stream_of, open_clip
from .wav_flac import AudioHeader, read_header, read_samples

JUMP_S = 0.02  # by which the clock of audio may deviate from its count of samples
MOST_PLANES = 8  # with as many, PyAV reads beyond its list of them, and the process crashes
RUN_UP_S = Fraction(1, 4)  # decoded before the beginning: lossy codecs need the past


class Piece(NamedTuple):
    """Samples (c s) float32, and their start: seconds after the start of their file."""

    time_s: Fraction
    sample_rate_hz: int
    samples: NDArray


def audio_pieces(
    source: AudioSource, start_s: Fraction = Fraction(0), end_s: Fraction | None = None
) -> Iterator[Piece]:
    """All pieces that overlap a time window; up to the end if none is given."""
    header = read_header(source.path)
    return _decode(source, start_s, end_s) if header is None else _read(source, header, start_s, end_s)


def _read(source: AudioSource, header: AudioHeader, start_s: Fraction, end_s: Fraction | None) -> Iterator[Piece]:
    """A time window of a WAV or FLAC file, if it contains anything."""
    rate = header.sample_rate_hz
    start = round(start_s * rate)
    end = header.samples if end_s is None else round(end_s * rate) + 1  # one more, because halves may be rounded up
    if start < header.samples:
        yield Piece(Fraction(start, rate), rate, read_samples(source.path, header, start, end - start))


def _decode(source: AudioSource, start_s: Fraction, end_s: Fraction | None) -> Iterator[Piece]:
    """All pieces that overlap a time window."""
    with open_clip(source.path) as container:
        stream = audio_stream_of(container)
        assert stream is not None
        tick_s = stream.time_base or Fraction(1)
        if start_s > RUN_UP_S:
            container.seek(int((start_s - RUN_UP_S + source.zero_s) / tick_s), stream=stream)
        time_s = (stream.start_time or 0) * tick_s - source.zero_s
        for frame in container.decode(stream):
            if frame.pts is not None:
                time_s = frame.pts * tick_s - source.zero_s
            if end_s is not None and time_s > end_s:
                return
            begin_s = time_s
            time_s += Fraction(frame.samples, frame.sample_rate)  # the time of the next frame, if it has no timestamp
            if time_s >= start_s:
                yield Piece(begin_s, frame.sample_rate, _samples(frame))


def joined(pieces: Sequence[Piece], longest_s: Fraction) -> NDArray:
    """The samples (c s) of pieces that follow one another, with silence where packets are missing between them.

    longest_s: a jump of the clock by more than that is an error of the file, and ignored.
    """
    rate = pieces[0].sample_rate_hz
    parts, end = [], pieces[0].time_s * rate
    for piece in pieces:
        missing = round(piece.time_s * rate - end)
        if JUMP_S * rate < missing <= longest_s * rate:
            parts.append(np.zeros_like(piece.samples, shape=(len(piece.samples), missing)))
            end += missing
        parts.append(piece.samples)
        end += piece.samples.shape[-1]
    return np.concatenate(parts, -1)


def _samples(frame: av.AudioFrame) -> NDArray:
    """The samples (c s) of a frame as float32 in [-1, 1]."""
    if frame.format.is_planar and frame.layout.nb_channels >= MOST_PLANES:
        (frame,) = av.AudioResampler(format=frame.format.packed).resample(frame)
    samples = frame.to_ndarray()
    if frame.format.is_packed:
        samples = rearrange(samples, "1 (s c) -> c s", c=frame.layout.nb_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype.kind == "u" else 0.0  # the reference omits this and reads silence as a constant 1
    return (samples.astype(np.float32) - np.float32(middle)) / np.float32(half)
