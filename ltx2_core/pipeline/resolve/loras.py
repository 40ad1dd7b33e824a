"""The LoRAs that the user names: found, read by their headers, and matched with the model."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from ...errors import RequestError, StorageError, shown
from ...headers import Header
from ...hub.find import is_path
from ...hub.library import Library
from ...hub.registry import Control, Reference
from ...lora_file import LoraFile, MatchedLora, match, read_lora
from ...paths import input_path, require_file
from ..request import LoraInput
from ..values import did_you_mean, parse_number

STRONGEST = 10
USABLE = "ltx2 models lists the LoRAs that can be used"
HDR = "it generates high dynamic range video, which this version cannot store"
# The generation in the name of an official file, such as ltx-2-19b-… and ltx-2.3-22b-….
MADE_FOR = re.compile(r"ltx-(2|2\.\d)-(19|22)b-")


@dataclass(frozen=True, slots=True)
class ChosenLora:
    """A LoRA that the user named. published: its entry in the catalogue, by its name or that of its file."""

    spec: str
    option: str
    path: Path
    strength: float
    published: Control | None = None

    def read(self) -> LoraFile:
        """The header of the file. If it does not describe its reference, the catalogue does.

        Raises: StorageError, CheckpointError; RequestError for one whose colours cannot be stored.
        """
        file = read_lora(self.path)
        refuse_hdr(file, f"{self.option} {shown(self.spec)}")
        if file.spatial_scale is None and self.published is not None and self.published.in_context:
            file = replace(file, spatial_scale=self.published.spatial_scale)
        return file


@dataclass(frozen=True, slots=True)
class GivenLora:
    """A LoRA that fits the model.

    Args: matched: its changes of the model. warning: why it may not work as intended; None if it should. published: its
    entry in the catalogue.
    """

    input: LoraInput
    file: LoraFile
    matched: MatchedLora
    warning: str | None = None
    published: Control | None = None

    @property
    def note(self) -> str:
        return f"{self.input.name} at {self.input.strength:g}: {self.matched.report}"


@dataclass(frozen=True, slots=True)
class NamedLoras:
    """The published LoRAs with a name. generation: of the model; None if its tensors do not tell."""

    library: Library
    generation: str | None

    def choose(self, spec: str, option: str) -> ChosenLora:
        """The LoRA of NAME, PATH, NAME:STRENGTH or PATH:STRENGTH. A name wins over a file of that name.

        Raises: RequestError if the name, the path or the number is not valid, and for a LoRA that this version refuses;
        StorageError if there is no such file.
        """
        name, strength = spec, None
        if self._control(spec) is None:
            name, strength = _with_number(spec)
        if strength is not None and not abs(strength) <= STRONGEST:
            why = f"{spec.rpartition(':')[2]} is not a strength from -{STRONGEST} to {STRONGEST}"
            raise RequestError(f"{option} {shown(spec)} cannot be used", why, f"{option} PATH:0.8")
        control = self._control(name)
        if control is not None:
            return self._published(control, name, spec, option, control.strength if strength is None else strength)
        path = self._given_path(name, spec, option)
        published = self.library.catalogue.control_in(path.name)
        _require_usable(published, spec, option)
        if strength is None:
            strength = 1.0 if published is None else published.strength
        return ChosenLora(spec, option, path, strength, published)

    def is_installed(self, name: str, scale: Fraction) -> bool:
        """Whether a LoRA of the catalogue is installed for this generation, with this scale of its reference."""
        control = self._control(name)
        place = control.files.get(self.generation or "") if control else None
        if control is None or place is None or control.spatial_scale != scale:
            return False
        reference = Reference.parse(place)
        return (self.library.find_all(reference) is not None) if reference else Path(place).exists()

    def _published(self, control: Control, name: str, spec: str, option: str, strength: float) -> ChosenLora:
        """A LoRA of the catalogue by its name."""
        _require_usable(control, spec, option)
        if control.is_strength_fixed and strength != control.strength:
            why = f"it works at strength {control.strength:g} only"
            raise RequestError(f"{option} {spec} cannot be used", why, f"{option} {name}")
        return ChosenLora(spec, option, self._named_path(name, control, option), strength, control)

    def _control(self, name: str) -> Control | None:
        return self.library.catalogue.controls.get(name.lower())

    def _named_path(self, name: str, control: Control, option: str) -> Path:
        """The file of a named LoRA.

        Raises: RequestError if there is none for this generation; StorageError if it is not installed.
        """
        place = control.files.get(self.generation or "")
        if place is None:
            why = f"it is published for models of generation {' and '.join(control.files)}"
            raise RequestError(f"{option} {name} cannot be used with this model", why, f"{option} PATH names a file")
        reference = Reference.parse(place)
        path = self.library.find_all(reference) if reference else Path(place)
        if path is None:
            fetch = f"ltx2 download {name.lower()} --only {self.generation}"
            raise StorageError(f"LoRA {name.lower()} is not installed", f"{place} was not found", fetch)
        return path

    def _given_path(self, text: str, spec: str, option: str) -> Path:
        """The file of a text that is not a name. Raises: RequestError, StorageError if there is none."""
        path = input_path(text, option, StorageError)
        if not os.path.exists(path) and not is_path(text):  # noqa: PTH110 (a path that may not be looked at)
            hint = did_you_mean(text.lower(), [*self.library.catalogue.controls]) or "ltx2 models lists the names"
            raise RequestError(f"unknown LoRA {shown(text)}", f"{option} takes a name or a file", hint)
        require_file(path, f"{option} {spec}", f"{option} PATH:0.8 gives a strength; check the path")
        return path

    def warning_of(self, chosen: ChosenLora) -> str | None:
        """A warning about an official LoRA that was made for another generation than the model's.

        Layers of 2.3 and 2.5 have the same shapes, so such a LoRA loads, and some work.
        """
        found = MADE_FOR.match(chosen.path.name.lower())
        made = {"2": "2.0"}.get(found[1], found[1]) if found else None
        if made is None or self.generation is None or made == self.generation:
            return None
        name = chosen.path.name
        return (
            f"{name} was made for models of generation {made}, and this one is of {self.generation}: check the result"
        )

    def hides(self, spec: str) -> str | None:
        """The name of a LoRA, if a file or folder here has the same name."""
        name = next(
            (one for one in (spec, _with_number(spec)[0]) if one.lower() in self.library.catalogue.controls), ""
        )
        return name if name and os.path.lexists(name) else None


def _require_usable(published: Control | None, spec: str, option: str) -> None:
    """Raises: RequestError for a LoRA of the catalogue that this version refuses."""
    if published is not None and published.refused is not None:
        raise RequestError(f"{option} {shown(spec)} cannot be used", published.refused, USABLE)


def refuse_hdr(file: LoraFile, given: str) -> None:
    """Refuse a LoRA that generates high dynamic range. given: the option and its value.

    Raises: RequestError.
    """
    if file.hdr_transform is not None:
        why = f"its metadata names the transform {shown(file.hdr_transform)}: {HDR}"
        raise RequestError(f"{given} cannot be used", why, USABLE)


def read_loras(
    specs: Sequence[str], checkpoint: Header, named: NamedLoras, *, allow_partial: bool
) -> tuple[GivenLora, ...]:
    """The LoRAs of `--lora`, in their order.

    Raises: RequestError, StorageError; CheckpointError for one that belongs to another model.
    """
    found = []
    for number, spec in enumerate(specs, 1):
        chosen = named.choose(spec, "--lora")
        file = chosen.read()
        matched = match(file, checkpoint, allow_partial=allow_partial)
        given = LoraInput(role=f"lora-{number}", name=chosen.path.name, strength=chosen.strength)
        found.append(GivenLora(given, file, matched, named.warning_of(chosen), chosen.published))
    return tuple(found)


def _with_number(spec: str) -> tuple[str, float | None]:
    """A text and the number after its last colon; None if there is none, or if a file has the whole name."""
    found = re.fullmatch(r"(.+):([-+.\w]+)", spec, re.DOTALL)
    if found is None or os.path.exists(spec):  # noqa: PTH110 (a path that may not be looked at is not there either)
        return spec, None
    return found[1], _strength(found[2])


def _strength(text: str) -> float:
    try:
        return float(parse_number(text))
    except ValueError:
        return float("nan")
