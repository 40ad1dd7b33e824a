"""The clip that `v2v --upscale` enlarges: its size and length, its audio, and the tiles and windows of the refinement.

Source: docs/upscale.md; docs/reference/pipelines.md, "Sizes and lengths".
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

from ...errors import RequestError
from ...grids import VideoGrid, snap_up
from ...media.accept import check_input
from ...media.inputs import ROUNDING_S, VideoSource
from ...sampling.distilled import DISTILLED_SIGMAS
from ...tiles import STAGE_OVERLAP, count_for
from ..recipe import Recipe
from ..request import AudioInput, ClipInput, ReferenceInput
from ..values import Size, Tiles, counted, show_fps, show_time
from .basis import Basis
from .edits import ROLE, UPSCALER
from .follow import AudioPlan, keep_audio
from .inputs import ModeInputs, left_to
from .references import clip_reference
from .settings import required
from .sizes import (
    LARGEST_SIDE,
    ClipLength,
    RenderSize,
    beyond_training,
    choose_length,
    chosen_rate,
    rest_after,
    stated_duration,
)


def settle_upscale(basis: Basis, path: Path | None) -> ModeInputs:
    """A clip that is enlarged with all its frames, and whose audio is kept.

    Raises: RequestError for a clip or options that cannot be enlarged; MediaError if the clip cannot be used.
    """
    settings, source = basis.settings, check_input(required(path), VideoSource)
    if settings.sound == "generate":
        why = "only the video is enlarged, and the audio of the clip is kept"
        raise RequestError("--sound generate cannot be used with --upscale", why, "leave it out; ltx2 v2a makes audio")
    start_s, fps = settings.start or Fraction(0), chosen_rate(basis.merged, source)
    count = _frames(basis, source, start_s, fps)
    length = ClipLength(frames=snap_up(count, basis.frames_per_latent), fps=fps, warnings=beyond_training(1, fps))
    given = ClipInput(role=ROLE, name=source.path.name, start_s=start_s, reading=source.reading)
    references = _references(basis, given)
    scale = references[0].spatial_scale if references else 1
    size = enlarged_size(basis, source.path.name, (source.width, source.height), scale)
    recipe = divided(basis, size.size, length)
    audio = _audio(basis, source, start_s, count / fps)
    return ModeInputs(
        length=length,
        kept_frames=None if count == length.frames else count,
        size=size,
        source=given,
        references=references,
        strength=_strength(basis),
        audio_source=audio.input,
        recipe=recipe,
        sound="keep" if audio.input else "off",
        files={ROLE: source.path},
        copies_audio=audio.is_copied,
        sources=left_to(basis.merged, source.path.name),
        notes=(*source.notes, _told_lora(basis), *told_parts(recipe, length), *audio.notes),
    )


def _frames(basis: Basis, source: VideoSource, start_s: Fraction, fps: Fraction) -> int:
    """How many frames of the clip are enlarged: all, unless set otherwise.

    Raises: RequestError if more are requested than there are.
    """
    merged = basis.merged
    there = max(1, math.floor((rest_after(source, start_s) + ROUNDING_S) * fps))
    if merged.is_asked("frames"):
        count = choose_length(merged, basis.frames_per_latent, fps).frames
        asked = f"--frames {count}"
    elif merged.is_asked("duration"):
        duration_s = stated_duration(merged)
        count, asked = max(1, round(duration_s * fps)), f"--duration {show_time(duration_s)}"
    else:
        return there
    if count > there:
        lasts = f"{source.path.name} lasts {float(source.duration_s):.2f} s"
        why = f"{lasts}, which is {counted(there, 'frame')} at {show_fps(fps)} fps from {float(start_s):.2f} s on"
        raise RequestError(f"{asked} cannot be used", why, f"--duration {float(there / fps):.2f}s, or leave it out")
    return count


def enlarged_size(basis: Basis, name: str, shown: Size, reference_scale: int = 1) -> RenderSize:
    """The size of the render, and that of the file: that of a clip, so many times larger.

    A clip whose sides are not multiples of the latent cell is padded at its edges, and the result is cropped
    accordingly.
    Raises: RequestError for a result that is too large.
    """
    factor = required(basis.settings.upscale)
    cell = max(basis.vae.factors.height, basis.vae.factors.width)
    step = math.lcm(basis.recipe.multiple(cell), cell * reference_scale) / factor  # for the clip's sides
    width, height = (int(math.ceil(side / step) * step * factor) for side in shown)
    file = _even(shown[0] * factor), _even(shown[1] * factor)
    becomes = f"{shown[0]}x{shown[1]} becomes {file[0]}x{file[1]}"
    if max(width, height) > LARGEST_SIDE:
        raise RequestError(f"{name} cannot be enlarged", f"{becomes}, and no side can be longer than {LARGEST_SIDE}")
    note = f"{name}: {becomes}"
    if file == (width, height) or basis.settings.crop is False:
        return RenderSize(size=(width, height), notes=(note,))
    filled = f"rendered at {width}x{height} with its edges repeated, and cut"
    return RenderSize(size=(width, height), crop=file, notes=(f"{note}, {filled}",))


def _even(side: Fraction) -> int:
    return int(side / 2) * 2


def _references(basis: Basis, given: ClipInput) -> tuple[ReferenceInput, ...]:
    """The clip as a reference, if an in-context LoRA uses it."""
    return (clip_reference(basis, given),) if _looks(basis) else ()


def _looks(basis: Basis) -> bool:
    return any(lora.file.is_in_context for lora in basis.loras)


def _told_lora(basis: Basis) -> str:
    """A note about the in-context LoRA for the clip, or that there is none."""
    if _looks(basis):
        names = ", ".join(lora.input.name for lora in basis.loras if lora.file.is_in_context)
        return f"refined with {names} looking at the clip"
    return f"refined without an in-context LoRA; {UPSCALER} is made for this, if the generation has it"


def _strength(basis: Basis) -> float | None:
    """The noise level at which the refinement starts; None for that of the recipe's list. Raises: RequestError."""
    strength, sigmas = basis.settings.strength, basis.recipe.stages[0].listed_sigmas()
    if strength is None and sigmas is None:
        return DISTILLED_SIGMAS["distilled-3"][0]
    if strength is not None and sigmas is not None and strength > sigmas[0]:
        why = f"preset {basis.preset} begins at a noise level of {sigmas[0]:g}"
        raise RequestError(f"--strength {strength:g} cannot be used", why, "leave it out, or a lower one")
    return strength


def divided(basis: Basis, size: Size, length: ClipLength) -> Recipe:
    """The recipe, with the stage divided into tiles and windows of the trained size.

    Raises: RequestError for skipped guidance steps, which need the estimate of the whole.
    """
    most_s, *most_px = required(basis.transformer.video).max_pos
    factors, asked = basis.vae.factors, basis.settings.tiles
    grid = VideoGrid(frames=length.frames, width=size[0], height=size[1], factors=factors)
    frames, rows, columns = grid.latent
    most = (
        math.floor(most_s * length.fps) // factors.time + 1,
        math.floor(most_px[0]) // factors.height,
        math.floor(most_px[-1]) // factors.width,
    )
    windows, down, across = (
        count_for(cells, max(limit, STAGE_OVERLAP + 1), STAGE_OVERLAP)
        for cells, limit in zip((frames, rows, columns), most, strict=True)
    )
    tiles: Tiles | None = asked or ((across, down) if across * down > 1 else None)
    (stage,) = basis.recipe.stages
    in_parts = stage.model_copy(update={"tiles": tiles, "windows": windows})
    if not in_parts.is_whole and stage.guided and basis.settings.skip_step:
        raise RequestError("--skip-step cannot be used here", "the video is refined in several parts", "leave it out")
    return basis.recipe.model_copy(update={"stages": (in_parts,)})


def told_parts(recipe: Recipe, length: ClipLength) -> tuple[str, ...]:
    """A note if the video is refined in parts."""
    (stage,) = recipe.stages
    if stage.is_whole:
        return ()
    across, down = stage.tiles or (1, 1)
    windows = counted(stage.windows, "window")
    seconds = f"{float(length.frames / length.fps):.1f} s"
    return (f"{seconds} are refined in {windows} of {across}x{down} tiles, blended at every step",)


def _audio(basis: Basis, source: VideoSource, start_s: Fraction, duration_s: Fraction) -> AudioPlan:
    """The audio of the clip for the enlarged frames; none if it has none.

    Raises: RequestError if there is none, and it is requested.
    """
    audio, name = source.audio, source.path.name
    if basis.settings.sound == "off":
        return AudioPlan()
    if audio is None or audio.duration_s <= start_s:
        if basis.merged.is_asked("sound"):
            raise RequestError("--sound keep cannot be used", f"{name} has no audio", "leave it out")
        return AudioPlan()
    given = AudioInput(role=ROLE, name=name, start_s=start_s, duration_s=duration_s)
    is_whole = not start_s and audio.duration_s <= duration_s + Fraction(1, 20)
    return keep_audio(basis, audio, given, is_whole=is_whole)
