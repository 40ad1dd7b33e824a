"""Frames of input clips: upright, and at a constant rate.

Source: docs/reference/pipelines.md, "Decoding video".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from math import floor

import av
from torch import Tensor

from .frames import FrameConverter
from .inputs import ROUNDING_S, VideoSource, refusal
from .shown import Shown, shown_frames

BEGINNING = Fraction(0)


def frames_by_time(source: VideoSource, count: int, fps: Fraction, start_s: Fraction = BEGINNING) -> Iterator[Tensor]:
    """Exactly `count` frames at a constant rate, (1 3 H W) uint8 each. The first one is the next to start at `start_s`.

    From a clip of that rate these are its own frames. From a clip of another rate, or of a variable one, these are the
    frames that are shown at each time, within half a frame. The last one is repeated if the clip is too short. Frames
    that are repeated are the same tensor.
    Raises: MediaError if the file is damaged, or ends before `start_s`.
    """
    if start_s >= source.duration_s:
        length = f"it lasts {float(source.duration_s):.2f} s"
        raise refusal(source.path, f"{length}, so there is nothing at {float(start_s):.2f} s")
    converter = FrameConverter(source.reading)
    last: tuple[av.VideoFrame, Tensor] | None = None
    for frame in islice(_at_constant_rate(_decode(source, start_s), fps, start_s), count):
        if last is None or last[0] is not frame:
            last = frame, converter.pixels(frame)
        yield last[1]


def frames_by_number(source: VideoSource, numbers: Collection[int]) -> Iterator[tuple[Fraction, Tensor]]:
    """Some frames (3 H W) uint8 of a clip by their index, each with its start in seconds.

    Raises: MediaError if the file is damaged.
    """
    converter = FrameConverter(source.reading)
    for number, (frame, time_s) in enumerate(shown_frames(source, None)):
        if number in numbers:
            yield time_s, converter.pixels(frame)[0]


def _decode(source: VideoSource, start_s: Fraction) -> Iterator[Shown]:
    """All frames from the one that is shown at a time, or from an earlier one."""
    if not (start_s and source.is_timed):
        return shown_frames(source, None)
    frames = shown_frames(source, start_s)
    first = next(frames, None)
    if first is None or first.time_s > start_s:  # in a file without an index, seeking is unreliable
        return shown_frames(source, None)
    return chain((first,), frames)


def _at_constant_rate(clip: Iterable[Shown], fps: Fraction, start_s: Fraction) -> Iterator[av.VideoFrame]:
    """The frame that is shown at each tick, the first tick being the start of a frame; the last frame is repeated
    endlessly.
    """
    origin_s, ticks = None, 0
    seen = None
    for frame, time_s in clip:
        if origin_s is None and time_s > start_s - ROUNDING_S:
            seen_before = max(0, floor((time_s - start_s) * fps))  # output frames with the previous frame
            origin_s = time_s - seen_before / fps
        tick = 0 if origin_s is None else floor((time_s - origin_s) * fps + Fraction(1, 2))
        for _ in range(ticks, tick):
            yield frame if seen is None else seen
        ticks = max(ticks, tick)
        seen = frame
    while seen is not None:
        yield seen
