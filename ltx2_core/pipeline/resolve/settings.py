"""All settings of the user, from all places, and the one function that merges the places.

Source: docs/cli.md, "Precedence of settings" and "Strictness".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ...config.video_vae import DecoderName
from ...errors import RequestError, shown
from ...machine import MOST_RANKS, Backend, MemoryMode, Precision
from ...yaml_file import Written
from ..recipe import SamplerName, Sigmas
from ..request import AudioCodecName, OldTrackName, OutputSettings, StreamMode, VideoCodecName
from ..segments import MOST_SEGMENTS, parse_segment, split_segments
from ..values import (
    ASPECTS,
    Choice,
    Device,
    Duration,
    Enlargement,
    FrameRate,
    Gpus,
    Interval,
    Length,
    Loudness,
    Numbers,
    Span,
    Tiles,
    Time,
    did_you_mean,
    option_name,
    parse_number,
    parse_switch,
    parse_whole,
    require_text,
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
        """Whether the user has set it there, rather than the model or this program."""
        return self.origin not in (Origin.MODEL, Origin.BUILT_IN)

    def __str__(self) -> str:
        if self.origin in (Origin.FILE, Origin.MODE, Origin.INPUT):
            return self.name
        return f"{self.origin.value} {self.name}".strip()

    def spelled(self, setting: str) -> str:
        """The spelling of a setting in this place."""
        if self.origin is Origin.COMMAND_LINE:
            return "-o" if setting == "output" else option_name(setting)
        if self.origin is Origin.ENVIRONMENT:
            return "LTX2_" + setting.upper()
        return setting


COMMAND_LINE, ENVIRONMENT, BUILT_IN = Place(Origin.COMMAND_LINE), Place(Origin.ENVIRONMENT), Place(Origin.BUILT_IN)
MOST_REFERENCES = 64  # largest number of images on a sheet
DECODERS = ("auto", *get_args(DecoderName))
NUMBER, WHOLE_NUMBER = BeforeValidator(parse_number), BeforeValidator(parse_whole)
Scale = Annotated[float, NUMBER, Field(ge=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, NUMBER, Field(ge=0, le=1, allow_inf_nan=False)]
Blocks = Annotated[tuple[Annotated[int, WHOLE_NUMBER, Field(ge=0, le=10_000)], ...], BeforeValidator(split_list)]
Text = Annotated[str, Field(max_length=4096), AfterValidator(require_text)]
Paths = Annotated[tuple[Text, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Segments = Annotated[
    tuple[Annotated[tuple[Fraction, Fraction, str], BeforeValidator(parse_segment)], ...],
    BeforeValidator(split_segments),
    Field(max_length=MOST_SEGMENTS),
]
Aspect = Annotated[str, BeforeValidator(Choice.of(ASPECTS))]
PrecisionName = Annotated[str, BeforeValidator(Choice(("auto", *get_args(Precision))))]
BackendName = Annotated[str, BeforeValidator(Choice(("auto", *get_args(Backend))))]
MemoryName = Annotated[str, BeforeValidator(Choice(("auto", *get_args(MemoryMode))))]
DecoderChoice = Annotated[str, BeforeValidator(Choice(DECODERS))]
Switch = Annotated[bool, BeforeValidator(parse_switch)]
Presence = Annotated[StreamMode, BeforeValidator(Choice(get_args(StreamMode)))]


class Settings(BaseModel):
    """One value per option; None if it is not set. The names are those of the flags, with underscores."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)

    model: Text | None = None
    model_folders: Annotated[Paths, Field(max_length=100)] | None = None
    transformer: Text | None = None
    connectors: Text | None = None
    video_vae: Text | None = None
    decoder: DecoderChoice | None = None
    audio_vae: Text | None = None
    text_encoder: Text | None = None
    upsampler: Paths | None = None
    distilled_lora: Text | None = None
    duration_head: Text | None = None
    lora: Paths | None = None
    allow_partial_lora: Switch | None = None
    precision: PrecisionName | None = None
    memory: MemoryName | None = None
    compile: Switch | None = None
    ranks: Annotated[int, WHOLE_NUMBER, Field(ge=1, le=MOST_RANKS)] | None = None
    gpus: Gpus | None = None
    attention_backend: BackendName | None = None
    force: Switch | None = None
    device: Device | None = None
    cache: Switch | None = None

    res: Text | None = None
    aspect: Aspect | None = None
    crop: Switch | None = None
    duration: Length | None = None
    frames: Annotated[int, WHOLE_NUMBER, Field(ge=1, le=100_000)] | None = None
    until: Duration | None = None
    window: Duration | None = None
    overlap: Duration | None = None
    fps: FrameRate | None = None

    start: Time | None = None
    strength: Annotated[float, NUMBER, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    extend: Duration | None = None
    extend_before: Duration | None = None
    retake: Span | None = None
    control: Text | None = None
    upscale: Enlargement | None = None
    loop: Switch | None = None

    image: Paths | None = None
    ref: Annotated[Paths, Field(max_length=MOST_REFERENCES)] | None = None
    voice_ref: Text | None = None
    image_crf: Annotated[int, WHOLE_NUMBER, Field(ge=0, le=51)] | None = None
    generated_keyframes: Annotated[int, WHOLE_NUMBER, Field(ge=0, le=100)] | None = None

    segment: Segments | None = None
    enhance: Switch | None = None
    enhancer: Text | None = None

    preset: Text | None = None
    sampler: SamplerName | None = None
    sigmas: Annotated[Sigmas, BeforeValidator(split_list)] | None = None
    steps: Annotated[int, WHOLE_NUMBER, Field(ge=2, le=1000)] | None = None
    seed: Annotated[int, WHOLE_NUMBER, Field(ge=0, lt=2**63)] | None = None
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
    skip_step: Annotated[int, WHOLE_NUMBER, Field(ge=0, le=100)] | None = None
    cache_steps: Share | None = None
    draft: Switch | None = None
    draft_steps: Annotated[int, WHOLE_NUMBER, Field(ge=2, le=1000)] | None = None
    schedule_tokens: Annotated[int, WHOLE_NUMBER, Field(ge=1, le=10_000_000)] | None = None
    text_rows: Annotated[int, WHOLE_NUMBER, Field(ge=1, le=8192)] | None = None
    tiles: Tiles | None = None

    video: Presence | None = None
    sound: Presence | None = None
    old_sound: OldTrackName | None = None

    output: Text | None = None
    overwrite: Switch | None = None
    skip_existing: Switch | None = None
    codec: VideoCodecName | None = None
    audio_codec: AudioCodecName | None = None
    crf: Annotated[int, WHOLE_NUMBER, Field(ge=0, le=63)] | None = None
    loudness: Loudness | None = None
    metadata: Switch | None = None
    keep_latents: Switch | None = None
    job_dir: Text | None = None
    sheet: Switch | None = None
    report: Switch | None = None
    attention: Text | None = None
    attention_blocks: Numbers | None = None
    attention_steps: Numbers | None = None
    preview: Interval | None = None
    keyframe_stills: Switch | None = None
    strict: Switch | None = None


DEFAULTS: Mapping[str, Any] = {  # the defaults if neither the user nor the model sets a value
    "model": "ltx-2",
    "precision": "auto",
    "memory": "auto",
    "ranks": 1,
    "attention_backend": "auto",
    "decoder": "auto",
    "generated_keyframes": 0,
    "loop": False,
    "enhance": False,
    "cache_steps": 0.0,
    "draft": False,
    "force": False,
    "device": "auto",
    "cache": True,
    "skip_existing": False,
    **{name: field.default for name, field in OutputSettings.model_fields.items()},
}


def choices(name: str) -> tuple[str, ...]:
    """The possible values of a setting, if they are names; else nothing."""
    for kind in get_args(Settings.model_fields[name].annotation):
        for mark in getattr(kind, "__metadata__", ()):
            if isinstance(mark, BeforeValidator) and isinstance(mark.func, Choice):
                return mark.func.names
    return ()


WHOLE = "it must be a whole number"
REASONS = {  # the reason why a value is invalid, by pydantic's error type
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
    "string_unicode": "it holds bytes that are not text in UTF-8",
    "string_too_long": "it is longer than {max_length:,} characters",
    "tuple_type": "it must be text or a list",
    "too_long": "it must hold at most {max_length}",
}
ONE_OF = ({"frames", "duration"}, {"steps", "sigmas"})  # the setting from the higher layer determines both
NOT_BOTH = ({"overwrite", "skip_existing"},)  # the same, if the setting is true

T = TypeVar("T")
Layer = tuple[Place, Mapping[str, Any]]  # the origin of a layer, and its values


@dataclass(frozen=True, slots=True)
class Merged:
    """The resulting settings, and where each of them was set.

    Args: overridden: the settings in a file or in the environment that a preset overrides, in their spelling there.
    """

    settings: Settings
    sources: Mapping[str, Place]
    overridden: tuple[str, ...] = ()

    def is_asked(self, name: str) -> bool:
        """Whether the user has set it, rather than the model or this program."""
        return self.sources.get(name, BUILT_IN).is_asked


def merge(layers: Sequence[Layer]) -> Merged:
    """Merge layers; the first that sets a value wins.

    Raises: RequestError that names the value, the option and the place, for anything unknown or out of bounds.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Place] = {}
    overridden: list[str] = []
    for source, layer in layers:
        given = check_layer(source, layer)
        _refuse_both(source, given)
        winners = {name: _winner(name, value, values) for name, value in given.items()}
        if source.origin in (Origin.ENVIRONMENT, Origin.FILE):
            lost = [name for name, winner in winners.items() if winner and sources[winner].origin is Origin.PRESET]
            overridden += [f"{source.spelled(name)} {shown(layer[name])} of {source}" for name in lost]
        fresh = {name: value for name, value in given.items() if winners[name] is None}
        values |= fresh
        sources |= dict.fromkeys(fresh, source)
    return Merged(Settings.model_construct(**values), sources, tuple(overridden))


def _winner(name: str, value: Any, values: Mapping[str, Any]) -> str | None:
    """The setting in a layer above that overrides this one: itself, or one that sets the same value or excludes it."""
    others = [other for pair in ONE_OF if name in pair for other in pair if other in values]
    if value is True:
        others += [other for pair in NOT_BOTH if name in pair for other in pair if values.get(other)]
    return name if name in values else next(iter(others), None)


def _refuse_both(source: Place, given: Mapping[str, Any]) -> None:
    """Raises: RequestError for two settings of one place that set the same value, or that contradict each other."""
    for pair in ONE_OF:
        if given.keys() >= pair:
            both = " and ".join(source.spelled(name) for name in sorted(pair))
            raise RequestError(f"{both} set the same value", f"both are set by {source}", "give one of them")
    for pair in NOT_BOTH:
        if all(given.get(name) for name in pair):
            both = " and ".join(source.spelled(name) for name in sorted(pair))
            raise RequestError(f"{both} cannot be used together", f"both are set by {source}", "give one of them")


def check_layer(source: Place, layer: Mapping[str, Any]) -> dict[str, Any]:
    """The parsed values of one place; None there counts as not set."""
    unknown = next((name for name in layer if name not in Settings.model_fields), None)
    if unknown is not None:
        where = _line(layer, unknown)
        what = f"unknown setting {shown(unknown)} in {source}"
        raise RequestError(what, where and f"it stands in {where}", did_you_mean(unknown, [*Settings.model_fields]))
    given = {name: value for name, value in layer.items() if value is not None}
    try:
        parsed = Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        known = REASONS.get(first["type"])
        why = known.format(**first.get("ctx", {})) if known else first["msg"].removeprefix("Value error, ")
        what = f"{source.spelled(name)} {shown(_wrong_part(given[name], first['loc'][1:]))} cannot be used"
        hint = f"correct {_line(layer, name)}" if _line(layer, name) else ""
        raise RequestError(what, why + set_in(source, layer, name), hint) from error
    return {name: getattr(parsed, name) for name in given}


def _wrong_part(value: Any, place: Sequence[int | str]) -> Any:
    """The invalid part of a list of texts or a mapping; else the whole value. place: of that part, inside it."""
    if isinstance(value, Mapping):
        value = [f"{name}: {one}" for name, one in value.items()]
    texts: dict[Any, Any] = dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    part = texts.get(place[0]) if place else None
    return part if isinstance(part, str) else value


def _line(layer: Mapping[str, Any], name: str) -> str:
    """The file and the line of a setting; nothing if it is in no file."""
    return layer.place(name) if isinstance(layer, Written) else ""


def set_in(source: Place, layer: Mapping[str, Any], name: str) -> str:
    """The location of a value, as the end of a sentence; nothing if its spelling shows it."""
    if source in (COMMAND_LINE, ENVIRONMENT):
        return ""
    line = _line(layer, name)
    if source.origin is Origin.FILE and line:
        return f" (set in {line})"
    return f" (set in {source}{line and f', {line}'})"


def required(value: T | None) -> T:
    """A setting that always has a value from the model or the built-in defaults."""
    assert value is not None
    return value
