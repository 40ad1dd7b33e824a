"""Files that a request is given beside its model: LoRAs, images, clips, sounds. Named there, found by the job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..errors import RequestError, StorageError
from ..headers import Header
from ..lora_file import match, read_lora
from .recipe import Record
from .values import Seconds

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(allow_inf_nan=False)]


class LoraInput(Record):
    """A LoRA and how strongly it acts. role: by which the job knows its file. name: of that file."""

    role: str
    name: str
    strength: Strength


class ImageInput(Record):
    """A still and the pixel frame at which it stands. crf: how much it is compressed before it is encoded."""

    role: str
    name: str
    frame: Annotated[int, Field(ge=0)]
    strength: Share
    crf: Annotated[int, Field(ge=0, le=51)]


class ClipInput(Record):
    """A clip that a render starts from, from a time on."""

    role: str
    name: str
    start_s: Seconds = Fraction(0)


class SoundInput(Record):
    """A sound, or a part of it; the sound of a clip too."""

    role: str
    name: str
    start_s: Seconds = Fraction(0)
    duration_s: Seconds | None = None


class ReferenceInput(Record):
    """A clip to look at. attention: how much it and the made clip see of each other."""

    role: str
    name: str
    strength: Share = 1.0
    attention: Share = 1.0
    spatial_scale: Annotated[int, Field(ge=1)] = 1
    temporal_scale: Annotated[int, Field(ge=1)] = 1


class Window(Record):
    """The span of time that is made anew."""

    start_s: Seconds
    end_s: Seconds


def lora_inputs(
    specs: Sequence[str], checkpoint: Header, *, allow_partial: bool
) -> tuple[tuple[LoraInput, ...], dict[str, Path], list[str]]:
    """The LoRAs of `--lora PATH[:STRENGTH]`, their files by role, and a line for a person about each.

    Raises: RequestError, StorageError; CheckpointError for one that belongs to another model.
    """
    inputs: list[LoraInput] = []
    paths: dict[str, Path] = {}
    notes: list[str] = []
    for number, spec in enumerate(specs, 1):
        path, strength = split_strength(spec, "--lora")
        matched = match(read_lora(path), checkpoint, allow_partial=allow_partial)
        role = f"lora-{number}"
        inputs.append(LoraInput(role=role, name=path.name, strength=strength))
        paths[role] = path
        notes.append(f"{path.name} at {strength:g}: {matched.report}")
    return tuple(inputs), paths, notes


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
        raise StorageError(f"{option} {spec} is not there")
    return path, strength
