"""The part of a sound or of a clip that a render goes along with, and the length that follows: a2v and v2a.

Source: spec cli, sections 1, 3 and 4; spec pipelines, sections 2.7 and 2.15.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...grids import snap_up
from ...media.inputs import SoundSource, VideoSource, check_input
from ..request import (
    COPY,
    ClipInput,
    SoundInput,
)
from ..values import show_time
from .inputs import Inputs
from .settings import COMMAND_LINE, Merged, required
from .sizes import LONGEST_TRAINED_S, ClipLength, Size, beyond_training, choose_length, rate_of

if TYPE_CHECKING:
    from ...media.copy import Container, Span

SHORTEST_TOLD_S = Fraction(1, 200)  # what 0.01 s is told as


def follow_sound(inputs: Inputs, path: Path, merged: Merged, frames_per_latent: int, command: str) -> ClipLength:
    """The sound that a picture is made for, as fields of a request. It is heard in the result.

    Args: frames_per_latent: pixel frames to a latent frame. command: the beginning of a command line, for hints.
    Returns: the fewest frames that cover it, or the part of it that is asked for.
    Raises: RequestError if it is too long, or over where the part begins; MediaError if it is of no use.
    """
    settings, source = merged.settings, check_input(path, SoundSource)
    name, fps, start_s = source.path.name, required(settings.fps), settings.start or Fraction(0)
    rest_s, asked_s = _rest_s(source, start_s), _asked_s(merged, required(settings.fps), frames_per_latent, command)
    if asked_s is None:
        _require_short(source, start_s, rest_s, fps, "a longer clip is made only if --duration asks for it", command)
    duration_s = rest_s if asked_s is None else asked_s
    heard_s = min(duration_s, rest_s)
    count = math.ceil((duration_s - Fraction(1, 2 * source.sample_rate_hz)) * fps)
    frames = snap_up(max(1, count), frames_per_latent)
    silent_s = frames / fps - heard_s
    silence = f", then {float(silent_s):.2f} s of silence" if silent_s >= SHORTEST_TOLD_S else ""
    notes = [f"{frames} frames: {float(heard_s):.2f} s of {name}{silence}"]
    given = inputs.add("sound", source)
    inputs.fields["sound_source"] = SoundInput(
        **given, start_s=start_s, duration_s=duration_s if duration_s < rest_s else None
    )
    notes.append(choose_encoding(inputs, source, merged, is_whole=not start_s and duration_s >= rest_s))
    return ClipLength(frames=frames, fps=fps, notes=tuple(notes), warnings=beyond_training(count, fps))


def dub_clip(
    inputs: Inputs, path: Path, merged: Merged, frames_per_latent: int, command: str
) -> tuple[ClipLength, Size]:
    """The clip that a sound is made for, as fields of a request. Its picture is copied into the result.

    Args: as for follow_sound.
    Returns: the length of the copy that the model looks at, and the size of the clip.
    Raises: RequestError if it is too long, over where the part begins, or does not go with the settings of the output;
    MediaError if it is of no use, or cannot be copied.
    """
    settings, source = merged.settings, check_input(path, VideoSource)
    name, fps, start_s = source.path.name, rate_of(source, "change its rate first"), settings.start or Fraction(0)
    rest_s, asked_s = _rest_s(source, start_s), _asked_s(merged, fps, frames_per_latent, command)
    duration_s = rest_s if asked_s is None else min(asked_s, rest_s)
    _require_short(source, start_s, duration_s, fps, "sound is made for no longer clip at once", command)
    container, notes = _choose_container(inputs, source, merged)
    given = inputs.add("clip", source)
    is_whole = not start_s and duration_s == rest_s
    if not is_whole:
        span = _choose_span(source, start_s, start_s + duration_s, container, command)
        start_s, duration_s = span.start_s, span.duration_s
        lead_in = f"; the {float(span.lead_in_s):.2f} s before that are stored, but not shown" if span.lead_in_s else ""
        notes.insert(0, f"{name} is cut to {float(span.start_s):.2f} to {float(span.end_s):.2f} s{lead_in}")
    inputs.fields["source"] = ClipInput(**given, start_s=start_s, duration_s=None if is_whole else duration_s)
    count = max(1, round(duration_s * fps))
    frames = snap_up(count, frames_per_latent)
    if more := frames - count:
        rest = f"the last one {more} times more" if is_whole else f"{more} that follow"
        notes.append(f"{frames} frames: {count} of {name}, and {rest}")
    length = ClipLength(frames=frames, fps=fps, notes=tuple(notes), warnings=beyond_training(count, fps))
    return length, (source.width, source.height)


def _rest_s(source: SoundSource | VideoSource, start_s: Fraction) -> Fraction:
    """How much there is from a time on."""
    if start_s >= source.duration_s:
        lasts = f"{source.path.name} lasts {float(source.duration_s):.2f} s"
        raise RequestError(f"--start {show_time(start_s)} cannot be used", lasts, "--start 0s is its beginning")
    return source.duration_s - start_s


def _asked_s(merged: Merged, fps: Fraction, frames_per_latent: int, command: str) -> Fraction | None:
    """How much of an input a person asks for, in seconds or in frames; None where nobody does."""
    settings = merged.settings
    if merged.is_asked("frames"):
        return (
            choose_length(settings.model_copy(update={"fps": fps}), merged.sources, frames_per_latent, command).frames
            / fps
        )
    return settings.duration if merged.is_asked("duration") else None


def _require_short(
    source: SoundSource | VideoSource, start_s: Fraction, duration_s: Fraction, fps: Fraction, why: str, command: str
) -> None:
    """Refuse more than the models were made for; one frame more counts as none, as 20 s are 481 frames at 24 fps."""
    longest_s = LONGEST_TRAINED_S
    if duration_s - 1 / fps > longest_s:
        what = f"{float(duration_s):.1f} s of {source.path.name} are more than {longest_s} s"
        raise RequestError(what, why, f"{command} --start {show_time(start_s)} --duration {longest_s}s")


def choose_encoding(inputs: Inputs, sound: SoundSource, merged: Merged, *, is_whole: bool) -> str:
    """Whether a given sound is copied, unless somebody wants another codec; a line about what becomes of it."""
    from ...media.copy import LAYOUTS, may_stand_in_mp4, rate_for  # PyAV, which only a request with files needs

    codec, name = required(merged.settings.audio_codec), sound.path.name
    is_wanted = codec == sound.codec or not merged.is_asked("audio_codec")
    if is_whole and is_wanted and may_stand_in_mp4(sound):
        inputs.output["audio_codec"] = COPY
        return f"the {sound.codec} sound of {name} is copied as it is"
    given = f"{sound.sample_rate_hz} Hz, {LAYOUTS.get(sound.channels, f'{sound.channels} channels')}"
    stored = f"{rate_for(codec, sound.sample_rate_hz)} Hz, {LAYOUTS.get(sound.channels, LAYOUTS[2])}"
    return f"the sound of {name} ({given}) is stored as {codec}" + (f" ({stored})" if stored != given else "")


def _choose_container(inputs: Inputs, clip: VideoSource, merged: Merged) -> tuple[Container, list[str]]:
    """Where the picture of a clip can be copied to, with what becomes of its sound; lines about both."""
    from ...media.copy import IN_MP4, container_for  # PyAV, as above

    settings, name = merged.settings, clip.path.name
    keeps_sound = settings.old_sound == "second-track"
    if keeps_sound and clip.sound is None and merged.sources["old_sound"] == COMMAND_LINE:
        raise RequestError("--old-sound second-track cannot be used", f"{name} has no sound", "leave it out")
    container = container_for(clip, required(settings.audio_codec), keeps_sound=keeps_sound)
    inputs.suffix = container.suffix
    notes = []
    if container != IN_MP4:
        notes.append(f"the result is a {container.suffix} file: {clip.codec} as it is here cannot stand in an MP4")
    if clip.sound is not None and not keeps_sound and settings.retake is None:
        notes.append("the old sound is left out; --old-sound second-track keeps it")
    return container, notes


def _choose_span(clip: VideoSource, start_s: Fraction, end_s: Fraction, container: Container, command: str) -> Span:
    """The part of a clip that can be copied for a span of time."""
    from ...media.copy import copyable_span  # PyAV, as above

    span = copyable_span(clip, start_s, end_s)
    if span.lead_in_s and not container.has_edits:
        keyframe_s = Fraction(math.ceil((span.start_s - span.lead_in_s) * 1000), 1000)
        what = f"--start {show_time(start_s)} cannot be used with {clip.path.name}"
        why = f"a {container.suffix} file can only begin with a keyframe"
        raise RequestError(what, why, f"{command} --start {show_time(keyframe_s)}")
    return span
