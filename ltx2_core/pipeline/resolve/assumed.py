"""Substitutes for the inputs that a plan leaves out: with the size and length that the settings say."""

from __future__ import annotations

from dataclasses import replace

from ..recipe import Edit
from ..request import AudioInput, ClipInput, Extension, ImageInput
from ..values import Size, parse_size
from .basis import Basis
from .edits import choose_extension, extended
from .inputs import ModeInputs
from .length import length_of
from .long_clips import length_until
from .presets import names, read_tier
from .settings import required
from .sizes import beyond_training, choose_length, choose_size
from .upscaling import divided, enlarged_size, told_parts

NAME = "not given"


def assumed_inputs(basis: Basis) -> ModeInputs:
    """An image, a clip with an audio track or an audio file, as the mode needs."""
    settings, kind = basis.settings, basis.mode.main
    if basis.edit == Edit.UPSCALE:
        return _enlarged(basis)
    is_free = kind == "image" or (kind == "audio" and settings.until is not None)
    image = ImageInput(role="image-1", name=NAME, frame=0, strength=1.0, crf=required(settings.image_crf))
    has_audio = kind == "audio" or settings.sound == "keep" or (kind == "video" and settings.video != "keep")
    inputs = ModeInputs(
        length=length_of(basis) if is_free else choose_length(basis.merged, basis.frames_per_latent),
        size=choose_size(basis.merged, basis.recipe, basis.vae, None),
        images=(image,) if kind == "image" else (),
        source=ClipInput(role="clip", name=NAME) if kind == "video" else None,
        audio_source=AudioInput(role="sound", name=NAME) if has_audio else None,
        strength=settings.strength,
        notes=(f"the {kind} is left out: one of this size and length is planned for",),
    )
    return _extended(basis, inputs) if kind == "video" and basis.edit == Edit.EXTEND else inputs


def _extended(basis: Basis, inputs: ModeInputs) -> ModeInputs:
    """A clip of the default length that is extended, or, with a target length, that or a shorter one."""
    if basis.settings.until is None:
        extension = choose_extension("the clip", basis.settings, inputs.length, basis.frames_per_latent)
        return replace(inputs, length=extended(inputs.length, extension, "the clip"), extension=extension)
    length = length_until(basis, required(basis.settings.until), inputs.length.fps)
    kept = max(1, min(inputs.length.frames, length.frames - basis.frames_per_latent))
    note = f"the video is left out: one of this size and {float(kept / length.fps):.2f} s is planned for"
    return replace(inputs, length=length, extension=Extension(after=length.frames - kept), notes=(note,))


def _enlarged(basis: Basis) -> ModeInputs:
    """A clip of the model's own size, with audio, that is enlarged."""
    settings = basis.settings
    length = choose_length(basis.merged, basis.frames_per_latent)
    length = replace(length, warnings=beyond_training(1, length.fps))
    size = enlarged_size(basis, "the clip", _own_size(basis))
    recipe, has_audio = divided(basis, size.size, length), settings.sound != "off"
    note = "the video is left out: one of the model's own size and of this length is planned for"
    return ModeInputs(
        length=length,
        size=size,
        source=ClipInput(role="clip", name=NAME),
        audio_source=AudioInput(role="sound", name=NAME) if has_audio else None,
        sound="keep" if has_audio else "off",
        strength=settings.strength,
        recipe=recipe,
        notes=(note, *told_parts(recipe, length)),
    )


def _own_size(basis: Basis) -> Size:
    res = required(basis.settings.res).lower()
    return parse_size(read_tier(res).one_stage if res in names("tiers") else res)
