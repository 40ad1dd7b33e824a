"""What is resolved before the inputs: the settings, the device, the model with its files, the recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ...components import ROLES, UPSAMPLERS
from ...config.transformer import TransformerConfig
from ...config.video_vae import DecoderName, VideoVAEConfig
from ...errors import CheckpointError, RequestError, StorageError
from ...headers import Header, generation, read_header
from ...hub.find import ModelFiles, find_model, upsampler_role
from ...hub.library import Library
from ...hub.registry import RegisteredModel, read_catalogue, registered_models
from ...paths import input_path, require_existing
from ...text.files import check_pair, find_encoder
from ..parts import ALWAYS_READ, ModelHeaders
from ..recipe import Edit, Recipe
from ..request import StreamMode
from ..values import option_name
from .auto import choose
from .edits import KEPT_SOUND, control_lora, edit_of, recipe_edit
from .inputs import ModeInputs
from .library import model_folders
from .loras import GivenLora, NamedLoras, read_loras
from .machine import Device
from .presets import NamedPreset, generation_defaults, names, read_tier, recipe, with_presets
from .ranks import first_device
from .refusals import check_decoder, check_recipe, check_streams
from .rivals import without_rivals
from .settings import BUILT_IN, DEFAULTS, Layer, Merged, Origin, Place, Settings, merge, required

NO_SETTINGS = ("stg_block", "samplers")  # entries of a generation that are not settings

Settle = Callable[["Basis", Path | None], ModeInputs]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """The input and the output of a command.

    Args: name: of the command. video, audio: the possible modes of each stream, the default first. settle: resolves the
    inputs. takes_references: whether images and a voice can be references. edits: whether its recipes edit a clip.
    main: the kind of its input file, for messages; None if there is none.
    """

    name: str
    video: tuple[StreamMode, ...]
    audio: tuple[StreamMode, ...]
    settle: Settle
    takes_references: bool = False
    edits: bool = False
    main: str | None = None

    @property
    def streams(self) -> dict[str, tuple[StreamMode, ...]]:
        """The choices by the name of their setting."""
        return {"video": self.video, "sound": self.audio}

    @property
    def layers(self) -> tuple[Layer, Layer]:
        """Its fixed settings, which nothing overrides; and its defaults."""
        only = {name: modes[0] for name, modes in self.streams.items() if len(modes) == 1}
        return (Place(Origin.MODE, self.name), only), (
            BUILT_IN,
            {name: modes[0] for name, modes in self.streams.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Everything that is resolved before the clip itself.

    Args: edit: of v2v. stg_share: the depth of the STG block in the denoiser. named: the preset that the user named.
    loras: those of the request, matched with the model.
    """

    mode: Mode
    merged: Merged
    edit: Edit | None
    device: Device
    files: ModelFiles
    headers: ModelHeaders
    stg_share: Fraction
    named: NamedPreset
    preset: str
    recipe: Recipe
    loras: tuple[GivenLora, ...]
    notes: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        return self.merged.settings

    @property
    def sources(self) -> Mapping[str, Place]:
        return self.merged.sources

    @property
    def transformer(self) -> TransformerConfig:
        return self.headers.shapes.transformer

    @property
    def vae(self) -> VideoVAEConfig:
        return self.headers.shapes.video_vae

    @property
    def chooses_files(self) -> bool:
        """Whether precision, storage and memory mode of the model are all unset, so that other files may be chosen."""
        settings = self.settings
        is_open = self.named.recipe is None and settings.transformer is None
        return is_open and settings.precision == settings.memory == "auto"

    def with_sound(self, sound: StreamMode) -> Basis:
        """The same with another mode of the audio."""
        settings = self.settings.model_copy(update={"sound": sound})
        return replace(self, merged=replace(self.merged, settings=settings))

    @property
    def frames_per_latent(self) -> int:
        """The required divisor of the number of frames minus one."""
        return self.recipe.frame_multiple(self.vae.factors.time)


@dataclass(frozen=True, slots=True)
class Planned:
    """Settings for planning without a render.

    Args: device: to plan for; None for that of `--device`. needs_files: whether the files of a registered model must
    exist anyway.
    """

    device: Device | None = None
    needs_files: bool = False


@dataclass(frozen=True)
class _Model:
    """The files of a model, its defaults, and the sizes that it supports."""

    files: ModelFiles
    headers: ModelHeaders
    registered: RegisteredModel | None

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Settings by name, `stg_block` and `samplers`. Raises: CheckpointError for an unsupported generation."""
        header = self.headers.header("transformer")
        made = generation(header)
        if made not in names("generations"):
            why = f"models of generation {made} are not supported yet" if made else "its generation is unknown"
            raise CheckpointError(f"{header.path.name} cannot be used to render", why)
        return generation_defaults(made) | (self.registered.defaults if self.registered else {})

    @property
    def tiers(self) -> Sequence[str]:
        """The sizes by name that it is made for."""
        if self.registered is None or self.registered.tiers is None:
            return names("tiers")
        return self.registered.tiers

    @property
    def layers(self) -> list[Layer]:
        settings = {name: value for name, value in self.defaults.items() if name not in NO_SETTINGS}
        return [(Place(Origin.MODEL, self.files.name), settings), (BUILT_IN, DEFAULTS)]

    def sampler_layer(self, preset: str) -> list[Layer]:
        """The default sampler of this generation for a recipe, if it is not the recipe's own."""
        sampler = self.defaults.get("samplers", {}).get(preset)
        return [] if sampler is None else [(Place(Origin.MODEL, self.files.name), {"sampler": sampler})]


def settle_basis(
    mode: Mode,
    layers: Sequence[Layer],
    own_presets: Mapping[str, Any],
    planned: Planned | None,
    found: ModelFiles | None,
) -> Basis:
    """Merge all settings, find the model and check that recipe, files and flags fit together.

    planned: for a plan without a render. found: the model, if its files are known already.
    """
    layers, named = with_presets(layers, own_presets)
    layers, ignored = without_rivals(layers, mode)
    preset = named.recipe
    fixed, usual = mode.layers
    layers = [fixed, *layers, usual]
    first = merge([*layers, (BUILT_IN, DEFAULTS)])
    settings = first.settings
    check_streams(mode.name, mode.streams, settings)
    edit = edit_of(settings) if mode.edits else None
    if edit == Edit.UPSCALE:
        layers.insert(-1, (BUILT_IN, KEPT_SOUND))
    device = first_device(first, planned and planned.device)
    library = Library(read_catalogue(), model_folders(settings))
    model = _find_model(settings, library, found, is_planned=planned is not None and not planned.needs_files)
    files = model.files
    loras = NamedLoras(library, generation(model.headers.header("transformer")))
    notes = (*ignored, *files.notes, *(() if found is not None else _hidden_by_name(settings, loras)))
    if preset is None:
        merged = merge([*layers, *model.layers])
        chosen = choose(merged, recipe_edit(edit), device, model.defaults, files, model.headers, model.tiers)
        preset, layers, notes = chosen.recipe, [*layers, *chosen.layers], (*notes, chosen.note)
    model.headers.check(ALWAYS_READ)
    model.headers.check_contexts()
    merged = _merged(layers, model, preset, has_own_size=edit == Edit.UPSCALE)
    adjusted = _adjusted(preset, merged, takes_references=mode.takes_references)
    if len(adjusted.stages) < len(recipe(preset).stages):
        notes = (*notes, f"{preset}: only its first stage is run, as no video is generated")
    check_recipe(preset, adjusted, recipe_edit(edit), merged, files, model.headers)
    return Basis(
        mode=mode,
        merged=merged,
        edit=edit,
        device=device,
        files=files,
        headers=model.headers,
        stg_share=Fraction(model.defaults["stg_block"]),
        named=named,
        preset=preset,
        recipe=adjusted,
        loras=_loras(merged.settings, edit, model.headers.header("transformer"), loras),
        notes=notes,
    )


def _merged(layers: Sequence[Layer], model: _Model, preset: str, *, has_own_size: bool) -> Merged:
    """All settings, with those of the model, of a size by name and of a recipe's sampler.

    has_own_size: whether the clip is enlarged, so that its size follows from that of another.
    """
    res = required(merge([*layers, *model.layers]).settings.res)
    sized = [] if has_own_size else _tier_layer(res, model)
    return merge([*layers, *sized, *model.sampler_layer(preset), *model.layers])


def _loras(settings: Settings, edit: Edit | None, transformer: Header, named: NamedLoras) -> tuple[GivenLora, ...]:
    """The LoRAs of a request: that of the edit first, then those of `--lora`."""
    control = control_lora(settings, named, edit) if edit is not None else ()
    specs = (*control, *(settings.lora or ()))
    return read_loras(specs, transformer, named, allow_partial=bool(settings.allow_partial_lora))


def _tier_layer(res: str, model: _Model) -> list[Layer]:
    """The settings of a size by name; none for an explicit size. Raises: RequestError if the model has no such size."""
    name = res.lower()
    if name not in names("tiers"):
        return []
    if name not in model.tiers:
        made_for = ", ".join(model.tiers) or "none of the sizes by name"
        why = f"model {model.files.name} is made for {made_for}"
        nearest = next(iter(model.tiers), model.defaults["res"])
        raise RequestError(f"--res {res} cannot be used", why, f"--res {nearest}, or another size as --res WxH")
    return [(Place(Origin.SIZE, name), read_tier(name).defaults)]


def _adjusted(preset: str, merged: Merged, *, takes_references: bool) -> Recipe:
    """A recipe with the given sampler, sigmas and tiles, unless it has a fixed sampler."""
    chosen, settings = recipe(preset), merged.settings
    sigmas = settings.sigmas
    if sigmas is not None and chosen.stages[0].start == "noise" and sigmas[0] != 1:
        where = merged.sources["sigmas"].spelled("sigmas")
        raise RequestError(
            f"{where} {sigmas[0]:g},… cannot be used here", "a clip that starts as noise starts at noise level 1"
        )
    if settings.video != "generate":
        chosen = chosen.for_audio()
    if takes_references and (settings.ref or settings.voice_ref):
        chosen = chosen.with_references(has_voice=settings.voice_ref is not None and settings.sound == "generate")
    sampler = None if chosen.names_its_sampler else settings.sampler
    adjusted = chosen.adjusted(sampler, sigmas, settings.tiles)
    return adjusted.enlarging(settings.upscale) if settings.upscale else adjusted


def _find_model(settings: Settings, library: Library, found: ModelFiles | None, *, is_planned: bool) -> _Model:
    """The model, which has the decoder that is asked for, and the text encoder that it was trained with."""
    files = _find_files(settings, library, found, is_planned=is_planned)
    model = _Model(files, ModelHeaders.of(files), registered_models().get(files.name))
    check_decoder(required(settings.decoder), model.headers)
    _check_text_encoder(model)
    return model


def _find_files(settings: Settings, library: Library, found: ModelFiles | None, *, is_planned: bool) -> ModelFiles:
    """The model's files, with given paths replacing its own. found: the model's files, if known."""
    given = [(role, getattr(settings, role, None)) for role in ROLES if role not in UPSAMPLERS.values()]
    given += [("upsampler", path) for path in settings.upsampler or ()]
    paths: dict[str, Path] = {}
    for role, spec in given:
        if spec is None:
            continue
        path = input_path(spec, option_name(role), StorageError)
        require_existing(path, f"{option_name(role)} {spec}", "check the path, or leave it out")
        paths[upsampler_role(read_header(path)) if role == "upsampler" else role] = path
    if found is not None:
        return replace(found, paths={**found.paths, **paths})
    name, models = required(settings.model), registered_models()
    registered = models.get(name.lower())
    if registered is not None and registered.problem is not None:
        hint = "ltx2 models lists those that can"
        raise CheckpointError(f"model {name} cannot be used to render", registered.problem, hint)
    asked = required(settings.decoder)
    decoder = None if asked == "auto" else cast("DecoderName", asked)
    return find_model(name, models, paths, library, is_planned=is_planned, decoder=decoder)


def _hidden_by_name(settings: Settings, loras: NamedLoras) -> Iterator[str]:
    """A line for each registered model or LoRA with the name of a file or folder here."""
    model = required(settings.model)
    if model.lower() in registered_models() and os.path.lexists(model):
        yield f"--model {model} is the model of that name; --model ./{model} is the file or folder here"
    given = [("--lora", spec) for spec in settings.lora or ()]
    if settings.control is not None:
        given.append(("--control", settings.control))
    for option, spec in given:
        if name := loras.hides(spec):
            yield f"{option} {name} is the LoRA of that name; {option} ./{name} is the file or folder here"


def _check_text_encoder(model: _Model) -> None:
    if "text_encoder" in model.files.assumed:
        return
    hint = "--text-encoder FOLDER|FILE names the text encoder that the model was trained with"
    encoder = find_encoder(model.files.require_file("text_encoder", hint))
    check_pair(encoder, model.headers.header("transformer"), model.headers.header("text_projection"))
