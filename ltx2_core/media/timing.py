"""The timing of the frames of a clip: a constant rate, a constant rate with missing frames, or a variable rate.

Source: docs/reference/pipelines.md, "Decoding video".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from av import Packet, VideoStream
from av.container import InputContainer

from .inputs import refusal

COMMON_RATES = [Fraction(rate) for rate in (24, 25, 30, 48, 50, 60)]
COMMON_RATES += [rate * 1000 / 1001 for rate in COMMON_RATES if rate not in (25, 50)]
NEAR = Fraction(1, 50)  # tolerance of a rate that FFmpeg finds, for common rates near it


class Timing(NamedTuple):
    """Frames and seconds of a clip.

    Args: frames: how many there are, or would be without holes. fps: their rate; the average if is_variable. holes:
    frames that are missing at a constant rate. is_variable: some frame is at least half a frame away from its time at a
    constant rate.
    """

    frames: int
    fps: Fraction
    duration_s: Fraction
    holes: int = 0
    is_variable: bool = False


def timing_of(path: Path, container: InputContainer, stream: VideoStream) -> Timing:
    """The timing of a video; its packets are read only if the header does not contain it."""
    assert stream.time_base is not None
    listed = stream.index_entries
    if stream.frames and len(listed) == stream.frames:
        times = sorted(entry.timestamp for entry in listed if not entry.is_discard)
        if fps := _constant_rate(times, stream):
            return Timing(len(times), fps, len(times) / fps)
    times, end = _shown_times(container.demux(stream))
    if not times:
        raise refusal(path, "there is not a single frame in it")
    if fps := _constant_rate(times, stream):
        return Timing(len(times), fps, len(times) / fps)
    if fps := _rate_with_holes(times, stream):
        frames = max(_slot(times, times[-1], fps * stream.time_base) + 1, _slot(times, end, fps * stream.time_base))
        return Timing(frames, fps, frames / fps, holes=frames - len(times))
    duration_s = (end - times[0]) * stream.time_base or Fraction(len(times))
    return Timing(len(times), len(times) / duration_s, duration_s, is_variable=True)


def _constant_rate(times: Sequence[int], stream: VideoStream) -> Fraction | None:
    """The rate of frames without a hole; None if there is none.

    Containers round times to ticks, Matroska to milliseconds, which affects the average: a rate whose rounded times are
    all correct is the true one.
    """
    tick_s = stream.time_base or Fraction(1)
    for rate in _candidates(stream):
        if _fits(times, rate * tick_s, fills=True):
            return rate
    average = stream.average_rate or Fraction(1)
    return average if _is_regular(times, average * tick_s) else None


def _candidates(stream: VideoStream) -> list[Fraction]:
    """Possible rates of a clip, the most likely first: those that FFmpeg finds, preceded by common ones near these."""
    found = [rate for rate in (stream.base_rate, stream.average_rate) if rate]
    common = [rate for rate in COMMON_RATES if any(abs(rate - one) < NEAR * one for one in found)]
    common.sort(key=lambda rate: min(abs(rate - one) for one in found))
    return [*dict.fromkeys([*(rate for rate in found if rate in COMMON_RATES), *common, *found])]


def _rate_with_holes(times: Sequence[int], stream: VideoStream) -> Fraction | None:
    """The rate of a clip with missing frames; it cannot be computed from the lower average."""
    tick_s = stream.time_base or Fraction(1)
    for rate in dict.fromkeys([*_candidates(stream), *COMMON_RATES]):
        if _fits(times, rate * tick_s, fills=False):
            return rate
    return None


def _fits(times: Sequence[int], frames_per_tick: Fraction, *, fills: bool) -> bool:
    """Whether all times, in ticks, are those of a rate, rounded to a tick. fills: whether no frame is missing between
    them.

    With holes, some frames must still be successive, and half of all must exist: any times would fit a rate that is
    high enough.
    """
    slots = [_slot(times, time, frames_per_tick) for time in times]
    if any(abs((time - times[0]) - slot / frames_per_tick) > 1 for time, slot in zip(times, slots, strict=True)):
        return False
    steps = {later - earlier for earlier, later in pairwise(slots)}
    if fills:
        return steps <= {1}
    return min(steps, default=1) == 1 and 2 * len(times) > slots[-1]


def _slot(times: Sequence[int], time: int, frames_per_tick: Fraction) -> int:
    return round((time - times[0]) * frames_per_tick)


def _is_regular(times: Sequence[int], frames_per_tick: Fraction) -> bool:
    """Whether times in ticks are those of a constant rate, within half a frame."""
    rate = float(frames_per_tick)
    return all(abs((time - times[0]) * rate - number) < 0.5 for number, time in enumerate(times))


def _shown_times(packets: Iterable[Packet]) -> tuple[Sequence[int], int]:
    """The start of each frame and the end of the last one, in ticks."""
    spans = sorted(
        ((packet.dts if packet.pts is None else packet.pts) or 0, packet.duration or 0)
        for packet in packets
        if packet.size and not packet.is_discard
    )
    if not spans:
        return [], 0
    (first, _), (last, length) = spans[0], spans[-1]
    return [begin for begin, _ in spans], last + (length or (last - first) // max(1, len(spans) - 1))
