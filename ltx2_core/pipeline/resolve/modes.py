"""The modes as a table: the input of each, the possible modes of its streams, and the function that resolves its
inputs.

A new mode is a function that resolves it, a row here, and a row in the command line's own table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import RequestError
from ..values import did_you_mean
from .basis import Basis, Mode
from .clips import settle_v2v
from .follow import settle_a2v, settle_v2a
from .inputs import ModeInputs, read_images
from .length import keyframes_within, length_of, require_known_times
from .references import settle_references
from .sizes import choose_size


def settle_t2v(basis: Basis, path: Path | None) -> ModeInputs:
    """Only settings, and optional images."""
    return _settle_from_images(basis, path, follows_image=False)


def settle_i2v(basis: Basis, path: Path | None) -> ModeInputs:
    """An image at the first frame, whose aspect ratio the clip takes, and optional further images."""
    return _settle_from_images(basis, path, follows_image=True)


def _settle_from_images(basis: Basis, path: Path | None, *, follows_image: bool) -> ModeInputs:
    length = length_of(basis)
    images = read_images(basis.settings, length, path)
    require_known_times(basis, length, images.inputs)
    shown, references = images.first_size if follows_image else None, settle_references(basis)
    return ModeInputs(
        length=length,
        size=choose_size(basis.merged, basis.recipe, basis.vae, shown, references.scale),
        images=images.inputs,
        references=references.images,
        voice=references.voice,
        generated_keyframes=keyframes_within(basis, length),
        files={**images.files, **references.files},
        notes=(*images.notes, *references.notes),
    )


TABLE = (
    Mode(name="t2v", video=("generate", "off"), audio=("generate", "off"), settle=settle_t2v, takes_references=True),
    Mode(
        name="i2v",
        video=("generate",),
        audio=("generate", "off"),
        settle=settle_i2v,
        takes_references=True,
        main="image",
    ),
    Mode(
        name="v2v",
        video=("generate", "keep"),
        audio=("generate", "keep", "off"),
        settle=settle_v2v,
        edits=True,
        main="video",
    ),
    Mode(name="a2v", video=("generate",), audio=("keep",), settle=settle_a2v, takes_references=True, main="audio"),
    Mode(name="v2a", video=("keep",), audio=("generate",), settle=settle_v2a, main="video"),
)
MODES: Mapping[str, Mode] = {mode.name: mode for mode in TABLE}


def mode_of(name: str) -> Mode:
    """A mode by its name. Raises: RequestError if there is none."""
    if name not in MODES:
        raise RequestError(f"unknown mode {name}", hint=did_you_mean(name, list(MODES)))
    return MODES[name]
