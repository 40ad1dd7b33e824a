"""What is settled before anything about the clip itself: the settings, the model with its files, the recipe.

Source: spec cli, sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...config.transformer import TransformerConfig
from ...config.video_vae import VideoVAEConfig
from ...errors import CheckpointError, RequestError, StorageError
from ...headers import Header, generation, read_header
from ...hub import ROLES, UPSAMPLERS, ModelFiles, find_model, upsampler_role
from ...text.files import check_pair, find_encoder
from ..parts import Parts
from ..recipe import Edit, Recipe
from ..request import (
    Mode,
    StreamMode,
)
from ..values import option_name
from .auto import choose
from .edits import edit_of, recipe_edit
from .presets import RegisteredModel, generation_defaults, named_values, names, recipe, registered_models
from .refusals import (
    check_recipe,
    check_streams,
)
from .settings import Layer, Merged, Settings, merge, required, spelled
from .sizes import tier_layer

STREAMS: Mapping[Mode, Mapping[str, StreamMode]] = {  # of modes that leave no choice
    Mode.A2V: {"video": "generate", "sound": "keep"},
    Mode.V2A: {"video": "keep", "sound": "generate"},
}
BUILT_IN: Mapping[str, Any] = {
    "model": "ltx-2",
    "precision": "auto",
    "device": "auto",
    "cache": True,
    "video": "generate",
    "sound": "generate",
    "old_sound": "drop",
    "overwrite": False,
    "skip_existing": False,
    "codec": "h264",
    "audio_codec": "aac",
    "metadata": True,
    "keep_latents": False,
    "sheet": False,
    "strict": False,
}


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What is settled before anything about the clip itself: the settings, the model with its files, the recipe.

    edit: what is done to the clip of v2v. header: of the file that holds the denoiser. stg_share: how deep in it the
    block lies that guidance perturbs.
    """

    edit: Edit | None
    merged: Merged
    files: ModelFiles
    header: Header
    transformer: TransformerConfig
    vae: VideoVAEConfig
    stg_share: Fraction
    preset: str
    recipe: Recipe
    notes: tuple[str, ...]


def settle_basis(mode: Mode, layers: Sequence[Layer], own_presets: Mapping[str, Any]) -> Basis:
    """Merge all settings, find the model and check that recipe, files and flags go together."""
    preset_layers, recipe_name = _preset_layers(merge(layers).settings.preset, own_presets)
    layers = [(mode, STREAMS.get(mode, {})), *layers, *preset_layers]
    settings = merge([*layers, ("built-in", BUILT_IN)]).settings
    check_streams(mode, settings)
    edit = edit_of(settings) if mode == Mode.V2V else None
    files = _find_files(settings)
    parts = Parts.of(files)
    header = parts.header("transformer")
    registered = registered_models().get(files.name)
    defaults = _model_defaults(registered, header)
    _check_text_encoder(files, parts)
    stg_share = Fraction(defaults.pop("stg_block"))
    below: list[Layer] = [(f"model {files.name}", defaults), ("built-in", BUILT_IN)]
    tiers = names("tiers") if registered is None or registered.tiers is None else registered.tiers
    preset, notes = recipe_name, ()
    if preset is None:
        chosen = choose(merge([*layers, *below]), recipe_edit(edit), defaults, files, parts, tiers)
        preset, layers, notes = chosen.recipe, [*layers, *chosen.layers], (chosen.note,)
    res = required(merge([*layers, *below]).settings.res)
    merged = merge([*layers, *tier_layer(res, files.name, tiers), *below])
    adjusted = _adjusted(preset, merged)
    if len(adjusted.stages) < len(recipe(preset).stages):
        notes = (*notes, f"{preset}: only its first stage is run, as no picture is made")
    basis = Basis(
        edit=edit,
        stg_share=stg_share,
        merged=merged,
        files=files,
        header=header,
        transformer=parts.shapes.transformer,
        vae=parts.shapes.video_vae,
        preset=preset,
        recipe=adjusted,
        notes=notes,
    )
    check_recipe(basis)
    return basis


def _adjusted(preset: str, merged: Merged) -> Recipe:
    """A recipe with the sampler, sigmas and tiles that are set, unless it has a sampler of its own."""
    chosen, settings = recipe(preset), merged.settings
    sigmas = settings.sigmas
    if sigmas is not None and chosen.stages[0].start == "noise" and sigmas[0] != 1:
        where = spelled("sigmas", merged.sources["sigmas"])
        raise RequestError(f"{where} {sigmas[0]:g},… cannot be used here", "a clip that begins as noise begins at 1")
    if settings.video != "generate":
        chosen = chosen.for_sound()
    sampler = None if chosen.names_its_sampler else settings.sampler
    return chosen.adjusted(sampler, sigmas, settings.tiles)


def _preset_layers(name: str | None, own: Mapping[str, Any]) -> tuple[list[Layer], str | None]:
    """What a preset sets, layer by layer, and the recipe that it ends at; None leaves the recipe to the model.

    A named set of values may build on another, or on a recipe, through its own `preset`.
    """
    layers: list[Layer] = []
    seen: set[str] = set()
    while name is not None and name != "auto":
        if name in seen:
            raise RequestError(f"preset {name} builds on itself")
        seen.add(name)
        values = named_values(name, own)
        if values is None:
            return layers, name
        source, name = f"preset {name}", values.pop("preset", None)
        layers.append((source, values))
    return layers, None


def _find_files(settings: Settings) -> ModelFiles:
    """The model's files, with those that were given by path in place of its own."""
    given = [(role, getattr(settings, role, None)) for role in ROLES if role not in UPSAMPLERS.values()]
    given += [("upsampler", path) for path in settings.upsampler or ()]
    paths: dict[str, Path] = {}
    for role, spec in given:
        if spec is None:
            continue
        path = Path(spec).expanduser()
        if not path.exists():
            raise StorageError(f"{option_name(role)} {spec} is not there", hint="check the path, or leave it out")
        paths[upsampler_role(read_header(path)) if role == "upsampler" else role] = path
    return find_model(required(settings.model), registered_models(), paths)


def _model_defaults(registered: RegisteredModel | None, header: Header) -> dict[str, Any]:
    """What holds for a model where nothing else is said."""
    made = generation(header)
    if made not in names("generations"):
        why = f"models of generation {made} are not supported yet" if made else "its generation is unknown"
        raise CheckpointError(f"{header.path.name} cannot be rendered with", why)
    return generation_defaults(made) | (registered.defaults if registered else {})


def _check_text_encoder(files: ModelFiles, parts: Parts) -> None:
    hint = "--text-encoder FOLDER names the folder of Gemma 3"
    encoder = find_encoder(files.need("text_encoder", hint))
    for header in {id(one): one for one in (parts.header("transformer"), *parts.text_headers)}.values():
        check_pair(encoder, header)
