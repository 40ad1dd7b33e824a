"""Clips of any length (`--until`): when windows are used, their length, and what they cannot be combined with.

Source: docs/long-clips.md.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ...errors import RequestError
from ..chain import MOST_WINDOWS, Chain
from ..values import option_name, show_fps, show_time
from .basis import Basis
from .settings import COMMAND_LINE, Merged, required
from .sizes import LONGEST_TRAINED_S, ClipLength, beyond_training

DECAYS_FROM_S = 25


def until_of(merged: Merged) -> Fraction | None:
    """The length of a clip that may be made in windows; None if `--duration` or `--frames` determines it.

    Raises: RequestError if one place sets both.
    """
    until = merged.settings.until
    if until is None:
        return None
    place = merged.sources["until"]
    for name in ("duration", "frames"):
        other = merged.sources.get(name)
        if other is None or not merged.is_asked(name):
            continue
        if other == place:
            both = f"{other.spelled(name)} and {place.spelled('until')}"
            raise RequestError(f"{both} set the same value", f"both are set by {place}", "give one of them")
    return until


def length_until(basis: Basis, until_s: Fraction, fps: Fraction) -> ClipLength:
    """The length of a clip of some duration: the nearest valid number of frames, in windows if necessary.

    Raises: as `in_windows`.
    """
    frames = _nearest(until_s, fps, basis.frames_per_latent)
    length = in_windows(basis, frames, fps)
    said = f"{float(until_s):g} s at {show_fps(fps)} fps: {frames} frames"
    return ClipLength(frames=frames, fps=fps, chain=length.chain, notes=(said, *length.notes), warnings=length.warnings)


def in_windows(basis: Basis, frames: int, fps: Fraction) -> ClipLength:
    """A clip of so many frames in windows, or in one piece if it fits into one.

    Raises: RequestError for windows that cannot be used, and for options that cannot be combined with several windows.
    """
    window = _window(basis, fps)
    is_long = frames > window
    overlap = _overlap(basis, window, fps) if is_long or basis.merged.is_asked("overlap") else 0
    if not is_long:
        return ClipLength(frames=frames, fps=fps, warnings=beyond_training(frames, fps))
    chain = Chain(frames=window, overlap=overlap)
    try:
        count = chain.count(frames)
    except ValueError as error:
        what = f"--until {show_time(required(basis.settings.until))} cannot be used"
        raise RequestError(what, f"it needs more than {MOST_WINDOWS} windows", "a longer --window") from error
    for name in ("attention", "generated_keyframes"):
        if basis.sources.get(name) == COMMAND_LINE and getattr(basis.settings, name):
            what = f"{option_name(name)} cannot be used with a clip of {count} windows"
            raise RequestError(what, "it works with a single window only", "leave it out")
    seconds, shared = (f"{float(n / fps):.3g} s" for n in (chain.frames, chain.overlap))
    windows = f"{count} windows of {chain.frames} frames ({seconds})"
    note = f"{windows}, each continuing from the last {shared} of the window before"
    warnings = beyond_training(1, fps)
    if frames / fps >= DECAYS_FROM_S:
        decays = f"{float(frames / fps):.1f} s: quality is known to decay in chains of {DECAYS_FROM_S} s and more"
        warnings = (*warnings, decays)
    return ClipLength(frames=frames, fps=fps, chain=chain, notes=(note,), warnings=warnings)


def _window(basis: Basis, fps: Fraction) -> int:
    """The frames of a window, valid in every stage. Raises: RequestError for more than the model supports."""
    window_s = required(basis.settings.window)
    frames = _nearest(window_s, fps, basis.frames_per_latent)
    if (frames - 1) / fps > LONGEST_TRAINED_S:
        what = f"--window {show_time(window_s)} cannot be used"
        why = f"the model was made for clips of up to {LONGEST_TRAINED_S} s"
        raise RequestError(what, why, f"--window {LONGEST_TRAINED_S}s")
    return frames


def _overlap(basis: Basis, window: int, fps: Fraction) -> int:
    """The overlap of windows in frames: as set, or at most half of the window if only the model sets it.

    Raises: RequestError for a window without new frames.
    """
    multiple, overlap_s = basis.frames_per_latent, required(basis.settings.overlap)
    if window <= 2 * multiple:
        what = f"--window {show_time(required(basis.settings.window))} cannot be used"
        least = 2 * multiple + 1  # the first frame, the overlap, and new frames
        why = f"a window that continues another has {least} frames or more, and this has {window}"
        raise RequestError(what, why, f"--window {math.ceil(100 * least / fps) / 100:g}s")
    overlap = max(1, math.floor(overlap_s * fps / multiple + Fraction(1, 2))) * multiple
    if not basis.merged.is_asked("overlap"):
        overlap = min(overlap, max(1, window // multiple // 2) * multiple)
    if overlap >= window - 1:
        what = f"--overlap {show_time(overlap_s)} cannot be used"
        why = f"a window of {window} frames with an overlap of {overlap} has no new frames"
        raise RequestError(what, why, "a longer --window, or a shorter --overlap")
    return overlap


def _nearest(seconds: Fraction, fps: Fraction, multiple: int) -> int:
    """The nearest number of frames that is one more than a multiple, ties up."""
    return max(1, math.floor((seconds * fps - 1) / multiple + Fraction(1, 2)) * multiple + 1)
