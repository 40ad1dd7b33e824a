"""Loudness of audio by EBU R128, and normalisation to a target loudness.

Source: docs/reference/audio.md, "Loudness"; EBU R128 and ITU-R BS.1770 for the measurement, which libavfilter computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import torch
from av.filter import Graph
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional

from .copy import LAYOUTS
from .shown import through
from .waveform import Waveform

CEILING_DBTP = -1.0
MARGIN_DB = 0.05  # below the ceiling: peaks are measured in thousandths, and a file has 16 bits
BLOCK_S = Fraction(2, 5)  # length of a measuring block; shorter audio has no loudness
GATE_LUFS = -70.0  # quieter blocks do not count; this is the result if none counts
TOLERANCE_LU = 0.1  # tolerance at which limiting stops; 0.5 is documented
PROMISED_LU = 0.5
ROUNDS = 12
MOST_LIMITED_DB = 12.0  # largest reduction of peaks
BLOCKS_PER_S, LOOK_AHEAD = 1000, 5  # of the limiter; its gain changes this many blocks before and after a peak
OVERSAMPLING = 4  # points per sample at which peaks are measured
TAPS = 24  # samples from which each point is interpolated


@dataclass(frozen=True, slots=True)
class Level:
    """A measured loudness. lufs: integrated, None if no block is above the gate. peak: true peak, 1 is full scale."""

    lufs: float | None
    peak: float

    @property
    def peak_dbtp(self) -> float:
        return _decibels(self.peak)


@dataclass(frozen=True, slots=True)
class Levelled:
    """Audio after normalisation. before, after: measured loudness. gain_db: the gain of its quiet parts."""

    audio: Waveform
    before: Level
    after: Level
    gain_db: float
    target_lufs: float

    @property
    def problem(self) -> str:
        """Why the target loudness was not reached, as text, or nothing."""
        asked = f"the loudness of {self.target_lufs:g} LUFS"
        if self.before.lufs is None or self.after.lufs is None:
            if self.audio.duration_s < BLOCK_S:
                return f"{asked} cannot be set: the audio lasts {float(self.audio.duration_s):.2f} s, less than 0.4 s"
            return f"{asked} cannot be set: the audio is silent"
        if abs(self.after.lufs - self.target_lufs) > PROMISED_LU:
            why = f"with peaks of {CEILING_DBTP:g} dBTP the audio comes to {self.after.lufs:.1f} LUFS"
            return f"{asked} is not reached: {why}"
        return ""

    @property
    def summary(self) -> str:
        """What was done, as text."""
        assert self.before.lufs is not None
        assert self.after.lufs is not None
        levels = f"{self.before.lufs:.1f} → {self.after.lufs:.1f} LUFS"
        return f"loudness {levels}, gain {self.gain_db:+.2f} dB, true peak {self.after.peak_dbtp:.1f} dBTP"


def measure_level(audio: Waveform) -> Level:
    """Measure audio of one, two or six channels."""
    told_every = audio.sample_rate_hz // 10  # interval of the filter's results, in samples
    samples = functional.pad(audio.samples.double(), (0, -audio.samples.shape[-1] % told_every))
    graph = Graph()
    layout = LAYOUTS[len(samples)]
    source = graph.add_abuffer(sample_rate=audio.sample_rate_hz, format="dblp", layout=layout)
    measure = graph.add("ebur128", "metadata=1:peak=true:framelog=quiet")
    graph.link_nodes(source, measure, graph.add("abuffersink"))
    graph.configure()
    told: dict[str, str] = {}
    for frame in (*_frames(samples, audio.sample_rate_hz, layout), None):
        for measured in through(graph, frame):
            told = measured.metadata or told
    lufs = float(told.get("lavfi.r128.I", GATE_LUFS))
    is_heard = audio.duration_s >= BLOCK_S and lufs > GATE_LUFS
    peak = max(
        float(told.get("lavfi.r128.true_peak", 0)), float(samples.abs().max())
    )  # the filter does not process the end
    return Level(lufs if is_heard else None, peak)


def at_loudness(audio: Waveform, target_lufs: float) -> Levelled:
    """Change the gain of audio to reach a loudness, and limit peaks above -1 dBTP.

    Limiting reduces the loudness, so the gain is raised until the measurement is right, or until peaks would be lowered
    by more than 12 dB. The same audio gives the same samples. Silence is not changed, nor is audio that is too short.
    """
    before = after = measure_level(audio)
    if before.lufs is None:
        return Levelled(audio, before, after, 0.0, target_lufs)
    gain_db, made = 0.0, audio
    most_db = CEILING_DBTP - before.peak_dbtp + MOST_LIMITED_DB
    for _ in range(ROUNDS):
        assert after.lufs is not None
        gain_db = round(min(gain_db + target_lufs - after.lufs, most_db), 2)
        made = _amplified(audio, gain_db)
        after = measure_level(made)
        if after.lufs is None or abs(after.lufs - target_lufs) <= TOLERANCE_LU or gain_db >= most_db - 0.01:
            break
    return Levelled(made, before, after, gain_db, target_lufs)


def _amplified(audio: Waveform, gain_db: float) -> Waveform:
    """Audio with a gain and no peak above the ceiling."""
    ceiling = _factor(CEILING_DBTP - MARGIN_DB)
    samples = audio.samples.double() * _factor(gain_db)
    samples = samples * limiter_gain(samples, ceiling, audio.sample_rate_hz)
    made = replace(audio, samples=samples.float())
    peak = measure_level(made).peak
    if peak > ceiling:  # the gain changes during a peak
        made = replace(made, samples=(samples * (ceiling / peak)).float())
    return made


def limiter_gain(samples: Tensor, ceiling: float, sample_rate_hz: int) -> Tensor:
    """The gain (s) in (0, 1], smooth over time and equal for all channels, that keeps samples (c s) below a peak."""
    peaks = reduce(true_peaks(samples), "c s -> s", "max")
    if float(peaks.max()) <= ceiling:
        return torch.ones_like(peaks)
    block = max(1, sample_rate_hz // BLOCKS_PER_S)
    padded = functional.pad(rearrange(peaks, "s -> 1 1 s"), (0, -len(peaks) % block))
    needed = ceiling / functional.max_pool1d(padded, block).clamp(min=ceiling)
    outside = 2 * LOOK_AHEAD + 1  # neighbouring blocks count too: the gain is interpolated between the middles
    needed = functional.pad(needed, (outside, outside), value=1.0)
    held = -functional.max_pool1d(-needed, 2 * (LOOK_AHEAD + 1) + 1, stride=1)
    weights = torch.hann_window(2 * LOOK_AHEAD + 3, periodic=False, dtype=samples.dtype)[1:-1]
    smooth = functional.conv1d(held, rearrange(weights / weights.sum(), "k -> 1 1 k"))
    gain = functional.interpolate(smooth, size=padded.shape[-1], mode="linear")
    return rearrange(gain, "1 1 s -> s")[: len(peaks)].clamp(max=1)


def true_peaks(samples: Tensor) -> Tensor:
    """The largest magnitude (c s) from each sample to the next, of samples (c s), with oversampling."""
    places = torch.arange(OVERSAMPLING, dtype=samples.dtype) / OVERSAMPLING
    offsets = torch.arange(1 - TAPS // 2, TAPS // 2 + 1, dtype=samples.dtype)
    distance = rearrange(offsets, "k -> 1 k") - rearrange(places, "p -> p 1")
    taps = torch.sinc(distance) * torch.cos(torch.pi * distance / TAPS).square()
    padded = functional.pad(rearrange(samples, "c s -> c 1 s"), (TAPS // 2 - 1, TAPS // 2))
    between = functional.conv1d(padded, rearrange(taps, "p k -> p 1 k"))
    return reduce(between.abs(), "c p s -> c s", "max")


def _frames(samples: Tensor, sample_rate_hz: int, layout: str) -> Iterator[av.AudioFrame]:
    """Samples (c s) in pieces of a second, as audio frames for the filter."""
    for start in range(0, samples.shape[-1], sample_rate_hz):
        piece = samples[:, start : start + sample_rate_hz].contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(piece, format="dblp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, start, Fraction(1, sample_rate_hz)
        yield frame


def _factor(decibels: float) -> float:
    return 10 ** (decibels / 20)


def _decibels(factor: float) -> float:
    return 20 * torch.tensor(factor).clamp(min=1e-9).log10().item()
