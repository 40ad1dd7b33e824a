"""Refusals, and settings without effect: every reason in one place.

Source: docs/cli.md, "Commands" and "Strictness".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

from ...components import UPSAMPLERS
from ...config.landmarks import check_header
from ...config.released import effective_config
from ...config.upsampler import UpsamplerConfig
from ...config.video_vae import VideoVAEConfig
from ...errors import CheckpointError, RequestError
from ...grids import AUDIO_LATENTS_PER_SECOND, Factors, audio_latent_count, snap_up
from ...headers import read_header
from ...hub.find import ModelFiles
from ...lora_file import match, read_lora
from ...sampling.guidance import PassKind
from ...tiles import STAGE_OVERLAP
from ..parts import ModelHeaders
from ..recipe import Edit, Recipe
from ..request import COPY, OutputSettings, Request, StreamMode
from ..values import OFF, counted, option_name, show_fps, show_ranges
from .loras import refuse_hdr
from .presets import names, recipe
from .settings import Merged, Origin, Settings, required

GUIDES_AUDIO = ("audio_st", "audio_stg", "audio_rescale")
GUIDES_VIDEO = ("video_st", "video_stg", "video_rescale")
GUIDES_EACH_OTHER = ("video_sm", "audio_sm")
GUIDANCE = (*GUIDES_AUDIO, *GUIDES_VIDEO, *GUIDES_EACH_OTHER, "stg_blocks", "skip_step", "negative")

MOST_CHARACTERS = 100_000  # of a text for the model, whose tokens beyond some hundreds are cut off
OF_NEW_FRAMES = ("decoder", "codec", "crf", "preview", "tiles", *GUIDES_VIDEO)

# By the mode of a stream: settings that have no effect, and the reason.
IDLE_FOR_VIDEO = {
    "keep": ((*OF_NEW_FRAMES, "video_sm", "aspect", "crop", "fps", "until"), "the given video stays as it is"),
    "off": (
        (*OF_NEW_FRAMES, *GUIDES_EACH_OTHER, "generated_keyframes", "ref", "res", "audio_codec", "attention"),
        "--video off leaves only audio",
    ),
}
IDLE_FOR_AUDIO = {
    "keep": ((*GUIDES_AUDIO, "audio_sm", "voice_ref"), "the given audio stays as it is"),
    "off": (
        (*GUIDES_AUDIO, *GUIDES_EACH_OTHER, "audio_codec", "loudness", "attention", "voice_ref"),
        "--sound off leaves only video",
    ),
}
REASONS_NOT_TO = {  # reasons why a mode does not offer a stream setting
    "generate": "this mode keeps its input",
    "keep": "there is none in the input to keep",
    "off": "this mode generates it",
}


def refuse(given: Iterable[str], without: Mapping[str, str]) -> None:
    """Raises: RequestError for the first given setting that has no effect."""
    for setting in given:
        if setting in without:
            raise RequestError(f"{option_name(setting)} cannot be used here", without[setting], "leave it out")


def check_prompt(prompt: str, *, is_needed: bool) -> None:
    """Raises: RequestError for an empty prompt if one is needed, and as `check_text`."""
    if is_needed and not prompt.strip():
        raise RequestError("the prompt is empty", hint='ltx2 t2v "a kettle starts to whistle"')
    check_text(prompt, "the prompt")


def check_text(text: str, name: str) -> None:
    """Raises: RequestError for something that is not text, and for far more text than any model reads.

    name: of the text in messages.
    """
    if len(text) > MOST_CHARACTERS:
        why = f"it has {len(text):,} characters, and {MOST_CHARACTERS:,} is the most"
        raise RequestError(f"{name} cannot be used", why, "give a shorter one")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError(f"{name} cannot be read", "it holds bytes that are not text", "write it in UTF-8")


def check_streams(mode: str, choices: Mapping[str, tuple[StreamMode, ...]], settings: Settings) -> None:
    """Refuse impossible modes of the streams. choices: the possible ones, by the name of the setting."""
    for name, possible in choices.items():
        asked = getattr(settings, name)
        if asked not in possible:
            reason = REASONS_NOT_TO[asked]
            raise RequestError(f"{option_name(name)} {asked} cannot be used with {mode}", reason, "leave it out")
    if "generate" not in (settings.video, settings.sound):
        raise RequestError(f"--video {settings.video} and --sound {settings.sound} leave nothing to render")


def check_decoder(asked: str, headers: ModelHeaders) -> None:
    """Raises: RequestError for a decoder that the model's files do not contain."""
    name = headers.shapes.video_vae.decoder_name
    if asked not in ("auto", name):
        why = f"{headers.header('video_decoder').path.name} holds the {name} decoder"
        hint = f"--video-vae FILE names a file with the {asked} decoder; or leave --decoder out"
        raise RequestError(f"--decoder {asked} cannot be used", why, hint)


def nothing_to_copy() -> RequestError:
    """The error for `--audio-codec copy` where the audio is generated, so that there are no packets to copy."""
    return RequestError("--audio-codec copy cannot be used", "the audio is generated", "--audio-codec aac")


def check_loudness(output: OutputSettings) -> None:
    """Raises: RequestError for a loudness if the audio's packets are copied."""
    if output.loudness != OFF and output.audio_codec == COPY:
        what = f"--loudness {output.loudness:g} cannot be used here"
        raise RequestError(what, "the given audio is copied as it is", "--audio-codec aac encodes it")


def check_attention(merged: Merged, request: Request, layers: int) -> None:
    """Refuse an attention map that cannot be captured. layers: of the denoiser."""
    settings, number = merged.settings, request.recipe.audio_stage
    what = "--attention cannot be used here"
    if settings.compile:
        raise RequestError(what, "attention cannot be captured in compiled blocks", "render without --compile")
    if (settings.ranks or 1) > 1:
        raise RequestError(what, "each rank has only its own rows of the video", "render without --ranks")
    if not request.recipe.stages[number - 1].is_whole:
        why = f"stage {number}, whose audio goes into the file, works in tiles"
        raise RequestError(what, why, "another --preset, or leave --tiles out")
    steps = request.steps_of_stages[number - 1]
    for name, first, last in (("blocks", 0, layers - 1), ("steps", 1, steps)):
        setting = f"attention_{name}"
        asked = getattr(settings, setting) or ()
        if any(not first <= one <= last for one in asked):
            whose = "the model" if name == "blocks" else f"stage {number}"
            raise RequestError(
                f"{merged.sources[setting].spelled(setting)} {show_ranges(asked)} cannot be used",
                f"{whose} has the {name} {first} to {last}",
            )


def check_tiles(merged: Merged, request: Request, factors: Factors) -> None:
    """Raises: RequestError for more tiles on the command line than the video of a stage is large enough for."""
    asked = merged.settings.tiles
    if asked is None or merged.sources["tiles"].origin is not Origin.COMMAND_LINE:
        return
    for stage in request.recipe.stages:
        _, rows, columns = request.grid(factors, stage).latent
        most = max(1, columns - STAGE_OVERLAP), max(1, rows - STAGE_OVERLAP)
        across, down = min(asked[0], most[0]), min(asked[1], most[1])
        if stage.tiles is not None and (across, down) != asked:
            what = f"--tiles {asked[0]}x{asked[1]} cannot be used here"
            why = f"the video is {columns}x{rows} latent cells large, and neighbours share {STAGE_OVERLAP} of them"
            raise RequestError(what, why, f"--tiles {across}x{down}")


def check_cached_steps(merged: Merged, request: Request) -> None:
    """Raises: RequestError for cached steps if they cannot be used."""
    if not request.cache_steps:
        return
    settings = merged.settings
    what = f"--cache-steps {request.cache_steps:g} cannot be used here"
    if (settings.ranks or 1) > 1:
        raise RequestError(what, "ranks would have to agree on each evaluation", "render without --ranks")
    if settings.attention is not None:
        raise RequestError(what, "skipped blocks compute no attention", "render without --attention")


def check_recipe(
    preset: str, chosen: Recipe, wanted: Edit | None, merged: Merged, files: ModelFiles, headers: ModelHeaders
) -> None:
    """Refuse a recipe that does not fit this model's files, or the flags. wanted: the required edit."""
    if chosen.edit != wanted:
        why = f"it does not {wanted} a clip"
        if wanted is None:
            why = f"it is made for ltx2 v2v, to {chosen.edit} a clip"
        fitting = [f"--preset {name}" for name in names("recipes") if recipe(name).edit == wanted]
        raise RequestError(f"preset {preset} cannot be used here", why, " or ".join(fitting))
    for role in chosen.needs:
        option = option_name("upsampler" if role in UPSAMPLERS.values() else role)
        path = files.require_file(role, f"{option} FILE names it; preset {preset} needs it")
        if role in files.assumed:
            continue
        if role == "distilled_lora":
            lora = read_lora(path)
            refuse_hdr(lora, f"--distilled-lora {path.name}")
            match(lora, headers.header("transformer"))
        else:
            _check_upsampler(path, headers.shapes.video_vae)
    video, audio = required(merged.settings.video), required(merged.settings.sound)
    refuse(
        _flags(merged),
        without_effect(video, audio) | _without_effect(preset, chosen) | _nothing_to_act_on(merged.settings),
    )


def check_guidance(merged: Merged, request: Request) -> None:
    """Refuse settings of guidance if the scales of a request disable it."""
    rows = zip(request.streams._fields, request.streams, request.guidance, strict=True)
    generated = {name: scales for name, mode, scales in rows if mode == "generate" and scales is not None}
    without: dict[str, str] = {}
    if not any(scales.needs(PassKind.UNCOND) for scales in generated.values()):
        options = " or ".join(option_name(f"{name}_st") for name in generated)
        without["negative"] = f"it is used only if {options} is not 1"
    for name, scales in generated.items():
        if scales.rescale and not any(scales.needs(kind) for kind in PassKind if kind is not PassKind.COND):
            without[f"{name}_rescale"] = f"no guidance of the {name} is switched on"
    refuse(_flags(merged), without)


def check_audio_length(request: Request) -> None:
    """Raises: RequestError for a clip that is too short for a single step of audio, which lasts 40 ms."""
    if request.audio == "off" or audio_latent_count(request.frames, request.fps):
        return
    what = f"{counted(request.frames, 'frame')} at {show_fps(request.fps)} fps cannot have audio"
    least = snap_up(math.ceil(request.fps / Fraction(AUDIO_LATENTS_PER_SECOND)))
    hint = f"--frames {least}" if request.video == "off" else f"--frames {least}, or --sound off"
    raise RequestError(what, "audio is generated in steps of 40 ms, and this is less", hint)


def _flags(merged: Merged) -> list[str]:
    """The settings on the command line."""
    return [name for name, place in merged.sources.items() if place.origin is Origin.COMMAND_LINE]


def _check_upsampler(path: Path, vae: VideoVAEConfig) -> None:
    """Refuse an upsampler that cannot be loaded, or that was made for other latents."""
    header = read_header(path)
    channels = UpsamplerConfig.from_metadata(effective_config(header)).channels
    if channels != vae.latent_channels:
        why = f"it enlarges latents of {channels} channels, and the model's have {vae.latent_channels}"
        raise CheckpointError(f"{path.name} does not go with this model", why, "--upsampler FILE names another")
    check_header("upsampler", header)


def without_effect(video: str, audio: str) -> dict[str, str]:
    """Settings without effect for the modes of the streams, each with the reason."""
    without: dict[str, str] = {}
    if video != "keep":
        without["old_sound"] = "the result has no other audio"
    for idle, mode in ((IDLE_FOR_VIDEO, video), (IDLE_FOR_AUDIO, audio)):
        if mode in idle:
            settings, why = idle[mode]
            without |= dict.fromkeys(settings, why)
    return without


def _without_effect(preset: str, chosen: Recipe) -> dict[str, str]:
    """Settings without effect for a recipe, each with the reason."""
    without: dict[str, str] = {}
    if not chosen.is_guided:
        without |= dict.fromkeys((*GUIDANCE, "cache_steps"), f"preset {preset} has no guidance")
    if chosen.edit != Edit.UPSCALE and not any(stage.takes_tiles for stage in chosen.stages):
        without["tiles"] = f"preset {preset} has no stage that refines an enlarged video"
    if all(stage.sigmas for stage in chosen.stages):
        without |= dict.fromkeys(("steps", "schedule_tokens"), f"preset {preset} has steps of its own")
    if recipe(preset).names_its_sampler:
        without["sampler"] = f"preset {preset} has a sampler of its own"
    if chosen.edit == Edit.UPSCALE:
        without |= dict.fromkeys(("res", "aspect"), "the size follows from that of the clip")
    for role, needed in {"upsampler": UPSAMPLERS.values(), "distilled_lora": ["distilled_lora"]}.items():
        if not {*needed} & {*chosen.needs}:
            without[role] = f"preset {preset} does not need it"
    return without


def _nothing_to_act_on(settings: Settings) -> dict[str, str]:
    """Settings without effect because of other settings, each with the reason."""
    without: dict[str, str] = {}
    if not settings.lora and settings.control is None:
        without["allow_partial_lora"] = "no LoRA is given"
    if settings.until is None:
        without |= dict.fromkeys(("window", "overlap"), "no --until is given")
    if settings.attention is None:
        without |= dict.fromkeys(("attention_blocks", "attention_steps"), "no --attention is given")
    if not settings.generated_keyframes:
        without["keyframe_stills"] = "no keyframes are generated"
    made = {"video": settings.video == "generate", "audio": settings.sound == "generate"}
    streams = [stream for stream, is_made in made.items() if is_made]
    if not any(getattr(settings, f"{stream}_stg") for stream in streams):
        without["stg_blocks"] = "--video-stg and --audio-stg are 0"
    return without
