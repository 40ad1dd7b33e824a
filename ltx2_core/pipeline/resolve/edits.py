"""The edits of v2v: restyle, extend, retake, control.

This module resolves the edit in frames; `clips.py` resolves the request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from ...errors import MediaError, RequestError
from ...media.inputs import ROUNDING_S, VideoSource
from ...paths import in_shell
from ..recipe import Edit
from ..request import Extension, Window
from ..values import option_name, show_time
from .loras import NamedLoras
from .settings import Settings, required
from .sizes import ClipLength, beyond_training

EDITS: Mapping[str, Edit] = {  # the settings of each edit; without any of them a clip is restyled
    "strength": Edit.RESTYLE,
    "extend": Edit.EXTEND,
    "extend_before": Edit.EXTEND,
    "until": Edit.EXTEND,
    "retake": Edit.RETAKE,
    "control": Edit.CONTROL,
    "upscale": Edit.UPSCALE,
}
BESIDE_UPSCALE = (Edit.RESTYLE, Edit.CONTROL)  # these settings say how a clip is enlarged
STREAMS_REFUSED: Mapping[Edit, Mapping[str, str]] = {  # modes of the streams that an edit cannot have
    Edit.RESTYLE: {"video": "keep"},
    Edit.EXTEND: {"video": "keep", "sound": "keep"},
    Edit.RETAKE: {},
    Edit.CONTROL: {"video": "keep"},
    Edit.UPSCALE: {"video": "keep", "sound": "generate"},
}
STRENGTH = 0.7
ROLE = "clip"  # role of the clip
KEPT_SOUND = {"sound": "keep"}  # the default mode of the audio of a clip that is enlarged
UPSCALER = "pixel-upscaler"  # the in-context LoRA that looks at a clip while it is enlarged
NO_CONTROL = "off"  # value of --control that switches the default LoRA off


def edit_of(settings: Settings) -> Edit:
    """The edit of a clip.

    Raises: RequestError for several edits, or one that does not fit the modes of the streams.
    """
    asked = {edit: name for name, edit in EDITS.items() if getattr(settings, name) is not None}
    if Edit.UPSCALE in asked:
        asked = {edit: name for edit, name in asked.items() if edit not in BESIDE_UPSCALE}
    if len(asked) > 1:
        why = "v2v does one edit at a time: restyle, extend, retake, control or upscale"
        options = " and ".join(map(option_name, asked.values()))
        raise RequestError(f"{options} cannot be used together", why, "give one of them")
    if settings.loop and asked and Edit.RETAKE not in asked:
        option = option_name(next(iter(asked.values())))
        why = "--loop regenerates the end of the clip and goes with no other edit"
        raise RequestError(f"--loop and {option} cannot be used together", why, "render twice")
    edit = next(iter(asked), Edit.RETAKE if settings.loop else Edit.RESTYLE)
    grown = [option_name(name) for name in ("extend", "extend_before") if getattr(settings, name) is not None]
    if settings.until is not None and grown:
        why = "--until is the length of the whole result, with what is generated after the clip"
        raise RequestError(f"--until cannot be used with {' and '.join(grown)}", why, "give one of them")
    if edit == Edit.EXTEND and settings.sound == "keep":
        why = "the old audio ends where the new part begins"
        raise RequestError("--sound keep cannot be used when a clip is extended", why, "leave it out")
    if edit != Edit.RETAKE and settings.video == "keep":
        why = "only --retake can keep the video"
        raise RequestError("--video keep cannot be used here", why, "ltx2 v2a makes new audio for a whole clip")
    return edit


def recipe_edit(edit: Edit | None) -> Edit | None:
    """The required edit of a recipe; None if every recipe that generates a clip can be used, as for extending."""
    return None if edit == Edit.EXTEND else edit


def control_lora(settings: Settings, named: NamedLoras, edit: Edit) -> tuple[str, ...]:
    """The in-context LoRA for the clip, if there is one, as written for `--lora`: that of `--control`, or for enlarging
    the one that is made for it, if it is installed.

    Raises: RequestError for a LoRA of another kind; StorageError, CheckpointError.
    """
    if edit == Edit.UPSCALE and settings.control is None:
        return (UPSCALER,) if named.is_installed(UPSCALER, required(settings.upscale)) else ()
    if settings.control is None or (edit == Edit.UPSCALE and settings.control.lower() == NO_CONTROL):
        return ()
    if not named.choose(settings.control, "--control").read().is_in_context:
        why = "neither its header nor its name says that it is an in-context LoRA"
        what = f"--control {settings.control} cannot be used"
        raise RequestError(what, why, f"--lora {in_shell(settings.control)} applies a LoRA of another kind")
    return (settings.control,)


def choose_extension(name: str, settings: Settings, part: ClipLength, frames_per_latent: int) -> Extension:
    """How many frames are generated before and after a part of a clip: rounded to whole latent frames, ties up.

    Args: name: of the clip.
    Raises: RequestError for less than one latent frame; MediaError if the clip is too short to extend.
    """
    if part.frames <= frames_per_latent:
        why = f"extending needs {frames_per_latent + 1} frames or more, and the used part has {part.frames}"
        raise MediaError(f"{name} cannot be extended", why, "give a longer clip")

    if settings.until is not None:
        return Extension(after=_missing(name, part, settings.until, frames_per_latent))

    def frames(setting: str) -> int:
        seconds, option = getattr(settings, setting), option_name(setting)
        if seconds is None:
            return 0
        steps = math.floor(seconds * part.fps / frames_per_latent + Fraction(1, 2))
        if steps == 0:
            step_s = float(frames_per_latent / part.fps)
            least = f"a clip is extended in steps of {frames_per_latent} frames, here {step_s:.2f} s"
            raise RequestError(f"{option} {show_time(seconds)} cannot be used", least, f"{option} 2s")
        return steps * frames_per_latent

    return Extension(before=frames("extend_before"), after=frames("extend"))


def _missing(name: str, part: ClipLength, until_s: Fraction, frames_per_latent: int) -> int:
    """The number of frames that a part of a clip lacks for a duration. Raises: RequestError if it lacks none."""
    steps = math.floor((until_s * part.fps - part.frames) / frames_per_latent + Fraction(1, 2))
    if steps < 1:
        why = f"the used part of {name} lasts {float(part.frames / part.fps):.2f} s"
        raise RequestError(
            f"--until {show_time(until_s)} cannot be used", why, "a longer --until, or a shorter --duration"
        )
    return steps * frames_per_latent


def extended(part: ClipLength, extension: Extension, name: str) -> ClipLength:
    """The length of a part of a clip with the frames that are generated before and after it."""
    frames = extension.before + part.frames + extension.after
    pieces = ((extension.before, "new"), (part.frames, f"of {name}"), (extension.after, "new"))
    said = ", ".join(f"{count} {what}" for count, what in pieces if count)
    notes = (*part.notes, f"{frames} frames: {said}")
    warnings = beyond_training(frames, part.fps, offers_windows=not extension.before)
    return replace(part, frames=frames, notes=notes, warnings=warnings)


def choose_window(
    source: VideoSource, settings: Settings, start_s: Fraction, part: ClipLength, frames_per_latent: int
) -> Window:
    """The span that is regenerated, in seconds from the start of the used part, which is at `start_s`.

    Frames that were cut off to make the length valid may be included.
    Raises: RequestError for a span outside the part.
    """
    begin_s, end_s = required(settings.retake)
    part_end_s = start_s + part.frames / part.fps
    last_s = min(source.duration_s, part_end_s + frames_per_latent / part.fps)
    begins_inside = start_s <= begin_s < part_end_s
    if not begins_inside or end_s > last_s + ROUNDING_S:
        span = f"{show_time(begin_s)}-{show_time(end_s)}"
        why = f"the used part of {source.path.name} is {float(start_s):.2f} to {float(last_s):.2f} s"
        possible = show_time(begin_s if begins_inside else start_s)
        hint = f"--retake {possible}-{math.floor(last_s * 100) / 100}s"
        raise RequestError(f"--retake {span} cannot be used", why, hint)
    return Window(start_s=begin_s - start_s, end_s=end_s - start_s)


def regenerated_frames(window: Window, part: ClipLength, frames_per_latent: int) -> range:
    """The pixel frames of a part for a window, rounded to whole latent frames.

    The first latent frame represents one pixel frame, each other one the frames_per_latent that follow.
    """
    first = math.floor((window.start_s * part.fps - 1) / frames_per_latent) + 1
    last = math.ceil((window.end_s * part.fps + frames_per_latent - 1) / frames_per_latent) - 1
    return range(max(0, (first - 1) * frames_per_latent + 1), min(part.frames, last * frames_per_latent + 1))
