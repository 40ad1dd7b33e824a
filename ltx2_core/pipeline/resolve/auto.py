"""The choices of `--preset auto`: a size by name for this machine's GPU, and a recipe.

Source: docs/cli.md, "Automatic choices"; docs/reference/pipelines.md, "Which recipe goes with which files".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError
from ...hub.find import ModelFiles
from ..parts import ModelHeaders
from ..recipe import Edit, Recipe
from ..values import Size, parse_size
from .machine import Device
from .presets import Tier, names, read_tier, recipe, recipe_for
from .settings import Layer, Merged, Origin, Place, Settings, required

AUTO_NOTE = "auto: "  # beginning of the line about the choice
ONE_STAGE_UP_TO = 1.5  # limit in multiples of the pixels of the model's default size


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A recipe, and settings for it. note: the choice and its reason, for the user."""

    recipe: str
    layers: list[Layer]
    note: str


def choose(
    merged: Merged,
    edit: Edit | None,
    device: Device,
    defaults: Mapping[str, Any],
    files: ModelFiles,
    parts: ModelHeaders,
    tiers: Sequence[str],
) -> Choice:
    """Choose the settings that are not set.

    Args: merged: the settings without this choice. edit: the required edit of the recipe. device: of the render.
    defaults: the model's own settings. tiers: the sizes by name that it supports.
    """
    settings, sized, card = merged.settings, "", device.card
    layers: list[Layer] = []
    chooses_size = not merged.is_asked("res") and edit != Edit.UPSCALE
    if chooses_size and card is not None and card.nbytes and (tier := tier_for(card.gb, parts, tiers)):
        layers = [(Place(Origin.PRESET, "auto"), {"res": tier})]
        settings, sized = settings.model_copy(update={"res": tier}), f"; {tier} for a card of {card.gb} GB"
    own = defaults.get("preset")
    name, why = (own, "the model's own recipe") if own else fitting(settings, defaults["res"], files, parts)
    if edit is not None:
        name, why = _editing(edit, recipe(name), files)
    return Choice(recipe=name, layers=layers, note=f"{AUTO_NOTE}{name}, as {why}{sized}")


def _editing(edit: Edit, usual: Recipe, files: ModelFiles) -> tuple[str, str]:
    """A recipe for an edit, and the reason. usual: the recipe for clips without an edit."""
    has_lora = usual.is_guided and "distilled_lora" in files.paths
    name = recipe_for(edit, guided=usual.is_guided, has_lora=has_lora)
    why = "the model is not distilled" if usual.is_guided else "the model is distilled"
    if "distilled_lora" in recipe(name).needs:
        why += " and has a distilled LoRA"
    return name, why


def tier_for(card: int, parts: ModelHeaders, tiers: Sequence[str]) -> str | None:
    """The largest size by name that is recommended for a GPU of so many GB, within the model's trained size."""
    video = parts.shapes.transformer.video
    sizes = {name: read_tier(name) for name in tiers}
    seen = {name: tier for name, tier in sizes.items() if video and max(_rendered(tier)) <= video.max_pos[-1]}
    recommended = [name for name, tier in seen.items() if tier.recommended_gb <= card]
    possible = [name for name, tier in seen.items() if tier.minimum_gb <= card]
    smallest = sorted(seen, key=lambda name: seen[name].minimum_gb)[:1]
    return max(recommended or possible or smallest, key=lambda name: seen[name].minimum_gb, default=None)


def fitting(settings: Settings, own_res: str, files: ModelFiles, parts: ModelHeaders) -> tuple[str, str]:
    """A recipe and the reason: with a second stage if it is useful and its files exist.

    Args: own_res: the size that the model was trained for. A distilled model is recognised by the name of its file.
    """
    is_distilled = "distilled" in parts.header("transformer").path.name.lower()
    one, two = ("distilled-one-stage", "distilled") if is_distilled else ("one-stage", "two-stage")
    missing = [role.replace("_", " ") for role in recipe(two).needs if role not in files.paths]
    multiple = recipe(two).multiple(max(parts.shapes.video_vae.factors[1:]))
    res, size, own = required(settings.res), _size(required(settings.res)), _size(own_res)
    if settings.video != "generate":
        return one, "no video is generated"
    if missing:
        return one, f"there is no {' and no '.join(missing)} for a second stage"
    if res.lower() not in names("tiers") and any(side % multiple for side in size):
        return one, f"{res} is not a multiple of {multiple}, which a second stage needs"
    if is_distilled:
        return two, "the model is distilled"
    if size[0] * size[1] <= ONE_STAGE_UP_TO * own[0] * own[1]:
        return one, f"{res} needs no second stage"
    return two, f"{res} is large and the model has the files for a second stage"


def _size(res: str) -> Size:
    """The rendered size of a name or an explicit size; zero for an invalid one, which is refused elsewhere."""
    name = res.lower()
    try:
        return _rendered(read_tier(name)) if name in names("tiers") else parse_size(res)
    except (ValueError, RequestError):
        return 0, 0


def _rendered(tier: Tier) -> Size:
    return parse_size(tier.one_stage)
