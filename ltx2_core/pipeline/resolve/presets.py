"""The shipped presets by name: recipes, sizes, defaults of generations, and named sets of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import Field

from ...errors import RequestError, shown
from ...hub.registry import registered_models
from ...records import Record, presets_folder
from ...yaml_file import read_yaml, without
from ..recipe import Edit, Recipe
from ..values import did_you_mean
from .settings import Layer, Origin, Place, check_layer, merge

AUTO = "auto"  # the preset name that selects one for the machine and the model


class Tier(Record):
    """A size by name.

    Args: one_stage, two_stages: the rendered size. file: the size after cropping. minimum_gb, recommended_gb: classes
    of GPUs. defaults: values for settings, which override those of the model.
    """

    summary: str
    one_stage: str
    two_stages: str
    file: str
    minimum_gb: int
    recommended_gb: int
    defaults: dict[str, Any] = Field(default_factory=dict)


def names(kind: str) -> list[str]:
    """The names of all recipes, models, generations or tiers; of the named sets of values where kind is "."."""
    return sorted(path.stem for path in (presets_folder() / kind).glob("*.yaml"))


@cache
def recipe(name: str) -> Recipe:
    """A recipe by its name. Raises: RequestError if there is none, or if its file is not valid."""
    return Recipe.checked(f"presets/recipes/{name}.yaml", _read("recipes", name, "preset"))


def recipe_for(edit: Edit, *, guided: bool, has_lora: bool = False) -> str:
    """The name of the recipe for an edit, with guidance or without.

    Args: has_lora: whether there is a distilled LoRA, which then replaces guidance if a recipe uses it.
    """
    found = {name: recipe(name) for name in names("recipes") if recipe(name).edit == edit}
    with_lora = [name for name, one in found.items() if "distilled_lora" in one.needs]
    if has_lora and with_lora:
        return with_lora[0]
    return next(name for name, one in found.items() if one.is_guided == guided and name not in with_lora)


@cache
def generation_defaults(generation: str) -> dict[str, Any]:
    """The default settings of a generation; its file contains the differences from the one before."""
    values = _read("generations", generation, "generation")
    before = values.get("like")
    inherited = generation_defaults(before) if before else {}
    return {**inherited, **without(values, "like")}


@cache
def read_tier(name: str) -> Tier:
    """A size by its name."""
    return Tier.checked(f"presets/tiers/{name}.yaml", _read("tiers", name, "size"))


@dataclass(frozen=True, slots=True)
class NamedPreset:
    """The preset that the user named. name: None if it is a recipe, or if none is named. recipe: that it ends with."""

    name: str | None = None
    recipe: str | None = None


def with_presets(layers: Sequence[Layer], own: Mapping[str, Any]) -> tuple[list[Layer], NamedPreset]:
    """Insert the values of a preset directly below the place that names it, above every place below that.

    A named set of values may be based on another, or on a recipe, through its own `preset`.
    Args: own: the user's own presets, by name.
    Raises: RequestError for an unknown name.
    """
    asked = merge(layers)
    if asked.settings.preset is None or asked.settings.preset.lower() == AUTO:
        return list(layers), NamedPreset()
    first = asked.settings.preset.lower()
    found, chosen = _chain(first, {name.lower(): values for name, values in own.items()})
    below = next(number for number, (place, _) in enumerate(layers, 1) if place is asked.sources["preset"])
    return [*layers[:below], *found, *layers[below:]], NamedPreset(first if found else None, chosen)


def _chain(first: str, own: Mapping[str, Any]) -> tuple[list[Layer], str | None]:
    """The values of a preset and of those that it is based on, and the recipe at the end; None leaves it to the
    model.
    """
    layers: list[Layer] = []
    seen: set[str] = set()
    name: str | None = first
    while name is not None and name != AUTO:
        if name in seen:
            raise RequestError(f"preset {shown(name)} builds on itself", hint="leave one of its preset: lines out")
        seen.add(name)
        values = named_values(name, own)
        if values is None:
            return layers, name
        place = Place(Origin.PRESET, name)
        layers.append((place, without(values, "preset")))
        name = check_layer(place, {"preset": values.get("preset")}).get("preset", "").lower() or None
    return layers, None


def named_values(name: str, own: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The values of a preset that is not a recipe: one of the user's own, or a shipped one.

    None if it is a recipe.
    """
    if name in own:
        return own[name]
    if name in names("recipes"):
        return None
    values = _read(".", name, "preset", known=[*names("."), *names("recipes"), *own])
    return {key: value for key, value in values.items() if key != "summary"}


def catalogue(own: Mapping[str, Any] | None = None) -> dict[str, dict[str, str]]:
    """All names by kind, with a line about each. own: the user's own presets."""
    tiers = {name: read_tier(name) for name in names("tiers")}
    values = {name: _read(".", name, "preset").get("summary", "") for name in names(".")}
    return {
        "presets": {name: recipe(name).summary for name in names("recipes")}
        | values
        | dict.fromkeys(own or (), "yours"),
        "sizes": {name: tier.summary for name, tier in sorted(tiers.items(), key=lambda item: item[1].minimum_gb)},
        "models": {name: model.summary for name, model in sorted(registered_models().items())},
    }


def _read(kind: str, name: str, word: str, known: list[str] | None = None) -> dict[str, Any]:
    if known is None:
        known = names(kind)
    if name not in names(kind):
        raise RequestError(f"unknown {word} {shown(name)}", hint=did_you_mean(name, known) or "ltx2 presets lists them")
    return read_yaml(presets_folder() / kind / f"{name}.yaml")
