"""What v2v does to a clip: restyle it, extend it, make a span of it anew, or follow it. From settings to a request.

Source: spec cli, sections 1 and 3; spec pipelines, sections 2.6, 2.8 and 2.16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from ...errors import MediaError, RequestError
from ...grids import AUDIO_LATENTS_PER_SECOND, snap_down
from ...lora_file import read_lora, reference_scales
from ...media.inputs import VideoSource, check_input
from ..recipe import Edit
from ..request import (
    ClipInput,
    Extension,
    ReferenceInput,
    SoundInput,
    Window,
)
from ..values import option_name, show_fps, show_time
from .follow import choose_encoding, dub_clip
from .inputs import Inputs, split_strength
from .settings import Merged, Settings, required
from .sizes import ClipLength, Size, beyond_training, choose_length, rate_of

EDITS: Mapping[str, Edit] = {  # the settings that ask for each; a clip is restyled where none does
    "strength": Edit.RESTYLE,
    "extend": Edit.EXTEND,
    "extend_before": Edit.EXTEND,
    "retake": Edit.RETAKE,
    "control": Edit.CONTROL,
}
STRENGTH = 0.7
ROUNDING_S = Fraction(1, 1000)  # containers count in milliseconds
ROLE = "clip"


def edit_of(settings: Settings) -> Edit:
    """The one thing that is done to the clip.

    Raises: RequestError if several are asked for, or one that does not go with what is done to the streams.
    """
    asked = {edit: name for name, edit in EDITS.items() if getattr(settings, name) is not None}
    if len(asked) > 1:
        why = "a clip is restyled, extended, retaken or followed, one at a time"
        raise RequestError(
            f"{' and '.join(map(option_name, asked.values()))} cannot be used together", why, "give one of them"
        )
    edit = next(iter(asked), Edit.RESTYLE)
    if edit == Edit.EXTEND and settings.sound == "keep":
        why = "the old sound ends where the new part begins"
        raise RequestError("--sound keep cannot be used when a clip is extended", why, "leave it out")
    if edit != Edit.RETAKE and settings.video == "keep":
        why = "only a retake can leave the picture as it is"
        raise RequestError("--video keep cannot be used here", why, "ltx2 v2a makes a new sound for a whole clip")
    return edit


def recipe_edit(edit: Edit | None) -> Edit | None:
    """What a recipe does that is right for it; None where all are that make a clip, as they make the rest of one."""
    return None if edit == Edit.EXTEND else edit


def control_lora(settings: Settings) -> tuple[str, ...]:
    """The in-context LoRA of `--control`, if there is one, as it would be written after `--lora`.

    Raises: RequestError for a LoRA of another kind; StorageError, CheckpointError.
    """
    if settings.control is None:
        return ()
    path, _ = split_strength(settings.control, "--control")
    lora = read_lora(path)
    what = f"--control {settings.control} cannot be used"
    if lora.hdr_transform is not None:
        raise RequestError(what, "it makes HDR video, which is not supported yet", "use another one")
    if not lora.is_in_context:
        why = "neither its header nor its name says that it is an in-context LoRA"
        raise RequestError(what, why, f"--lora {settings.control} takes LoRAs of other kinds")
    return (settings.control,)


def add_clip(
    inputs: Inputs, path: Path, merged: Merged, frames_per_latent: int, command: str
) -> tuple[ClipLength, Size]:
    """The clip and what becomes of it, as fields of a request that has its LoRAs already.

    Args: frames_per_latent: pixel frames to a latent frame. command: the beginning of a command line, for hints.
    Returns: the length of the result, and the size of the clip.
    Raises: RequestError for what the clip is too short for; MediaError if it is of no use.
    """
    settings = merged.settings
    if settings.video == "keep":
        return retake_sound(inputs, path, merged, frames_per_latent, command)
    source, edit, fields = check_input(path, VideoSource), edit_of(settings), inputs.fields
    length = choose_part(source, merged, frames_per_latent, command)
    inputs.add(ROLE, source)
    name, start_s = source.path.name, settings.start or Fraction(0)
    left_to_it = {"fps", "duration"} & merged.sources.keys()
    inputs.sources |= {setting: name for setting in left_to_it if not merged.is_asked(setting)}
    extension = Extension()
    match edit:
        case Edit.RESTYLE:
            strength = fields["strength"] = settings.strength or STRENGTH
            inputs.notes.append(f"strength {strength:g}: denoised from a noise level of {strength:g} on")
        case Edit.EXTEND:
            extension = choose_extension(source, settings, length, frames_per_latent)
            length = extended(length, extension, name)
            fields["extension"] = extension
        case Edit.RETAKE:
            window = fields["window"] = choose_window(source, settings, start_s, length, frames_per_latent, command)
            made = made_anew(window, length, frames_per_latent)
            begin, end = (f"{float(start_s + frame / length.fps):.2f}" for frame in (made.start, made.stop))
            inputs.notes.append(f"made anew: {begin} to {end} s, {len(made)} frames in steps of {frames_per_latent}")
    if edit == Edit.CONTROL:
        spatial, temporal = reference_scales([read_lora(inputs.paths[lora.role]) for lora in fields["loras"]])
        looked_at = ReferenceInput(
            role=ROLE, name=name, start_s=start_s, spatial_scale=spatial, temporal_scale=temporal
        )
        fields["references"] = (looked_at,)
    else:
        fields["source"] = ClipInput(role=ROLE, name=name, start_s=start_s)
    if settings.sound == "keep" or (settings.sound == "generate" and edit != Edit.CONTROL):
        add_sound(inputs, source, start_s, merged, length, extension)
    return length, (source.width, source.height)


def retake_sound(
    inputs: Inputs, path: Path, merged: Merged, frames_per_latent: int, command: str
) -> tuple[ClipLength, Size]:
    """A span of the sound is made anew for a clip whose picture is copied. Args, Returns, Raises: as for add_clip."""
    length, size = dub_clip(inputs, path, merged, frames_per_latent, command)
    source, start_s = check_input(path, VideoSource), inputs.fields["source"].start_s
    inputs.fields["window"] = choose_window(source, merged.settings, start_s, length, frames_per_latent, command)
    add_sound(inputs, source, start_s, merged, length, Extension())
    return length, size


def choose_part(source: VideoSource, merged: Merged, frames_per_latent: int, command: str) -> ClipLength:
    """How much of a clip is used and at which rate: its own, and all that there is, unless asked otherwise.

    Raises: RequestError if it is asked for more than there is.
    """
    settings, name = merged.settings, source.path.name
    start_s = settings.start or Fraction(0)
    rest_s = source.duration_s - start_s
    lasts = f"{name} lasts {float(source.duration_s):.2f} s"
    if rest_s <= 0:
        raise RequestError(f"--start {show_time(start_s)} cannot be used", lasts, "--start 0s is its beginning")
    fps = required(settings.fps) if merged.is_asked("fps") else rate_of(source)
    there = max(1, math.floor((rest_s + ROUNDING_S) * fps))
    most = snap_down(there, frames_per_latent)
    if not (merged.is_asked("frames") or merged.is_asked("duration")):
        notes = (f"{name}: the first {most} of {there} frames are used",) if most < there else ()
        return ClipLength(frames=most, fps=fps, notes=notes, warnings=beyond_training(most, fps))
    length = choose_length(settings.model_copy(update={"fps": fps}), merged.sources, frames_per_latent, command)
    if settings.duration is not None and settings.duration <= rest_s:
        length = replace(length, frames=min(length.frames, most))
    if length.frames > most:
        asked = f"--duration {show_time(settings.duration)}" if settings.duration else f"--frames {length.frames}"
        from_start = f" from --start {show_time(start_s)} on" if start_s else ""
        why = f"{lasts}, which is {most} frames at {show_fps(fps)} fps{from_start}"
        raise RequestError(f"{asked} cannot be used", why, f"{command} --frames {most}")
    return length


def choose_extension(source: VideoSource, settings: Settings, part: ClipLength, frames_per_latent: int) -> Extension:
    """How many frames are made before and after a part of a clip: the nearest whole latent frames, ties up.

    Raises: RequestError for less than that; MediaError if the clip is too short to go on from.
    """
    if part.frames <= frames_per_latent:
        why = f"it takes {frames_per_latent + 1} frames or more to go on from, and what is used of it has {part.frames}"
        raise MediaError(f"{source.path.name} cannot be extended", why, "give a longer clip")

    def frames(name: str) -> int:
        seconds, option = getattr(settings, name), option_name(name)
        if seconds is None:
            return 0
        steps = math.floor(seconds * part.fps / frames_per_latent + Fraction(1, 2))
        if steps == 0:
            least = (
                f"a clip grows in steps of {frames_per_latent} frames, here {float(frames_per_latent / part.fps):.2f} s"
            )
            raise RequestError(f"{option} {show_time(seconds)} cannot be used", least, f"{option} 2s")
        return steps * frames_per_latent

    return Extension(before=frames("extend_before"), after=frames("extend"))


def extended(part: ClipLength, extension: Extension, name: str) -> ClipLength:
    """The length of a part of a clip with what is made before and after it."""
    frames = extension.before + part.frames + extension.after
    pieces = ((extension.before, "new"), (part.frames, f"of {name}"), (extension.after, "new"))
    said = ", ".join(f"{count} {what}" for count, what in pieces if count)
    notes = (*part.notes, f"{frames} frames: {said}")
    return replace(part, frames=frames, notes=notes, warnings=beyond_training(frames, part.fps))


def choose_window(
    source: VideoSource, settings: Settings, start_s: Fraction, part: ClipLength, frames_per_latent: int, command: str
) -> Window:
    """The span that is made anew, in seconds after the beginning of the part that is used, which is at `start_s`.

    Frames that were cut off to make the length legal may be named too.
    Raises: RequestError for a span outside the part.
    """
    begin_s, end_s = required(settings.retake)
    part_end_s = start_s + part.frames / part.fps
    last_s = min(source.duration_s, part_end_s + frames_per_latent / part.fps)
    if not start_s <= begin_s < part_end_s or end_s > last_s + ROUNDING_S:
        span = f"{show_time(begin_s)}-{show_time(end_s)}"
        why = f"what is used of {source.path.name} is {float(start_s):.2f} to {float(last_s):.2f} s"
        inside = (
            f"{show_time(begin_s if start_s <= begin_s < part_end_s else start_s)}-{math.floor(last_s * 100) / 100}s"
        )
        raise RequestError(f"--retake {span} cannot be used", why, f"{command} --retake {inside}")
    return Window(start_s=begin_s - start_s, end_s=end_s - start_s)


def made_anew(window: Window, part: ClipLength, frames_per_latent: int) -> range:
    """The pixel frames of a part that a window comes to, in whole latent frames.

    The first latent frame holds one pixel frame, each other one the frames_per_latent that follow.
    """
    first = math.floor((window.start_s * part.fps - 1) / frames_per_latent) + 1
    last = math.ceil((window.end_s * part.fps + frames_per_latent - 1) / frames_per_latent) - 1
    return range(max(0, (first - 1) * frames_per_latent + 1), min(part.frames, last * frames_per_latent + 1))


def add_sound(
    inputs: Inputs, source: VideoSource, start_s: Fraction, merged: Merged, length: ClipLength, extension: Extension
) -> None:
    """The sound of the clip that goes with its picture from `start_s` on; if it has none, new sound is made.

    In a longer clip it begins where its first whole latent step lies, so that sound and picture stay together.
    Raises: RequestError if there is none, and it is to be kept.
    """
    settings, name = merged.settings, source.path.name
    if source.sound is None or source.sound.duration_s <= start_s:
        if settings.sound == "keep":
            raise RequestError("--sound keep cannot be used", f"{name} has no sound", "leave it out to have sound made")
        inputs.notes.append(f"{name} has no sound; new sound is made")
        return
    duration_s = length.frames / length.fps
    if extension.before or extension.after:
        steps = extension.sound_steps(length.frames, length.fps)
        rate = Fraction(AUDIO_LATENTS_PER_SECOND)
        start_s += steps.start / rate - extension.before / length.fps
        duration_s = len(steps) / rate
    inputs.fields["sound_source"] = SoundInput(role=ROLE, name=name, start_s=start_s, duration_s=duration_s)
    if settings.sound == "keep":
        is_whole = not start_s and source.sound.duration_s <= duration_s + 1 / length.fps
        inputs.notes.append(choose_encoding(inputs, source.sound, merged, is_whole=is_whole))


def scaling(name: str, shown: Size, rendered: Size) -> tuple[str, ...]:
    """A line about a clip that is not rendered at its own size."""
    scale = max(new / old for new, old in zip(rendered, shown, strict=True))
    if scale == 1:
        return ()
    return (f"{name} is scaled {'up' if scale > 1 else 'down'} from {shown[0]}x{shown[1]}",)
