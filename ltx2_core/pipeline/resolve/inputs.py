"""The resolved inputs of a mode, and its images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ...errors import MediaError, RequestError
from ...media.accept import check_input
from ...media.inputs import ImageSource
from ...paths import given_path, in_shell, require_local
from ..recipe import Recipe
from ..request import AudioInput, ClipInput, Extension, ImageInput, ReferenceInput, StreamMode, Window
from .settings import Merged, Origin, Place, Settings, required
from .sizes import ClipLength, RenderSize

AT_TIME = re.compile(
    r"(?P<path>.+)@(?P<time>first|last|\d+|\d+(?:\.\d+)?s)(?::(?P<strength>\d+(?:\.\d+)?))?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeInputs:
    """The values that follow from the inputs of a request.

    Args: from images to generated_keyframes, kept_frames and loops: as in the request. recipe: if it depends on the
    inputs too. sound: the mode of the audio, if the inputs leave no choice. files: by role. copies_audio: whether the
    packets of an input audio track are copied. suffix: the required suffix of the result, if there is only one.
    sources: inputs that determine a setting, by its name. notes: for the user.
    """

    length: ClipLength
    size: RenderSize
    images: tuple[ImageInput, ...] = ()
    source: ClipInput | None = None
    audio_source: AudioInput | None = None
    references: tuple[ReferenceInput, ...] = ()
    voice: AudioInput | None = None
    strength: float | None = None
    window: Window | None = None
    extension: Extension | None = None
    generated_keyframes: int = 0
    kept_frames: int | None = None
    loops: bool = False
    recipe: Recipe | None = None
    sound: StreamMode | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    copies_audio: bool = False
    suffix: str | None = None
    sources: Mapping[str, Place] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def left_to(merged: Merged, name: str) -> Mapping[str, Place]:
    """The settings that an input clip determines, because they are not set."""
    left = [one for one in ("fps", "duration") if one in merged.sources and not merged.is_asked(one)]
    return dict.fromkeys(left, Place(Origin.INPUT, name))


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a request, with their files."""

    inputs: tuple[ImageInput, ...]
    sources: tuple[ImageSource, ...]

    @property
    def files(self) -> dict[str, Path]:
        return {given.role: source.path for given, source in zip(self.inputs, self.sources, strict=True)}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for source in self.sources for note in source.notes)

    @property
    def first_size(self) -> tuple[int, int] | None:
        """Width and height of the first one, if there is any."""
        return next(((source.width, source.height) for source in self.sources), None)


def read_images(settings: Settings, length: ClipLength, first: Path | None = None) -> Images:
    """The images of `--image PATH[@TIME[:STRENGTH]]`, in their order; without a time they are at the first frame.

    Args: first: one that comes before them.
    Raises: RequestError for a time outside the clip, and for a second image at its first frame; MediaError for a file
    that is not an image.
    """
    specs = [*(settings.image or ())]
    if first:
        specs.insert(0, str(first))
    inputs, sources = [], []
    for number, spec in enumerate(specs, 1):
        path, frame, strength = split_image(spec, length)
        source = check_input(path, ImageSource)
        if frame == 0 and any(one.frame == 0 for one in inputs):
            why = "the first frame has an image already, which it would replace"
            raise RequestError(
                f"--image {spec} cannot be used", why, f"--image {in_shell(f'{path}@last')} gives it another time"
            )
        crf = required(settings.image_crf)
        inputs.append(
            ImageInput(role=f"image-{number}", name=source.path.name, frame=frame, strength=strength, crf=crf)
        )
        sources.append(source)
    return Images(tuple(inputs), tuple(sources))


def split_image(spec: str, length: ClipLength) -> tuple[Path, int, float]:
    """A path, the frame after its last `@` and the strength after that; a path may contain an `@`."""
    found = AT_TIME.fullmatch(spec)
    require_local(spec if found is None else found["path"], "--image", MediaError)
    whole = given_path(spec, "--image")
    if found is None or os.path.exists(whole):  # noqa: PTH110 (a path that may not be looked at is not there either)
        return whole, 0, 1.0
    path, strength = given_path(found["path"], "--image"), float(found["strength"] or 1)
    frame, last = _frame_at(found["time"].lower(), length), length.frames - 1
    if frame > last:
        why = f"the clip ends at frame {last}"
        raise RequestError(f"--image {spec} cannot be used", why, "@last is its last frame")
    if strength > 1:
        raise RequestError(f"--image {spec} cannot be used", "a strength is 0 to 1; 1 keeps the image exactly")
    return path, frame, strength


def _frame_at(time: str, length: ClipLength) -> int:
    """The frame of a time: first, last, 2.5s or a number."""
    if time in ("first", "last"):
        return {"first": 0, "last": length.frames - 1}[time]
    return round(Fraction(time[:-1]) * length.fps) if time.endswith("s") else int(time)
