"""Everything that a person can set, wherever they set it, and the one function that merges the places.

Source: docs/cli.md, "Precedence of settings" and "Strictness".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ...errors import RequestError
from ...machine import Precision
from ..recipe import SamplerName, Sigmas
from ..request import AudioCodecName, OldTrackName, OutputSettings, StreamMode, VideoCodecName
from ..values import (
    ASPECTS,
    Choice,
    Device,
    Duration,
    FrameRate,
    Span,
    Tiles,
    Time,
    did_you_mean,
    option_name,
    split_list,
)


class Origin(StrEnum):
    """What kind of place a setting comes from, in words."""

    COMMAND_LINE = "the command line"
    ENVIRONMENT = "the environment"
    FILE = "file"
    PRESET = "preset"
    MODE = "mode"
    SIZE = "size"
    INPUT = "input"
    MODEL = "model"
    BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a setting was set. name: of the file, preset, size, input, mode or model."""

    origin: Origin
    name: str = ""

    @property
    def is_asked(self) -> bool:
        """Whether a person has set it there, rather than the model or this program."""
        return self.origin not in (Origin.MODEL, Origin.BUILT_IN)

    def __str__(self) -> str:
        if self.origin in (Origin.FILE, Origin.MODE, Origin.INPUT):
            return self.name
        return f"{self.origin.value} {self.name}".strip()

    def spelled(self, setting: str) -> str:
        """How a setting is written there."""
        if self.origin is Origin.COMMAND_LINE:
            return option_name(setting)
        if self.origin is Origin.ENVIRONMENT:
            return "LTX2_" + setting.upper()
        return setting


COMMAND_LINE, ENVIRONMENT, BUILT_IN = Place(Origin.COMMAND_LINE), Place(Origin.ENVIRONMENT), Place(Origin.BUILT_IN)
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(split_list)]
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Aspect = Annotated[str, BeforeValidator(Choice.of(ASPECTS))]
PrecisionName = Annotated[str, BeforeValidator(Choice(("auto", *get_args(Precision))))]
Presence = Annotated[StreamMode, BeforeValidator(Choice(get_args(StreamMode)))]


class Settings(BaseModel):
    """One value per option; None where nobody has set it. The names are those of the flags, with underscores."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)

    model: str | None = None
    transformer: str | None = None
    video_vae: str | None = None
    audio_vae: str | None = None
    text_encoder: str | None = None
    upsampler: Paths | None = None
    distilled_lora: str | None = None
    lora: Paths | None = None
    allow_partial_lora: bool | None = None
    precision: PrecisionName | None = None
    device: Device | None = None
    cache: bool | None = None

    res: str | None = None
    aspect: Aspect | None = None
    crop: bool | None = None
    duration: Duration | None = None
    frames: Annotated[int, Field(ge=1, le=100_000)] | None = None
    fps: FrameRate | None = None

    start: Time | None = None
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    extend: Duration | None = None
    extend_before: Duration | None = None
    retake: Span | None = None
    control: str | None = None

    image: tuple[str, ...] | None = None
    image_crf: Annotated[int, Field(ge=0, le=51)] | None = None

    preset: str | None = None
    sampler: SamplerName | None = None
    sigmas: Annotated[Sigmas, BeforeValidator(split_list)] | None = None
    steps: Annotated[int, Field(ge=2, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    negative: str | None = None
    video_st: Scale | None = None
    video_sm: Scale | None = None
    audio_st: Scale | None = None
    audio_sm: Scale | None = None
    video_stg: Scale | None = None
    audio_stg: Scale | None = None
    stg_blocks: Blocks | None = None
    video_rescale: Share | None = None
    audio_rescale: Share | None = None
    skip_step: Annotated[int, Field(ge=0, le=100)] | None = None
    schedule_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    text_rows: Annotated[int, Field(ge=1, le=8192)] | None = None
    tiles: Tiles | None = None

    video: Presence | None = None
    sound: Presence | None = None
    old_sound: OldTrackName | None = None

    output: str | None = None
    overwrite: bool | None = None
    skip_existing: bool | None = None
    codec: VideoCodecName | None = None
    audio_codec: AudioCodecName | None = None
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    metadata: bool | None = None
    keep_latents: bool | None = None
    job_dir: str | None = None
    sheet: bool | None = None
    strict: bool | None = None


DEFAULTS: Mapping[str, Any] = {  # what holds where neither a person nor the model says anything
    "model": "ltx-2",
    "precision": "auto",
    "device": "auto",
    "cache": True,
    "skip_existing": False,
    **{name: field.default for name, field in OutputSettings.model_fields.items()},
}


def choices(name: str) -> tuple[str, ...]:
    """The values that a setting can have, where they are names; else nothing."""
    for kind in get_args(Settings.model_fields[name].annotation):
        for mark in getattr(kind, "__metadata__", ()):
            if isinstance(mark, BeforeValidator) and isinstance(mark.func, Choice):
                return mark.func.names
    return ()


WHOLE = "it must be a whole number"
REASONS = {  # why a value cannot be used, by pydantic's name for it
    "int_parsing": WHOLE,
    "int_type": WHOLE,
    "int_from_float": WHOLE,
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than_equal": "it must be at most {le:g}",
    "less_than": "it must be less than {lt}",
    "too_short": "it must hold at least {min_length}",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "string_type": "it must be text",
}
ONE_OF = ({"frames", "duration"}, {"steps", "sigmas"})  # whichever of two is set first settles both

T = TypeVar("T")
Layer = tuple[Place, Mapping[str, Any]]  # where it comes from, and what it sets


@dataclass(frozen=True, slots=True)
class Merged:
    """The settings that hold, and where each of them was set."""

    settings: Settings
    sources: Mapping[str, Place]

    def is_asked(self, name: str) -> bool:
        """Whether a person has set it, rather than the model or this program."""
        return self.sources.get(name, BUILT_IN).is_asked


def merge(layers: Sequence[Layer]) -> Merged:
    """Put layers on each other; the first that sets a value wins.

    Raises: RequestError that names the value, the option and the place, for anything unknown or out of bounds.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Place] = {}
    for source, layer in layers:
        given = check_layer(source, layer)
        for pair in ONE_OF:
            if given.keys() >= pair:
                both = " and ".join(source.spelled(name) for name in sorted(pair))
                raise RequestError(f"{both} say the same thing", f"both are set by {source}", "give one of them")
        settled = values.keys() | {name for pair in ONE_OF if pair & values.keys() for name in pair}
        fresh = {name: value for name, value in given.items() if name not in settled}
        values |= fresh
        sources |= dict.fromkeys(fresh, source)
    return Merged(Settings.model_construct(**values), sources)


def check_layer(source: Place, layer: Mapping[str, Any]) -> dict[str, Any]:
    """The values that one place sets, parsed; what is None there counts as not set."""
    unknown = [name for name in layer if name not in Settings.model_fields]
    if unknown:
        known = [*Settings.model_fields]
        raise RequestError(f"unknown setting {unknown[0]} in {source}", hint=did_you_mean(unknown[0], known))
    given = {name: value for name, value in layer.items() if value is not None}
    try:
        parsed = Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        known = REASONS.get(first["type"])
        why = known.format(**first.get("ctx", {})) if known else first["msg"].removeprefix("Value error, ")
        where = "" if source in (COMMAND_LINE, ENVIRONMENT) else f" (set in {source})"
        raise RequestError(f"{source.spelled(name)} {given[name]} cannot be used", why + where) from error
    return {name: getattr(parsed, name) for name in given}


def required(value: T | None) -> T:
    """A setting that the built-in values or the model's always give."""
    assert value is not None
    return value
