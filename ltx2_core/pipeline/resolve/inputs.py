"""Files that a request is given beside its model: LoRAs, images, clips, sounds. Named there, found by the job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...errors import RequestError, StorageError
from ...headers import Header
from ...lora_file import match, read_lora
from ...media.inputs import ImageSource, SoundSource, VideoSource, check_input
from ..request import (
    ImageInput,
    LoraInput,
)
from .sizes import ClipLength


@dataclass(kw_only=True)
class Inputs:
    """What a request is given, as it is found.

    Args: fields: of the request. output: settings of the output that follow. suffix: what the name of the result must
    end in, if only one thing will do. paths: files by role. notes: lines for a person. sources: files that decide what
    a setting would, by its name.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    suffix: str | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def add(self, role: str, source: ImageSource | SoundSource | VideoSource) -> dict[str, str]:
        """Keep a file under a role; returns how a request names it."""
        self.paths[role] = source.path
        self.notes += source.notes
        return {"role": role, "name": source.path.name}


def add_images(inputs: Inputs, specs: Sequence[str], length: ClipLength, crf: int) -> None:
    """The stills of `--image PATH[@TIME[:STRENGTH]]`, in their order; without a time at the first frame.

    Raises: RequestError for a time outside the clip; MediaError for what is no image.
    """
    images = list(inputs.fields.get("images", ()))
    for spec in specs:
        path, frame, strength = split_image(spec, length)
        named = inputs.add(f"image-{len(images) + 1}", check_input(path, ImageSource))
        images.append(ImageInput(**named, frame=frame, strength=strength, crf=crf))
    inputs.fields["images"] = tuple(images)


def split_image(spec: str, length: ClipLength) -> tuple[Path, int, float]:
    """A path, the frame behind its last `@` and the strength behind that; a path may hold an `@` of its own."""
    found = re.fullmatch(r"(.+)@(first|last|\d+|\d+(?:\.\d+)?s)(?::(\d+(?:\.\d+)?))?", spec)
    if found is None or Path(spec).expanduser().exists():
        return Path(spec).expanduser(), 0, 1.0
    path, time, strength = found[1], found[2], float(found[3] or 1)
    last = length.frames - 1
    frame = {"first": 0, "last": last}.get(time)
    if frame is None:
        frame = round(Fraction(time[:-1]) * length.fps) if time.endswith("s") else int(time)
    if frame > last:
        raise RequestError(
            f"--image {spec} cannot be used", f"the clip ends at frame {last}", "@last is its last frame"
        )
    if strength > 1:
        raise RequestError(f"--image {spec} cannot be used", "a strength is 0 to 1; 1 keeps the image exactly")
    return Path(path).expanduser(), frame, strength


def add_loras(inputs: Inputs, specs: Sequence[str], checkpoint: Header, *, allow_partial: bool) -> None:
    """The LoRAs of `--lora PATH[:STRENGTH]`, with a line for a person about each.

    Raises: RequestError, StorageError; CheckpointError for one that belongs to another model.
    """
    loras: list[LoraInput] = []
    for number, spec in enumerate(specs, 1):
        path, strength = split_strength(spec, "--lora")
        matched = match(read_lora(path), checkpoint, allow_partial=allow_partial)
        inputs.paths[f"lora-{number}"] = path
        loras.append(LoraInput(role=f"lora-{number}", name=path.name, strength=strength))
        inputs.notes.append(f"{path.name} at {strength:g}: {matched.report}")
    inputs.fields["loras"] = tuple(loras)


def split_strength(spec: str, option: str) -> tuple[Path, float]:
    """A path and the number behind its last colon; 1 where there is none.

    Raises: RequestError if the number makes no sense, StorageError if there is no such file.
    """
    path, strength = Path(spec).expanduser(), 1.0
    found = re.fullmatch(r"(.+):([-+.\w]+)", spec)
    if found and not path.exists():
        path = Path(found[1]).expanduser()
        try:
            strength = float(found[2])
        except ValueError:
            strength = float("nan")
        if not abs(strength) <= 10:
            raise RequestError(f"{option} {spec} cannot be used", f"{found[2]} is no strength", f"{option} PATH:0.8")
    if not path.is_file():
        raise StorageError(f"{option} {spec} is not there", hint=f"{option} PATH:0.8 gives a strength; check the path")
    return path, strength
