"""The used part of an audio file or of a clip, and the length of the result: a2v and v2a."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...grids import snap_up
from ...media.accept import check_input
from ...media.inputs import AudioSource, VideoSource
from ..request import COPY, AudioInput, ClipInput
from ..values import counted, show_time
from .basis import Basis
from .inputs import ModeInputs, read_images
from .long_clips import in_windows, until_of
from .references import settle_references
from .refusals import nothing_to_copy
from .settings import Origin, required
from .sizes import (
    LONGEST_TRAINED_S,
    ClipLength,
    beyond_training,
    choose_length,
    choose_size,
    choose_working_size,
    rate_of,
    rest_after,
    stated_duration,
)

if TYPE_CHECKING:
    from ...media.copy import Container, Span

NOTICED_S = Fraction(1, 20)  # by which kept audio may end before its video without a note: codecs store whole packets
SHORTEST_TOLD_S = Fraction(1, 200)  # what 0.01 s is told as


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPlan:
    """The use of an input audio track. input: the used part. is_copied: whether its packets are copied into the
    result.
    """

    input: AudioInput | None = None
    is_copied: bool = False
    notes: tuple[str, ...] = ()


def settle_a2v(basis: Basis, path: Path | None) -> ModeInputs:
    """The audio that a video is generated for. The result contains it, and has the fewest frames that cover it.

    Raises: RequestError if it is too long, or ends before the part starts; MediaError if it cannot be used.
    """
    settings, source = basis.settings, check_input(required(path), AudioSource)
    name, fps, start_s = source.path.name, required(settings.fps), settings.start or Fraction(0)
    until_s = until_of(basis.merged)
    rest_s, asked_s = rest_after(source, start_s), until_s or _asked_s(basis, fps)
    if asked_s is None:
        why = "longer audio needs --until, in windows, or --duration, in one piece"
        _require_short(source, start_s, rest_s, fps, why)
    duration_s = rest_s if asked_s is None else asked_s
    heard_s = min(duration_s, rest_s)
    half_sample_s = Fraction(1, 2 * source.sample_rate_hz)
    count = math.ceil((duration_s - half_sample_s) * fps)
    frames = snap_up(max(1, count), basis.frames_per_latent)
    length = ClipLength(frames=frames, fps=fps, warnings=beyond_training(count, fps, offers_windows=True))
    if until_s is not None:
        length = in_windows(basis, frames, fps)
    images, references = read_images(settings, length), settle_references(basis)
    heard_s = min(frames / fps, rest_s)
    is_part = heard_s < rest_s - half_sample_s
    given = AudioInput(role="sound", name=name, start_s=start_s, duration_s=heard_s if is_part else None)
    audio = plan_audio(basis, source, given, is_whole=not (start_s or is_part))
    covered = f"{counted(frames, 'frame')}: {float(heard_s):.2f} s of {name}"
    covered += _told_end(frames / fps - heard_s, audio)
    return ModeInputs(
        length=length,
        size=choose_size(basis.merged, basis.recipe, basis.vae, images.first_size, references.scale),
        images=images.inputs,
        references=references.images,
        audio_source=audio.input,
        files={given.role: source.path, **images.files, **references.files},
        copies_audio=audio.is_copied,
        notes=(covered, *source.notes, *audio.notes, *images.notes, *references.notes),
    )


def _told_end(short_s: Fraction, audio: AudioPlan) -> str:
    """The note about input audio that ends so much before its video."""
    if short_s < SHORTEST_TOLD_S:
        return ""
    if audio.is_copied:
        return f", which ends {float(short_s):.2f} s before the video"
    return f", then {float(short_s):.2f} s of silence"


def settle_v2a(basis: Basis, path: Path | None) -> ModeInputs:
    """The clip that audio is generated for. Its video is copied into the result; the model sees a smaller copy.

    Raises: RequestError if it is too long, ends before the part starts, or does not fit the output settings; MediaError
    if it cannot be used, or cannot be copied.
    """
    settings, source = basis.settings, check_input(required(path), VideoSource)
    fps, start_s = rate_of(source, "change its rate first"), settings.start or Fraction(0)
    rest_s, asked_s = rest_after(source, start_s), _asked_s(basis, fps)
    duration_s = rest_s if asked_s is None else min(asked_s, rest_s)
    _require_short(source, start_s, duration_s, fps, "audio cannot be generated for a longer clip at once")
    container, notes = _choose_container(basis, source)
    is_whole = not start_s and duration_s == rest_s
    if not is_whole:
        span = _choose_span(source, start_s, start_s + duration_s, container)
        start_s, duration_s = span.start_s, span.duration_s
        notes = [_told(source, span), *notes]
    length, padding = _looked_at(basis, source, duration_s, fps, is_whole=is_whole)
    return ModeInputs(
        length=length,
        size=choose_working_size(basis.merged, basis.recipe, basis.vae, (source.width, source.height)),
        source=ClipInput(
            role="clip",
            name=source.path.name,
            start_s=start_s,
            duration_s=None if is_whole else duration_s,
            reading=source.reading,
        ),
        files={"clip": source.path},
        suffix=container.suffix,
        notes=(*notes, *padding, *source.notes),
    )


def _looked_at(
    basis: Basis, source: VideoSource, duration_s: Fraction, fps: Fraction, *, is_whole: bool
) -> tuple[ClipLength, tuple[str, ...]]:
    """The frames that the model sees for a part of a clip, and a note if they are more than the part has."""
    count = max(1, round(duration_s * fps))
    frames = snap_up(count, basis.frames_per_latent)
    length = ClipLength(frames=frames, fps=fps, warnings=beyond_training(count, fps))
    if frames == count:
        return length, ()
    more = frames - count
    if is_whole:
        rest = f"the last frame {'once' if more == 1 else f'{more} times'} more"
    else:
        rest = "the frame that follows" if more == 1 else f"{more} frames that follow"
    return length, (f"{frames} frames: {count} of {source.path.name}, and {rest}",)


def _told(source: VideoSource, span: Span) -> str:
    """A note about a part that is cut out."""
    line = f"{source.path.name} is cut to {float(span.start_s):.2f} to {float(span.end_s):.2f} s"
    if span.lead_in_s:
        line += f"; the {float(span.lead_in_s):.2f} s before that are stored, but not shown"
    return line


def _asked_s(basis: Basis, fps: Fraction) -> Fraction | None:
    """The requested duration of an input, in seconds or in frames; None if it is not set."""
    merged = basis.merged
    if merged.is_asked("frames"):
        return choose_length(merged, basis.frames_per_latent, fps).frames / fps
    return stated_duration(merged) if merged.is_asked("duration") else None


def _require_short(
    source: AudioSource | VideoSource, start_s: Fraction, duration_s: Fraction, fps: Fraction, why: str
) -> None:
    """Refuse more than the models were trained for; one frame more is allowed, as 20 s are 481 frames at 24 fps."""
    longest_s = LONGEST_TRAINED_S
    if duration_s - 1 / fps > longest_s:
        what = f"{float(duration_s):.1f} s of {source.path.name} are more than {longest_s} s"
        raise RequestError(what, why, f"--start {show_time(start_s)} --duration {longest_s}s")


def plan_audio(basis: Basis, audio: AudioSource, given: AudioInput, *, is_whole: bool) -> AudioPlan:
    """Whether an input audio track is copied or encoded, with a note about it. is_whole: whether nothing of it is cut
    off.

    Raises: RequestError if it must be copied and cannot be.
    """
    from ...media.copy import LAYOUTS, PLAYED_IN_MP4, may_stand_in_mp4, rate_for  # PyAV, only for given files

    codec, name = required(basis.settings.audio_codec), audio.path.name
    is_asked, fits = basis.merged.is_asked("audio_codec"), may_stand_in_mp4(audio)
    if is_asked and codec == COPY:
        check_copy(audio, is_whole=is_whole)
    if codec == COPY or (not is_asked and is_whole and fits and audio.codec in PLAYED_IN_MP4):
        note = f"the {audio.codec} audio of {name} is copied as it is"
        return AudioPlan(input=given, is_copied=True, notes=(note,))
    before = f"{audio.sample_rate_hz} Hz, {LAYOUTS.get(audio.channels, f'{audio.channels} channels')}"
    after = f"{rate_for(codec, audio.sample_rate_hz)} Hz, {LAYOUTS.get(audio.channels, LAYOUTS[2])}"
    note = f"the {audio.codec} audio of {name} ({before}) is stored as {codec}"
    if after != before:
        note += f" ({after})"
    if is_whole and fits and not is_asked:
        note += "; --audio-codec copy keeps it as it is, which many players cannot play"
    return AudioPlan(input=given, notes=(note,))


def keep_audio(basis: Basis, audio: AudioSource, given: AudioInput, *, is_whole: bool) -> AudioPlan:
    """The same for audio that is kept with its video, as long as that: a note says if it ends earlier."""
    planned = plan_audio(basis, audio, given, is_whole=is_whole)
    length_s = required(given.duration_s)
    heard_s = min(audio.duration_s - given.start_s, length_s)
    if length_s - heard_s < NOTICED_S:
        return planned
    note = f"{audio.path.name}: {float(heard_s):.2f} s of audio" + _told_end(length_s - heard_s, planned)
    return replace(planned, notes=(*planned.notes, note))


def check_copy(audio: AudioSource, *, is_whole: bool) -> None:
    """Raises: RequestError if the packets of an audio track cannot be copied. is_whole: nothing of it is cut off."""
    from ...media.copy import may_stand_in_mp4  # PyAV, as above

    if not (is_whole and may_stand_in_mp4(audio)):
        why = f"an MP4 cannot hold its packets ({audio.codec})" if is_whole else "only a part of it is used"
        raise RequestError(f"--audio-codec copy cannot be used with {audio.path.name}", why, "--audio-codec aac")


def _choose_container(basis: Basis, clip: VideoSource) -> tuple[Container, list[str]]:
    """The container for the copied video of a clip, with the use of its audio; notes about both."""
    from ...media.copy import IN_MP4, container_for  # PyAV, as above

    settings, name = basis.settings, clip.path.name
    if settings.audio_codec == COPY:
        raise nothing_to_copy()
    keeps_audio = settings.old_sound == "second-track"
    if keeps_audio and clip.audio is None and basis.sources["old_sound"].origin is Origin.COMMAND_LINE:
        raise RequestError("--old-sound second-track cannot be used", f"{name} has no audio", "leave it out")
    container = container_for(clip, required(settings.audio_codec), keeps_audio=keeps_audio)
    notes = []
    if container != IN_MP4:
        notes.append(f"the result is a {container.suffix} file: this {clip.codec} video cannot be copied into an MP4")
    if clip.audio is not None and not keeps_audio and settings.retake is None:
        notes.append("the old audio is left out; --old-sound second-track keeps it")
    return container, notes


def _choose_span(clip: VideoSource, start_s: Fraction, end_s: Fraction, container: Container) -> Span:
    """The part of a clip that can be copied for a span of time."""
    from ...media.copy import copyable_span  # PyAV, as above

    span = copyable_span(clip, start_s, end_s)
    if span.lead_in_s and not container.has_edits:
        keyframe_s = Fraction(math.ceil((span.start_s - span.lead_in_s) * 1000), 1000)
        what = f"--start {show_time(start_s)} cannot be used with {clip.path.name}"
        why = f"a {container.suffix} file can only begin with a keyframe"
        raise RequestError(what, why, f"--start {show_time(keyframe_s)}")
    return span
