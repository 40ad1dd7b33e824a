"""The LoRAs that a person names: found, read by their headers, and matched with the model."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError
from ...headers import Header
from ...lora_file import LoraFile, match, read_lora
from ...paths import given_path, require_file
from ..request import LoraInput

STRONGEST = 10


@dataclass(frozen=True, slots=True)
class GivenLora:
    """A LoRA that fits the model. report: how much of it fits, for a person."""

    input: LoraInput
    file: LoraFile
    report: str

    @property
    def note(self) -> str:
        return f"{self.input.name} at {self.input.strength:g}: {self.report}"


def read_loras(specs: Sequence[str], checkpoint: Header, *, allow_partial: bool) -> tuple[GivenLora, ...]:
    """The LoRAs of `--lora PATH[:STRENGTH]`, in their order.

    Raises: RequestError, StorageError; CheckpointError for one that belongs to another model.
    """
    found = []
    for number, spec in enumerate(specs, 1):
        path, strength = split_strength(spec, "--lora")
        file = read_lora(path)
        matched = match(file, checkpoint, allow_partial=allow_partial)
        given = LoraInput(role=f"lora-{number}", name=path.name, strength=strength)
        found.append(GivenLora(given, file, matched.report))
    return tuple(found)


def split_strength(spec: str, option: str) -> tuple[Path, float]:
    """A path and the number behind its last colon; 1 where there is none.

    Raises: RequestError if the path or the number makes no sense, StorageError if there is no such file.
    """
    path, strength = given_path(spec, option), 1.0
    found = re.fullmatch(r"(.+):([-+.\w]+)", spec)
    if found and not os.path.exists(path):  # noqa: PTH110 (a path that may not be looked at is not there either)
        path, strength = given_path(found[1], option), _strength(found[2])
        if not abs(strength) <= STRONGEST:
            why = f"{found[2]} is not a strength from -{STRONGEST} to {STRONGEST}"
            raise RequestError(f"{option} {spec} cannot be used", why, f"{option} PATH:0.8")
    require_file(path, f"{option} {spec}", f"{option} PATH:0.8 gives a strength; check the path")
    return path, strength


def _strength(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
