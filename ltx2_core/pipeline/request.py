"""What to render, with every value settled: from flags, files and presets to one record. Opens nothing but headers.

Source: spec cli, sections 1 to 3; spec pipelines, section 1.
"""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..config.released import effective_config
from ..config.transformer import TransformerConfig
from ..config.upsampler import UpsamplerConfig
from ..config.video_vae import VideoVAEConfig
from ..errors import CheckpointError, RequestError, StorageError
from ..headers import Header, generation, read_header
from ..hub import ROLES, UPSAMPLERS, ModelFiles, find_model, upsampler_role
from ..lora_file import match, read_lora
from ..media.clip import Encoding
from ..media.inputs import ImageSource, check_input
from ..sampling.guidance import GuidanceScales
from ..text.files import check_pair, find_encoder
from ..types import Streams
from .parts import Parts
from .recipe import Edit, Recipe, Record, Stage
from .resolve.auto import choose
from .resolve.edits import add_clip, control_lora, edit_of, recipe_edit, scaling
from .resolve.follow import dub_clip, follow_sound
from .resolve.inputs import (
    ClipInput,
    Extension,
    ImageInput,
    Inputs,
    LoraInput,
    ReferenceInput,
    SoundInput,
    Window,
    add_images,
    add_loras,
)
from .resolve.presets import RegisteredModel, generation_defaults, named_values, names, recipe, registered_models
from .resolve.settings import COMMAND_LINE, Layer, Merged, Settings, flag, merge, need, spelled
from .resolve.sizes import Frame, Length, choose_length, choose_size, choose_working_size, tier_layer
from .resolve.target import SLUG_LENGTH, require_apart, target_of
from .values import FrameRate

StreamMode = Literal["generate", "keep", "off"]

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
TAKEN_AS_SET = ("video", "sound", "schedule_tokens", "text_rows", "precision", "device")
GUIDES_SOUND = ("audio_st", "audio_stg", "audio_rescale")
GUIDES_VIDEO = ("video_st", "video_stg", "video_rescale")
GUIDES_EACH_OTHER = ("video_sm", "audio_sm")
GUIDANCE = (*GUIDES_SOUND, *GUIDES_VIDEO, *GUIDES_EACH_OTHER, "stg_blocks", "skip_step", "negative")


class Mode(StrEnum):
    """What a render starts from."""

    T2V = "t2v"
    I2V = "i2v"
    V2V = "v2v"
    A2V = "a2v"
    V2A = "v2a"


STREAMS: Mapping[Mode, Mapping[str, StreamMode]] = {  # of modes that leave no choice
    Mode.A2V: {"video": "generate", "sound": "keep"},
    Mode.V2A: {"video": "keep", "sound": "generate"},
}


class Request(Record):
    """Everything that decides what comes out, down to the bit. crop: size of the file, where it is smaller."""

    mode: Mode
    prompt: str
    negative: str | None
    seed: int
    width: int
    height: int
    crop: tuple[int, int] | None
    frames: int
    fps: FrameRate
    video: StreamMode
    sound: StreamMode
    preset: str
    recipe: Recipe
    steps: int
    guidance: Streams[GuidanceScales]
    loras: tuple[LoraInput, ...] = ()
    images: tuple[ImageInput, ...] = ()
    source: ClipInput | None = None
    sound_source: SoundInput | None = None
    references: tuple[ReferenceInput, ...] = ()
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    window: Window | None = None
    extension: Extension | None = None
    schedule_tokens: int
    text_rows: int
    precision: Literal["auto", "bf16", "fp32"]
    device: str

    @property
    def modes(self) -> Streams[StreamMode]:
        """What is done with each stream."""
        return Streams(self.video, self.sound)

    @property
    def duration_s(self) -> Fraction:
        """From the beginning of the first frame to the end of the last."""
        return self.frames / self.fps

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of the frames in the file."""
        return self.crop or (self.width, self.height)

    @property
    def has_new_sound(self) -> bool:
        """Whether sound is made from nothing."""
        return self.sound == "generate" and self.sound_source is None

    @property
    def steps_of_stages(self) -> list[int]:
        """How many steps each stage takes; of a schedule that begins at a strength, how many the whole one has."""

        def steps(stage: Stage) -> int:
            sigmas = stage.listed_sigmas()
            if sigmas is None:
                return self.steps
            if self.strength is None or stage.start != "source":
                return len(sigmas) - 1
            levels = {*sigmas, min(self.strength, sigmas[0])}
            return sum(self.has_new_sound or level <= self.strength for level in levels) - 1

        return [steps(stage) for stage in self.recipe.stages]


class OutputSettings(Record):
    """How the result is written; none of it changes a latent. audio_codec: copy means the packets of a given sound."""

    codec: Literal["h264", "h265", "av1"]
    audio_codec: Literal["aac", "alac", "flac", "copy"]
    crf: int | None = None
    old_sound: Literal["drop", "second-track"] = "drop"
    metadata: bool
    sheet: bool
    strict: bool
    keep_latents: bool

    @property
    def encoding(self) -> Encoding:
        """Codecs and quality, checked against each other. Raises: RequestError."""
        return Encoding(video=self.codec, audio=self.audio_codec, crf=self.crf)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A request with the files it needs and the place it goes to.

    Args: inputs: files that the request names, by role. sources: where each setting came from. notes: what was chosen
    or rounded, for a person. warnings: likewise, where the result may suffer.
    """

    request: Request
    output: OutputSettings
    files: ModelFiles
    inputs: Mapping[str, Path]
    target: Path
    job_dir: Path
    overwrite: bool = False
    skip_existing: bool = False
    uses_cache: bool = True
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the target is there and is to be left alone."""
        return self.skip_existing and self.target.exists()


def resolve(
    mode: Mode,
    prompt: str,
    layers: Sequence[Layer],
    own_presets: Mapping[str, Any] | None = None,
    main: Path | None = None,
) -> Resolved:
    """Settle every value, find every file and check everything that can be checked before a model is read.

    Args: layers: what was set and where, most important first: flags, environment, files. own_presets: the user's, by
    name, each a mapping of settings. main: the image that i2v begins with, the clip of v2v and v2a, the sound of a2v.
    Raises: RequestError, StorageError, CheckpointError, MediaError.
    """
    prompt = _checked_prompt(mode, prompt)
    basis = _settle_basis(mode, layers, own_presets or {})
    settings, sources = basis.merged.settings, basis.merged.sources
    command = " ".join([f"ltx2 {mode}", *([shlex.quote(str(main))] if main else []), *_quoted(prompt)])
    inputs, length, frame = _gather_inputs(basis, mode, main, command)
    request = Request(
        mode=mode,
        prompt=prompt,
        negative=settings.negative if basis.recipe.is_guided else None,
        seed=secrets.randbelow(2**31) if settings.seed is None else settings.seed,
        width=frame.size[0],
        height=frame.size[1],
        crop=frame.crop,
        frames=length.frames,
        fps=length.fps,
        preset=basis.preset,
        recipe=basis.recipe,
        steps=len(settings.sigmas) - 1 if settings.sigmas else need(settings.steps),
        guidance=_guidance(basis),
        **inputs.fields,
        **{name: getattr(settings, name) for name in TAKEN_AS_SET},
    )
    output = OutputSettings(**{key: getattr(settings, key) for key in OutputSettings.model_fields} | inputs.output)
    _ = output.encoding  # refuses a crf that the codec does not have
    target = target_of(settings, request, inputs.suffix)
    require_apart(target, inputs.paths.values())
    return Resolved(
        request=request,
        output=output,
        files=basis.files,
        inputs=inputs.paths,
        target=target,
        job_dir=Path(settings.job_dir).expanduser() if settings.job_dir else target.with_name(target.name + ".job"),
        overwrite=bool(settings.overwrite),
        skip_existing=bool(settings.skip_existing),
        uses_cache=bool(settings.cache),
        sources={**sources, **inputs.sources},
        notes=(*basis.notes, *frame.notes, *length.notes, *inputs.notes),
        warnings=length.warnings,
    )


@dataclass(frozen=True, kw_only=True)
class _Basis:
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


def _settle_basis(mode: Mode, layers: Sequence[Layer], own_presets: Mapping[str, Any]) -> _Basis:
    """Merge all settings, find the model and check that recipe, files and flags go together."""
    preset_layers, recipe_name = _preset_layers(merge(layers).settings.preset, own_presets)
    layers = [(mode, STREAMS.get(mode, {})), *layers, *preset_layers]
    settings = merge([*layers, ("built-in", BUILT_IN)]).settings
    _check_streams(mode, settings)
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
    res = need(merge([*layers, *below]).settings.res)
    merged = merge([*layers, *tier_layer(res, files.name, tiers), *below])
    adjusted = _adjusted(preset, merged)
    if len(adjusted.stages) < len(recipe(preset).stages):
        notes = (*notes, f"{preset}: only its first stage is run, as no picture is made")
    basis = _Basis(
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
    _check_recipe(basis)
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


def _check_recipe(basis: _Basis) -> None:
    """Refuse a recipe that this model's files, or the flags, do not go with."""
    preset, chosen, settings = basis.preset, basis.recipe, basis.merged.settings
    wanted = recipe_edit(basis.edit)
    if chosen.edit != wanted:
        why = f"it is made for ltx2 v2v, to {chosen.edit} a clip" if wanted is None else f"it does not {wanted} a clip"
        fitting = [name for name in names("recipes") if recipe(name).edit == wanted]
        raise RequestError(f"preset {preset} cannot be used here", why, f"--preset {' or '.join(fitting)}")
    for role in chosen.needs:
        option = flag("upsampler" if role in UPSAMPLERS.values() else role)
        path = basis.files.need(role, f"{option} FILE names it; preset {preset} needs it")
        if role == "distilled_lora":
            match(read_lora(path), basis.header)
        else:
            _check_upsampler(path, basis.vae)
    given = [name for name, source in basis.merged.sources.items() if source == COMMAND_LINE]
    refuse(given, without_effect(need(settings.video), need(settings.sound)) | _without_effect(preset, chosen))


def _check_upsampler(path: Path, vae: VideoVAEConfig) -> None:
    """Refuse an upsampler that was made for other latents."""
    channels = UpsamplerConfig.from_metadata(effective_config(read_header(path))).channels
    if channels != vae.latent_channels:
        why = f"it enlarges latents of {channels} channels, and the model's have {vae.latent_channels}"
        raise CheckpointError(f"{path.name} does not go with this model", why, "--upsampler FILE names another")


def _gather_inputs(basis: _Basis, mode: Mode, main: Path | None, command: str) -> tuple[Inputs, Length, Frame]:
    """The files of a request, and how long and how large what the model makes of them, or looks at, becomes."""
    merged, k = basis.merged, basis.recipe.frame_multiple(basis.vae.factors.time)
    settings, sources, inputs = merged.settings, merged.sources, Inputs()
    loras = (*(control_lora(settings) if basis.edit else ()), *(settings.lora or ()))
    add_loras(inputs, loras, basis.header, allow_partial=bool(settings.allow_partial_lora))
    if basis.edit is not None or mode == Mode.V2A:
        main = need(main)
        length, shown = (add_clip if basis.edit else dub_clip)(inputs, main, merged, k, command)
        if settings.video == "keep":
            return inputs, length, choose_working_size(settings, sources, basis.recipe, basis.vae, shown, command)
        scale = max((reference.spatial_scale for reference in inputs.fields.get("references", ())), default=1)
        frame = choose_size(settings, sources, basis.recipe, basis.vae, shown, command, scale)
        return inputs, length, replace(frame, notes=(*frame.notes, *scaling(main.name, shown, frame.size)))
    images = list(settings.image or ())
    if mode == Mode.A2V:
        length = follow_sound(inputs, need(main), merged, k, command)
    else:
        length = choose_length(settings, sources, k, command)
        images = [*([str(main)] if main else []), *images]
    add_images(inputs, images, length, need(settings.image_crf))
    shown = None
    if mode != Mode.T2V and images:
        still = check_input(inputs.paths[inputs.fields["images"][0].role], ImageSource)
        shown = (still.width, still.height)
    return inputs, length, choose_size(settings, sources, basis.recipe, basis.vae, shown, command)


def _check_streams(mode: Mode, settings: Settings) -> None:
    """Refuse what a mode cannot do with its streams."""
    if "generate" not in (settings.video, settings.sound):
        what = f"--video {settings.video} and --sound {settings.sound}"
        raise RequestError(f"{what} leave nothing to render")
    if settings.sound == "keep" and mode not in (Mode.V2V, Mode.A2V):
        raise RequestError("--sound keep cannot be used here", "there is no old sound", "leave it out")
    if settings.video == "keep" and mode not in (Mode.V2V, Mode.V2A):
        raise RequestError("--video keep cannot be used here", "there is no old picture", "leave it out")
    if settings.video == "off" and mode == Mode.V2V:
        raise RequestError("--video off cannot be used with v2v", "the picture is what it changes", "leave it out")


def refuse(given: Iterable[str], without: Mapping[str, str]) -> None:
    """Raises: RequestError for the first setting that was given although it has no effect."""
    for setting in given:
        if setting in without:
            raise RequestError(f"{flag(setting)} cannot be used here", without[setting], "leave it out")


def _checked_prompt(mode: Mode, prompt: str) -> str:
    if mode == Mode.T2V and not prompt.strip():
        raise RequestError("the prompt is empty", hint='ltx2 t2v "a kettle starts to whistle"')
    if "\0" in prompt or any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise RequestError("the prompt cannot be read", "it holds bytes that are no text", "write it in UTF-8")
    return prompt


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
            raise StorageError(f"{flag(role)} {spec} is not there", hint="check the path, or leave it out")
        paths[upsampler_role(read_header(path)) if role == "upsampler" else role] = path
    return find_model(need(settings.model), registered_models(), paths)


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


def without_effect(video: StreamMode, sound: StreamMode) -> dict[str, str]:
    """Settings that change nothing with what is done to the streams, each with the reason."""
    without = {} if video == "keep" else {"old_sound": "the sound of the result is the only one there is"}
    if video == "keep":
        names = ("aspect", "crop", "fps", "codec", "crf", *GUIDES_VIDEO, "video_sm")
        without |= dict.fromkeys(names, "the picture that is given stays as it is")
    if video == "off":
        names = ("res", "codec", "crf", "audio_codec", *GUIDES_VIDEO, *GUIDES_EACH_OTHER)
        without |= dict.fromkeys(names, "--video off leaves only sound")
    if sound == "keep":
        without |= dict.fromkeys((*GUIDES_SOUND, "audio_sm"), "the sound that is given stays as it is")
    if sound == "off":
        names = ("audio_codec", *GUIDES_SOUND, *GUIDES_EACH_OTHER)
        without |= dict.fromkeys(names, "--sound off leaves only the picture")
    return without


def _without_effect(preset: str, chosen: Recipe) -> dict[str, str]:
    """Settings that change nothing with a recipe, each with the reason."""
    without: dict[str, str] = {}
    if not chosen.is_guided:
        without |= dict.fromkeys(GUIDANCE, f"preset {preset} has no guidance")
    if all(stage.sigmas for stage in chosen.stages):
        without |= dict.fromkeys(("steps", "schedule_tokens"), f"preset {preset} has steps of its own")
    if recipe(preset).names_its_sampler:
        without["sampler"] = f"preset {preset} has a sampler of its own"
    for role, needed in {"upsampler": UPSAMPLERS.values(), "distilled_lora": ["distilled_lora"]}.items():
        if not {*needed} & {*chosen.needs}:
            without[role] = f"preset {preset} does not need it"
    return without


def _guidance(basis: _Basis) -> Streams[GuidanceScales]:
    """The scales of both streams. One that is alone has no other to be pulled towards; one that is kept has none."""
    settings, layers = basis.merged.settings, basis.transformer.layers
    is_alone = "off" in (settings.video, settings.sound)
    skip_step = need(settings.skip_step)
    blocks = settings.stg_blocks
    if blocks is None:
        blocks = (math.floor(basis.stg_share * layers),)
    unknown = [block for block in blocks if block >= layers]
    if unknown:
        raise RequestError(f"--stg-blocks {unknown[0]} cannot be used", f"the model has the blocks 0 to {layers - 1}")

    def scales(stream: str, mode: StreamMode | None) -> GuidanceScales:
        if mode == "keep":
            return GuidanceScales(skip_step=skip_step)

        def of(name: str) -> float:
            return need(getattr(settings, f"{stream}_{name}"))

        stg = of("stg")
        return GuidanceScales(
            st=of("st"),
            sm=1.0 if is_alone else of("sm"),
            stg=stg,
            stg_blocks=blocks if stg else (),
            rescale=of("rescale"),
            skip_step=skip_step,
        )

    return Streams(scales("video", settings.video), scales("audio", settings.sound))


def _quoted(prompt: str) -> list[str]:
    """The prompt as part of a command in a hint, if there is one."""
    line = " ".join(prompt.split()).replace('"', "'")
    line = line if len(line) <= SLUG_LENGTH else line[: SLUG_LENGTH - 1] + "…"
    return [f'"{line}"'] if line else []
