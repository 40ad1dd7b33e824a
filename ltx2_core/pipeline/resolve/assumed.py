"""What a mode starts from where a plan leaves it out: something of the size and length that the settings say."""

from __future__ import annotations

from ..request import AudioInput, ClipInput, ImageInput
from .basis import Basis
from .inputs import ModeInputs
from .length import length_of
from .settings import required
from .sizes import choose_length, choose_size

NAME = "not given"


def assumed_inputs(basis: Basis) -> ModeInputs:
    """An image, a clip with a track of audio or an audio file, whichever the mode starts from."""
    settings, kind = basis.settings, basis.mode.main
    is_free = kind == "image" or settings.until is not None
    length = length_of(basis) if is_free else choose_length(basis.merged, basis.frames_per_latent)
    image = ImageInput(role="image-1", name=NAME, frame=0, strength=1.0, crf=required(settings.image_crf))
    has_audio = kind == "audio" or settings.sound == "keep" or (kind == "video" and settings.video != "keep")
    return ModeInputs(
        length=length,
        size=choose_size(basis.merged, basis.recipe, basis.vae, None),
        images=(image,) if kind == "image" else (),
        source=ClipInput(role="clip", name=NAME) if kind == "video" else None,
        audio_source=AudioInput(role="sound", name=NAME) if has_audio else None,
        strength=settings.strength,
        notes=(f"the {kind} is left out: one of this size and length is planned for",),
    )
