"""Everything that a person can set, wherever they set it, and the one function that merges the places.

Source: spec cli, sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ...errors import RequestError
from ..recipe import Sampler, Sigmas
from ..values import Device, Duration, FrameRate, Span, Tiles, Time, did_you_mean, option_name, split_list

COMMAND_LINE, ENVIRONMENT = "the command line", "the environment"
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(split_list)]
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
# A bare `off` in YAML means false.
Presence = Annotated[
    Literal["generate", "keep", "off"], BeforeValidator(lambda value: "off" if value is False else value)
]


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
    precision: Literal["auto", "bf16", "fp32"] | None = None
    device: Device | None = None
    cache: bool | None = None

    res: str | None = None
    aspect: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"] | None = None
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
    sampler: Sampler | None = None
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
    old_sound: Literal["drop", "second-track"] | None = None

    output: str | None = None
    overwrite: bool | None = None
    skip_existing: bool | None = None
    codec: Literal["h264", "h265", "av1"] | None = None
    audio_codec: Literal["aac", "alac", "flac"] | None = None
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    metadata: bool | None = None
    keep_latents: bool | None = None
    job_dir: str | None = None
    sheet: bool | None = None
    strict: bool | None = None


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
    "literal_error": "it must be {expected}",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "string_type": "it must be text",
}
ONE_OF = ({"frames", "duration"}, {"steps", "sigmas"})  # whichever of two is set first settles both

T = TypeVar("T")
Layer = tuple[str, Mapping[str, Any]]  # where it comes from, in words; what it sets


@dataclass(frozen=True, slots=True)
class Merged:
    """The settings that hold, and where each of them was set."""

    settings: Settings
    sources: Mapping[str, str]

    def is_asked(self, name: str) -> bool:
        """Whether a person has set it, rather than the model or this program."""
        return not self.sources.get(name, "built-in").startswith(("built-in", "model "))


def merge(layers: Sequence[Layer]) -> Merged:
    """Put layers on each other; the first that sets a value wins.

    Raises: RequestError that names the value, the option and the place, for anything unknown or out of bounds.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        given = check_layer(source, layer)
        for pair in ONE_OF:
            if given.keys() >= pair:
                both = " and ".join(spelled(name, source) for name in sorted(pair))
                raise RequestError(f"{both} say the same thing", f"both are set by {source}", "give one of them")
        settled = values.keys() | {name for pair in ONE_OF if pair & values.keys() for name in pair}
        fresh = {name: value for name, value in given.items() if name not in settled}
        values |= fresh
        sources |= dict.fromkeys(fresh, source)
    return Merged(Settings.model_construct(**values), sources)


def check_layer(source: str, layer: Mapping[str, Any]) -> dict[str, Any]:
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
        raise RequestError(f"{spelled(name, source)} {given[name]} cannot be used", why + where) from error
    return {name: getattr(parsed, name) for name in given}


def spelled(name: str, source: str) -> str:
    """How a setting is written where it was set."""
    return {COMMAND_LINE: option_name(name), ENVIRONMENT: "LTX2_" + name.upper()}.get(source, name)


def required(value: T | None) -> T:
    """A setting that the built-in values or the model's always give."""
    assert value is not None
    return value
