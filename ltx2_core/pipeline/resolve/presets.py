"""Presets as files:

recipes, generations, registered models, and named sets of values. Found in a wheel and in a checkout.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ...components import Role
from ...errors import RequestError
from ..recipe import Edit, Recipe, Record
from ..values import did_you_mean


class RegisteredModel(Record):
    """A model that has a name.

    Args: files: role (checkpoint, text_encoder …) to file name. folder: inside the package, of a model that comes with
    it. tiers: the sizes by name that it is made for; None for all. defaults: values for settings, above those of its
    generation; `preset` is its recipe where none is asked for.
    """

    summary: str
    generation: str
    files: dict[Role, str]
    folder: str | None = None
    tiers: tuple[str, ...] | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)


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


def presets_folder() -> Path:
    """Where the presets are: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parent.parent.parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def names(kind: str) -> list[str]:
    """The names of all recipes, models, generations or tiers; of the named sets of values where kind is "."."""
    return sorted(path.stem for path in (presets_folder() / kind).glob("*.yaml"))


@cache
def recipe(name: str) -> Recipe:
    """A recipe by its name. Raises: RequestError if there is none, or if its file is not right."""
    return _checked(Recipe, f"presets/recipes/{name}.yaml", _read("recipes", name, "preset"))


def recipe_for(edit: Edit, *, guided: bool) -> str:
    """The name of the recipe that does something to a clip, with guidance or without."""
    return next(name for name in names("recipes") if recipe(name).edit == edit and recipe(name).is_guided == guided)


@cache
def registered_models() -> dict[str, RegisteredModel]:
    """All models that have a name."""
    return {
        name: _checked(RegisteredModel, f"presets/models/{name}.yaml", _read("models", name, "model"))
        for name in names("models")
    }


@cache
def generation_defaults(generation: str) -> dict[str, Any]:
    """What models of a generation get where nothing else is said."""
    return _read("generations", generation, "generation")


@cache
def read_tier(name: str) -> Tier:
    """A size by its name."""
    return _checked(Tier, f"presets/tiers/{name}.yaml", _read("tiers", name, "size"))


def named_values(name: str, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of a preset that is not a recipe:

    one of the user's own, or one that comes along. None if it is a recipe.
    """
    if name in own:
        return dict(own[name])
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds names and values. Raises: RequestError if it cannot be read as such."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{path.name} cannot be read", " ".join(str(error).split())) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RequestError(f"{path.name} cannot be used", "it must hold names and values, one to a line")
    return content


def _read(kind: str, name: str, word: str, known: list[str] | None = None) -> dict[str, Any]:
    known = names(kind) if known is None else known
    if name not in names(kind):
        raise RequestError(f"unknown {word} {name}", hint=did_you_mean(name, known))
    return read_yaml(presets_folder() / kind / f"{name}.yaml")


def _checked(record: type[Any], where: str, content: dict[str, Any]) -> Any:
    try:
        return record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{where} cannot be used", f"{place}: {first['msg']}") from error
