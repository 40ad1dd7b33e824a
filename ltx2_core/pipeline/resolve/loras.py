"""The LoRAs that a person names: found, read by their headers, and matched with the model."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError, StorageError, shown
from ...headers import Header
from ...hub.find import is_path
from ...hub.library import Library
from ...hub.registry import Reference
from ...lora_file import LoraFile, match, read_lora
from ...paths import given_path, require_file
from ..request import LoraInput
from ..values import did_you_mean

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


@dataclass(frozen=True, slots=True)
class NamedLoras:
    """The published LoRAs that have a name. generation: of the model; None if its tensors do not tell."""

    library: Library
    generation: str | None

    def find(self, name: str, option: str) -> tuple[Path, float] | None:
        """The file of a LoRA by its name, and its usual strength; None if no LoRA has that name.

        Raises: RequestError if there is none for this generation; StorageError if it is not installed.
        """
        control = self.library.catalogue.controls.get(name.lower())
        if control is None:
            return None
        place = control.files.get(self.generation or "")
        if place is None:
            why = f"it is published for models of generation {' and '.join(control.files)}"
            raise RequestError(f"{option} {name} cannot be used with this model", why, f"{option} PATH names a file")
        reference = Reference.parse(place)
        path = self.library.find_all(reference) if reference else Path(place)
        if path is None:
            fetch = f"ltx2 download {name.lower()} --only {self.generation}"
            raise StorageError(f"LoRA {name.lower()} is not installed", f"{place} was not found", fetch)
        return path, control.strength

    def split(self, spec: str, option: str) -> tuple[Path, float]:
        """The file that NAME, PATH, NAME:STRENGTH or PATH:STRENGTH means, and the strength.

        A name goes before a file of that name. Raises: RequestError if the name, the path or the number makes no sense;
        StorageError if there is no such file.
        """
        if found := self.find(spec, option):
            return found
        text, strength = _with_number(spec)
        if strength is not None and not abs(strength) <= STRONGEST:
            why = f"{spec.rpartition(':')[2]} is not a strength from -{STRONGEST} to {STRONGEST}"
            raise RequestError(f"{option} {shown(spec)} cannot be used", why, f"{option} PATH:0.8")
        if strength is not None and (found := self.find(text, option)):
            return found[0], strength
        path = given_path(text, option)
        if not os.path.exists(path) and not is_path(text):  # noqa: PTH110 (a path that may not be looked at)
            hint = did_you_mean(text.lower(), [*self.library.catalogue.controls])
            raise RequestError(f"unknown LoRA {shown(text)}", f"{option} takes a name or a file", hint)
        require_file(path, f"{option} {spec}", f"{option} PATH:0.8 gives a strength; check the path")
        return path, 1.0 if strength is None else strength

    def hides(self, spec: str) -> str | None:
        """The name of a LoRA that is meant, where something in this folder has it too."""
        name = next(
            (one for one in (spec, _with_number(spec)[0]) if one.lower() in self.library.catalogue.controls), ""
        )
        return name if name and os.path.lexists(name) else None


def read_loras(
    specs: Sequence[str], checkpoint: Header, named: NamedLoras, *, allow_partial: bool
) -> tuple[GivenLora, ...]:
    """The LoRAs of `--lora`, in their order.

    Raises: RequestError, StorageError; CheckpointError for one that belongs to another model.
    """
    found = []
    for number, spec in enumerate(specs, 1):
        path, strength = named.split(spec, "--lora")
        file = read_lora(path)
        matched = match(file, checkpoint, allow_partial=allow_partial)
        given = LoraInput(role=f"lora-{number}", name=path.name, strength=strength)
        found.append(GivenLora(given, file, matched.report))
    return tuple(found)


def _with_number(spec: str) -> tuple[str, float | None]:
    """A text and the number behind its last colon; None where there is none, or where a file has the whole name."""
    found = re.fullmatch(r"(.+):([-+.\w]+)", spec)
    if found is None or os.path.exists(spec):  # noqa: PTH110 (a path that may not be looked at is not there either)
        return spec, None
    return found[1], _strength(found[2])


def _strength(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
