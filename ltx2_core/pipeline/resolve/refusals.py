"""What is refused, and what would have no effect: every reason in one place.

Source: spec cli, sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...config.released import effective_config
from ...config.upsampler import UpsamplerConfig
from ...config.video_vae import VideoVAEConfig
from ...errors import CheckpointError, RequestError
from ...headers import read_header
from ...hub import UPSAMPLERS
from ...lora_file import match, read_lora
from ..recipe import Recipe
from ..request import (
    Mode,
    StreamMode,
)
from ..values import option_name
from .edits import recipe_edit
from .presets import names, recipe
from .settings import COMMAND_LINE, Settings, required

if TYPE_CHECKING:
    from .basis import Basis

GUIDES_SOUND = ("audio_st", "audio_stg", "audio_rescale")
GUIDES_VIDEO = ("video_st", "video_stg", "video_rescale")
GUIDES_EACH_OTHER = ("video_sm", "audio_sm")
GUIDANCE = (*GUIDES_SOUND, *GUIDES_VIDEO, *GUIDES_EACH_OTHER, "stg_blocks", "skip_step", "negative")


def refuse(given: Iterable[str], without: Mapping[str, str]) -> None:
    """Raises: RequestError for the first setting that was given although it has no effect."""
    for setting in given:
        if setting in without:
            raise RequestError(f"{option_name(setting)} cannot be used here", without[setting], "leave it out")


def checked_prompt(mode: Mode, prompt: str) -> str:
    if mode == Mode.T2V and not prompt.strip():
        raise RequestError("the prompt is empty", hint='ltx2 t2v "a kettle starts to whistle"')
    if "\0" in prompt or any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise RequestError("the prompt cannot be read", "it holds bytes that are no text", "write it in UTF-8")
    return prompt


def check_streams(mode: Mode, settings: Settings) -> None:
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


def check_recipe(basis: Basis) -> None:
    """Refuse a recipe that this model's files, or the flags, do not go with."""
    preset, chosen, settings = basis.preset, basis.recipe, basis.merged.settings
    wanted = recipe_edit(basis.edit)
    if chosen.edit != wanted:
        why = f"it is made for ltx2 v2v, to {chosen.edit} a clip" if wanted is None else f"it does not {wanted} a clip"
        fitting = [name for name in names("recipes") if recipe(name).edit == wanted]
        raise RequestError(f"preset {preset} cannot be used here", why, f"--preset {' or '.join(fitting)}")
    for role in chosen.needs:
        option = option_name("upsampler" if role in UPSAMPLERS.values() else role)
        path = basis.files.need(role, f"{option} FILE names it; preset {preset} needs it")
        if role == "distilled_lora":
            match(read_lora(path), basis.header)
        else:
            _check_upsampler(path, basis.vae)
    given = [name for name, source in basis.merged.sources.items() if source == COMMAND_LINE]
    refuse(given, without_effect(required(settings.video), required(settings.sound)) | _without_effect(preset, chosen))


def _check_upsampler(path: Path, vae: VideoVAEConfig) -> None:
    """Refuse an upsampler that was made for other latents."""
    channels = UpsamplerConfig.from_metadata(effective_config(read_header(path))).channels
    if channels != vae.latent_channels:
        why = f"it enlarges latents of {channels} channels, and the model's have {vae.latent_channels}"
        raise CheckpointError(f"{path.name} does not go with this model", why, "--upsampler FILE names another")


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
