"""What comes along under a name: recipes, sizes, defaults of generations, and named sets of values."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cache
from typing import Any

from pydantic import Field

from ...errors import RequestError
from ...hub.registry import registered_models
from ...records import Record, presets_folder
from ...yaml_file import read_yaml
from ..recipe import Edit, Recipe
from ..values import did_you_mean


class Tier(Record):
    """A size by name.

    Args: one_stage, two_stages: what is rendered. file: what that is cut to. minimum_gb, recommended_gb: for which
    classes of cards. defaults: values for settings, above those of the model.
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
    """A recipe by its name. Raises: RequestError if there is none, or if its file is not right."""
    return Recipe.checked(f"presets/recipes/{name}.yaml", _read("recipes", name, "preset"))


def recipe_for(edit: Edit, *, guided: bool) -> str:
    """The name of the recipe that does something to a clip, with guidance or without."""
    return next(name for name in names("recipes") if recipe(name).edit == edit and recipe(name).is_guided == guided)


@cache
def generation_defaults(generation: str) -> dict[str, Any]:
    """What models of a generation get where nothing else is said."""
    return _read("generations", generation, "generation")


@cache
def read_tier(name: str) -> Tier:
    """A size by its name."""
    return Tier.checked(f"presets/tiers/{name}.yaml", _read("tiers", name, "size"))


def named_values(name: str, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of a preset that is not a recipe:

    one of the user's own, or one that comes along. None if it is a recipe.
    """
    if name in own:
        return copy(own[name])  # with the lines at which its settings stand
    if name in names("recipes"):
        return None
    values = _read(".", name, "preset", known=[*names("."), *names("recipes"), *own])
    return {key: value for key, value in values.items() if key != "summary"}


def catalogue(own: Mapping[str, Any] | None = None) -> dict[str, dict[str, str]]:
    """Everything that a person can call by name, by kind, with a line about each. own: the user's own presets."""
    tiers = {name: read_tier(name) for name in names("tiers")}
    values = {name: _read(".", name, "preset").get("summary", "") for name in names(".")}
    return {
        "presets": {name: recipe(name).summary for name in names("recipes")}
        | values
        | dict.fromkeys(own or (), "yours"),
        "sizes": {name: tier.summary for name, tier in sorted(tiers.items(), key=lambda item: item[1].minimum_gb)},
        "models": {name: model.summary for name, model in registered_models().items()},
    }


def _read(kind: str, name: str, word: str, known: list[str] | None = None) -> dict[str, Any]:
    known = names(kind) if known is None else known
    if name not in names(kind):
        raise RequestError(f"unknown {word} {name}", hint=did_you_mean(name, known))
    return read_yaml(presets_folder() / kind / f"{name}.yaml")
