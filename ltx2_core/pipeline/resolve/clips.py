"""The input clip of v2v and its edit: from settings to a request."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from ...errors import RequestError
from ...grids import AUDIO_LATENTS_PER_SECOND, snap_down
from ...media.accept import check_input
from ...media.inputs import ROUNDING_S, VideoSource
from ..recipe import Edit
from ..request import AudioInput, ClipInput, Extension, ReferenceInput, Window
from ..values import Size, counted, show_fps, show_time
from .basis import Basis
from .edits import ROLE, STRENGTH, choose_extension, choose_window, extended, regenerated_frames
from .follow import AudioPlan, keep_audio, settle_v2a
from .inputs import ModeInputs, left_to
from .long_clips import in_windows
from .looping import new_end
from .references import clip_reference
from .settings import required
from .sizes import ClipLength, beyond_training, choose_length, choose_size, chosen_rate, rest_after, stated_duration
from .upscaling import settle_upscale


def settle_v2v(basis: Basis, path: Path | None) -> ModeInputs:
    """The clip and its edit.

    Raises: RequestError for an edit that the clip is too short for; MediaError if it cannot be used.
    """
    if basis.settings.video == "keep":
        return _retake_audio(basis, path)
    if basis.edit == Edit.UPSCALE:
        return settle_upscale(basis, path)
    source = check_input(required(path), VideoSource)
    part = _Part(source, basis.settings.start or Fraction(0), _choose_part(basis, source))
    edited = _edit(basis, part)
    shown = source.width, source.height
    references = _references(basis, part)
    scale = max((reference.spatial_scale for reference in references), default=1)
    size = choose_size(basis.merged, basis.recipe, basis.vae, shown, scale)
    audio = _audio(basis, part, edited)
    return ModeInputs(
        length=edited.length,
        size=replace(size, notes=(*size.notes, *_scaling(source.path.name, shown, size.size))),
        source=None if references else part.input,
        references=references,
        strength=edited.strength,
        window=edited.window,
        extension=edited.extension,
        audio_source=audio.input,
        files={ROLE: source.path},
        copies_audio=audio.is_copied,
        sources=left_to(basis.merged, source.path.name),
        notes=(*source.notes, *edited.notes, *audio.notes),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The used part of a clip, from a time on."""

    source: VideoSource
    start_s: Fraction
    length: ClipLength

    @property
    def input(self) -> ClipInput:
        return ClipInput(role=ROLE, name=self.source.path.name, start_s=self.start_s, reading=self.source.reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edited:
    """The result of an edit. length: of the result."""

    length: ClipLength
    strength: float | None = None
    window: Window | None = None
    extension: Extension | None = None
    notes: tuple[str, ...] = ()


def _edit(basis: Basis, part: _Part) -> _Edited:
    """The edit of a request, applied to a part of a clip."""
    settings, step = basis.settings, basis.frames_per_latent
    match basis.edit:
        case Edit.RESTYLE:
            strength = settings.strength or STRENGTH
            note = f"strength {strength:g}: denoised from noise level {strength:g}"
            return _Edited(length=part.length, strength=strength, notes=(note,))
        case Edit.EXTEND:
            name = part.source.path.name
            extension = choose_extension(name, settings, part.length, step)
            length = extended(part.length, extension, name)
            if settings.until is not None:
                whole = in_windows(basis, length.frames, length.fps)
                notes = (*length.notes, *whole.notes)
                length = replace(length, chain=whole.chain, notes=notes, warnings=whole.warnings)
            return _Edited(length=length, extension=extension)
        case Edit.RETAKE:
            window = new_end(part.length, step)
            if settings.retake is not None:
                window = choose_window(part.source, settings, part.start_s, part.length, step)
            frames = regenerated_frames(window, part.length, step)
            begin, end = (
                f"{float(part.start_s + frame / part.length.fps):.2f}" for frame in (frames.start, frames.stop)
            )
            note = f"regenerated: {begin} to {end} s, {len(frames)} frames in steps of {step}"
            return _Edited(length=part.length, window=window, notes=(note,))
        case _:
            return _Edited(length=part.length)


def _references(basis: Basis, part: _Part) -> tuple[ReferenceInput, ...]:
    """The clip as a reference, if an in-context LoRA uses it."""
    if basis.edit != Edit.CONTROL:
        return ()
    return (clip_reference(basis, part.input),)


def _audio(basis: Basis, part: _Part, edited: _Edited) -> AudioPlan:
    """The use of the clip's audio: kept, a source for new audio, or not used."""
    audio = basis.settings.sound
    if audio == "keep" or (audio == "generate" and basis.edit != Edit.CONTROL):
        return _audio_beside(basis, part, edited.length, edited.extension or Extension())
    return AudioPlan()


def _audio_beside(basis: Basis, part: _Part, length: ClipLength, extension: Extension) -> AudioPlan:
    """The audio of the clip from `start_s` on; if it has none, new audio is generated.

    In a longer clip it starts at its first complete latent step, so that audio and video stay in sync.
    Raises: RequestError if there is none, and it is to be kept.
    """
    audio, name, start_s = part.source.audio, part.source.path.name, part.start_s
    keeps = basis.settings.sound == "keep"
    if audio is None or audio.duration_s <= start_s:
        if keeps:
            why = f"{name} has no audio"
            raise RequestError("--sound keep cannot be used", why, "leave it out to have audio generated")
        return AudioPlan(notes=(f"{name} has no audio; new audio is generated",))
    duration_s = length.frames / length.fps
    if extension.before or extension.after:
        steps = extension.audio_steps(length.frames, length.fps)
        rate = Fraction(AUDIO_LATENTS_PER_SECOND)
        start_s += steps.start / rate - extension.before / length.fps
        duration_s = len(steps) / rate
    given = AudioInput(role=ROLE, name=name, start_s=start_s, duration_s=duration_s)
    if not keeps:
        return AudioPlan(input=given)
    is_whole = not start_s and audio.duration_s <= duration_s + 1 / length.fps
    return keep_audio(basis, audio, given, is_whole=is_whole)


def _retake_audio(basis: Basis, path: Path | None) -> ModeInputs:
    """A span of the audio is regenerated for a clip whose video is copied."""
    dubbed = settle_v2a(basis, path)
    assert dubbed.source is not None
    source, start_s = check_input(required(path), VideoSource), dubbed.source.start_s
    window = choose_window(source, basis.settings, start_s, dubbed.length, basis.frames_per_latent)
    audio = _audio_beside(basis, _Part(source, start_s, dubbed.length), dubbed.length, Extension())
    return replace(dubbed, window=window, audio_source=audio.input, notes=(*dubbed.notes, *audio.notes))


def _choose_part(basis: Basis, source: VideoSource) -> ClipLength:
    """The used part of a clip and its frame rate: its own rate, and all of it, unless set otherwise.

    Raises: RequestError if more is requested than there is.
    """
    settings, merged, name = basis.settings, basis.merged, source.path.name
    start_s = settings.start or Fraction(0)
    rest_s, fps = rest_after(source, start_s), chosen_rate(merged, source)
    there = max(1, math.floor((rest_s + ROUNDING_S) * fps))
    most = snap_down(there, basis.frames_per_latent)
    if not (merged.is_asked("frames") or merged.is_asked("duration")):
        used = "the first" if most == 1 else f"the first {most}"
        verb = "is" if most == 1 else "are"
        notes = (f"{name}: {used} of {there} frames {verb} used",) if most < there else ()
        return ClipLength(frames=most, fps=fps, notes=notes, warnings=beyond_training(most, fps))
    length = choose_length(merged, basis.frames_per_latent, fps)
    duration = None if settings.duration is None else stated_duration(merged)
    if duration is not None and duration <= rest_s:
        length = replace(length, frames=min(length.frames, most))
    if length.frames > most:
        asked = f"--duration {show_time(duration)}" if duration else f"--frames {length.frames}"
        from_start = f" from --start {show_time(start_s)} on" if start_s else ""
        lasts = f"{name} lasts {float(source.duration_s):.2f} s"
        why = f"{lasts}, which is {counted(most, 'frame')} at {show_fps(fps)} fps{from_start}"
        raise RequestError(f"{asked} cannot be used", why, f"--frames {most}")
    return length


def _scaling(name: str, shown: Size, rendered: Size) -> tuple[str, ...]:
    """A line about a clip that is not rendered at its own size."""
    scale = max(new / old for new, old in zip(rendered, shown, strict=True))
    if scale == 1:
        return ()
    direction = "up" if scale > 1 else "down"
    return (f"{name} is scaled {direction} from {shown[0]}x{shown[1]}",)
