"""How well audio and motion of a clip agree: the lag at which onsets of the audio match changes of the video.

Source: docs/reference/sync.md.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from .inputs import AudioSource, VideoSource, refusal
from .pieces import JUMP_S, Piece, audio_pieces
from .shown import Shown, shown_frames

BINS_PER_S = 200  # resolution of both envelopes: 5 ms
WIDTH, HEIGHT = 96, 64  # size of the luma planes that are compared
FARTHEST_S = 0.5  # largest lag that is searched
SHORTEST_S = 0.5  # shortest clip that can be measured
NARROWEST_S = 0.02  # standard deviation of the blur of both envelopes, if half a frame is not longer
QUIETEST = 10 ** (-70 / 10)  # mean square of 5 ms; where none is louder, nothing is heard
FLOOR = 1e-4  # of the loudest 5 ms: changes far below it are not heard either
STATIC_CODES = 0.1  # by which pixels change on average from one frame to the next, at most, where nothing moves
CLEAR = 0.5  # confidence from which a lag counts as clear

OnFrames = Callable[[int], None]  # called with the number of frames so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """The agreement of audio and motion.

    Args: lag_s: how much later the audio comes than the motion that it belongs to, negative if earlier; in steps of 5
    ms. agreement: their correlation without a shift, -1 to 1. best: the same at the lag. confidence: that the lag is
    right, 0 to 1. frame_s: the usual frame duration, which is the precision of a lag. problem: why nothing can be
    measured, as text; the numbers before it are then None. frames, seconds: what was measured.
    """

    lag_s: float | None = None
    agreement: float | None = None
    best: float | None = None
    confidence: float | None = None
    frame_s: float | None = None
    problem: str = ""
    frames: int
    seconds: float

    @property
    def is_clear(self) -> bool:
        """Whether the lag stands out from the others."""
        return self.confidence is not None and self.confidence >= CLEAR

    @property
    def verdict(self) -> str:
        """The lag as text, or why there is none."""
        if self.lag_s is None or self.frame_s is None:
            return f"nothing can be told: {self.problem}"
        words = "the audio comes with the motion"
        if self.lag_s:
            side = "after" if self.lag_s > 0 else "before"
            words = f"the audio comes {abs(self.lag_s) * 1000:.0f} ms {side} the motion"
        if abs(self.lag_s) <= self.frame_s:
            words += f", in sync within a frame of {self.frame_s * 1000:.0f} ms"
        return words if self.is_clear else f"not clear; the best guess: {words}"


def measure_sync(video: VideoSource, audio: AudioSource, on_frames: OnFrames = lambda done: None) -> Sync:
    """Compare the audio of a clip with its motion, by presentation times.

    Frames and samples are decoded one after another; at most 1.6 kB per second are kept at 50 fps.
    Raises: MediaError if the file is damaged.
    """
    seconds = float(min(video.duration_s, audio.duration_s))
    motion = Motion.of(shown_frames(video, None), seconds, on_frames)
    facts = {"frames": len(motion.times_s) + 1, "seconds": seconds}
    if seconds < SHORTEST_S or len(motion.times_s) < 3:
        return Sync(problem=f"the clip is too short: {seconds:.2f} s", **facts)
    if motion.codes.max() < STATIC_CODES:
        return Sync(problem="the video is static", **facts)
    energy = energies(audio_pieces(audio), audio.sample_rate_hz, seconds)
    if not np.isfinite(energy).all():
        raise refusal(audio.path, "some of its samples are no numbers")
    if energy.max() < QUIETEST:
        return Sync(problem="the audio is silent", **facts)
    frame_s = float(np.median(np.diff(motion.times_s)))
    blur_s = max(NARROWEST_S, frame_s / 2)
    sound = blurred(onsets(energy), blur_s)
    rows = [blurred(row, blur_s) for row in motion.envelopes(len(energy))]
    return Sync(**_best(correlations(sound, rows), blur_s, frame_s, seconds), frame_s=frame_s, **facts)


# Audio


def energies(pieces: Iterable[Piece], sample_rate_hz: int, seconds: float) -> NDArray:
    """The mean square of the samples in each bin of 5 ms, summed over the channels."""
    energy = np.zeros(math.ceil(seconds * BINS_PER_S))
    edges = -(-np.arange(len(energy) + 1) * sample_rate_hz // BINS_PER_S)  # the first sample of each bin
    place = None
    for piece in pieces:
        told = round(piece.time_s * sample_rate_hz)
        if place is None or abs(told - place) > JUMP_S * sample_rate_hz:
            place = told
        bins = np.arange(place, place + piece.samples.shape[1]) * BINS_PER_S // sample_rate_hz
        place += len(bins)
        inside = (bins >= 0) & (bins < len(energy))
        power = np.square(piece.samples[:, inside], dtype=np.float64).sum(0)
        energy += np.bincount(bins[inside], power, len(energy))
    return energy / np.maximum(np.diff(edges), 1)


def onsets(energy: NDArray) -> NDArray:
    """How much the level rises at each bin: from the two bins before it to the two from it on, in nepers of power."""
    level = np.pad(energy, 2, "edge") + FLOOR * energy.max()
    pairs = np.log(level[:-1] + level[1:])
    return np.clip(pairs[2:-1] - pairs[:-3], 0, None)


# Motion


@dataclass(frozen=True, slots=True)
class Motion:
    """The changes from each frame of a clip to the next, a row for every frame except the first.

    Args: times_s: when it is shown. codes: mean absolute difference of luma from the frame before. brighter: the part
    of that by which pixels get brighter. skipped: the difference from the frame before that one.
    """

    times_s: NDArray
    codes: NDArray
    brighter: NDArray
    skipped: NDArray

    @classmethod
    def of(cls, shown: Iterable[Shown], seconds: float, on_frames: OnFrames = lambda done: None) -> Motion:
        """Measure the frames that are shown before a time."""
        rows = array("d")
        scaler, before, earlier = VideoReformatter(), None, None
        for number, (frame, time_s) in enumerate(shown):
            if time_s >= seconds:
                break
            small = scaler.reformat(frame, WIDTH, HEIGHT, "gray", interpolation="AREA")
            luma = small.to_ndarray().astype(np.int16)
            if before is not None:
                change = luma - before
                skipped = np.abs(luma - (before if earlier is None else earlier)).mean()
                rows.extend((float(time_s), np.abs(change).mean(), np.clip(change, 0, None).mean(), skipped))
            earlier, before = before, luma
            on_frames(number + 1)
        return cls(*np.frombuffer(rows).reshape(-1, 4).T)

    def envelopes(self, bins: int) -> list[NDArray]:
        """Changes of the video that may accompany a sound, over time: it brightens, motion starts, motion stops, motion
        reverses.

        When motion reverses, a frame differs less from the frame two before it than the two single steps together.
        """
        after = np.append(self.codes[1:], self.codes[-1:])
        skipped = np.append(self.skipped[1:], 2 * self.codes[-1:])
        starts = np.diff(self.codes, prepend=self.codes[:1])
        rows = (self.brighter, starts, self.codes - after, self.codes + after - skipped)
        places = np.clip((self.times_s * BINS_PER_S).astype(int), 0, bins - 1)
        return [np.bincount(places, np.clip(row, 0, None), bins) for row in rows]


# Both


def blurred(envelope: NDArray, deviation_s: float) -> NDArray:
    """An envelope smoothed by a Gaussian."""
    reach = round(4 * deviation_s * BINS_PER_S)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (deviation_s * BINS_PER_S)) ** 2)
    return np.convolve(envelope, weights / weights.sum())[reach : len(envelope) + reach]


def correlations(sound: NDArray, rows: Iterable[NDArray]) -> NDArray:
    """The best correlation of the audio with one of the rows, at each lag from -0.5 s to 0.5 s, in bins."""
    farthest = min(round(FARTHEST_S * BINS_PER_S), len(sound) // 2)
    found = [_correlation(sound, row, farthest) for row in rows]
    return np.max(found, axis=0)


def _correlation(sound: NDArray, row: NDArray, farthest: int) -> NDArray:
    """Pearson's correlation; bins without a partner at a lag count as average."""
    sound, row = sound - sound.mean(), row - row.mean()
    whole = math.sqrt(sound @ sound * (row @ row))
    if not whole:
        return np.zeros(2 * farthest + 1)
    padded = np.pad(sound, farthest)
    return np.array([padded[lag : lag + len(row)] @ row for lag in range(2 * farthest + 1)]) / whole


def _best(found: NDArray, blur_s: float, frame_s: float, seconds: float) -> dict[str, float]:
    """The lag with the highest correlation, and how far it stands out from those that are not its neighbours.

    The confidence is 0.5 if it stands out by as much as two such envelopes correlate by chance.
    """
    middle, best = len(found) // 2, int(found.argmax())
    near = math.ceil(4 * blur_s * BINS_PER_S)
    others = np.append(found[: max(best - near, 0)], found[best + near + 1 :])
    margin = found[best] - max(others.max(initial=0), 0)
    chance = math.sqrt(math.sqrt(2 * math.pi) * blur_s / seconds)
    frame = max(round(frame_s * BINS_PER_S), 1)
    return {
        "lag_s": (best - middle) / BINS_PER_S,
        "agreement": float(found[middle - frame : middle + frame + 1].max()),
        "best": float(found[best]),
        "confidence": float(max(margin, 0) / (max(margin, 0) + chance)),
    }
