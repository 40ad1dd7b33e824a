"""Recipes: the stages of a preset. Data only; the engine implements them.

Source: docs/reference/pipelines.md, "Kinds of run".
"""

from __future__ import annotations

import math
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..components import UPSAMPLERS, Role
from ..records import Record
from ..sampling.distilled import DISTILLED_SIGMAS
from ..sampling.table import SAMPLERS
from .values import Choice, Portion, Tiles, parse_number


def _falling(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    if sigmas[-1] != 0 or not all(sigma > after for sigma, after in pairwise(sigmas)):
        raise ValueError("each must be less than the one before it, and the last 0")
    return sigmas


def _listed(name: str) -> str:
    if name not in DISTILLED_SIGMAS:
        raise ValueError(f"the lists of noise levels are {', '.join(DISTILLED_SIGMAS)}")
    return name


Sigma = Annotated[float, BeforeValidator(parse_number), Field(ge=0, le=1, allow_inf_nan=False)]
Sigmas = Annotated[tuple[Sigma, ...], Field(min_length=2, max_length=1001), AfterValidator(_falling)]
SamplerName = Annotated[str, BeforeValidator(Choice.of(SAMPLERS))]


class Edit(StrEnum):
    """The edits of a clip."""

    RESTYLE = "restyle"
    EXTEND = "extend"
    RETAKE = "retake"
    CONTROL = "control"
    UPSCALE = "upscale"


class Stage(Record):
    """One denoising run.

    Args: scale: of the final height and width. rate: of the final frame rate. start: from noise only, from the latents
    of the stage before with the video enlarged, or from the source clip. source_scale: the size at which the source
    clip is encoded, relative to this stage; if it is less than 1, its latents are enlarged. noise: the level of added
    noise; None means 1 without a start, and the first sigma with one. conditions: the applied ones of the request:
    references and images, images, or none. sigmas: the name of a distilled list, or numbers; None computes the schedule
    with the request's number of steps, or with `steps` if that is less. schedule_tokens: the number of tokens for the
    schedule's shift, the request's number or the stage's own grid. guided: with the guidance of the request, or one
    plain pass per step. distilled_lora: its strength; None leaves it out. user_loras: whether the LoRAs of the request
    are applied. tiles: the number of tiles, across and down; None for the whole video. windows: the same in time.
    """

    scale: Portion = Fraction(1)
    rate: Portion = Fraction(1)
    start: Literal["noise", "upsampled", "source"] = "noise"
    source_scale: Portion = Fraction(1)
    noise: Annotated[float, Field(gt=0, le=1)] | None = None
    sigmas: Sigmas | Annotated[str, AfterValidator(_listed)] | None = None
    steps: Annotated[int, Field(ge=2)] | None = None
    schedule_tokens: Literal["fixed", "grid"] = "fixed"
    sampler: SamplerName = "euler"
    guided: bool = False
    distilled_lora: Annotated[float, Field(allow_inf_nan=False)] | None = None
    user_loras: bool = True
    conditions: Literal["all", "images", "none"] = "all"
    tiles: Tiles | None = None
    windows: Annotated[int, Field(ge=1, le=10_000)] = 1

    @property
    def enlarges(self) -> bool:
        """Whether it starts from latents that an upsampler has enlarged."""
        return self.start == "upsampled" or self.source_scale < 1

    @property
    def is_whole(self) -> bool:
        """Whether it uses neither tiles nor windows."""
        return self.tiles in (None, (1, 1)) and self.windows == 1

    @property
    def takes_tiles(self) -> bool:
        """Whether a request can set its number of tiles: only for a stage that refines an enlarged video."""
        return self.start == "upsampled" and not self.guided

    def frames(self, final: int) -> int:
        """Pixel frames of this stage, for a final clip with so many."""
        return int((final - 1) * self.rate) + 1

    def listed_sigmas(self) -> tuple[float, ...] | None:
        """The numbers of a list, named or explicit; None for the schedule of the request."""
        return DISTILLED_SIGMAS[self.sigmas] if isinstance(self.sigmas, str) else self.sigmas


class Recipe(Record):
    """Stages in their order.

    Args: summary: one line for the user. edit: what it does to a clip; None for one that generates a clip, or the rest
    of one. audio_from: the stage whose audio goes into the file. images: whether an image at the first frame replaces
    it, or all are appended as keyframes.
    """

    summary: str
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    edit: Edit | None = None
    audio_from: Literal["first", "last"] = "last"
    images: Literal["replace-first", "append"] = "replace-first"

    def adjusted(self, sampler: str | None, sigmas: tuple[float, ...] | None, tiles: Tiles | None) -> Self:
        """The same recipe with these values if they are given and a stage has no fixed ones.

        Sampler and sigmas apply to the first stage; later stages only refine, and keep theirs. Tiles apply to the
        unguided stages that start from an enlarged video.
        """

        def stage(number: int, own: Stage) -> Stage:
            given: dict[str, Any] = {"sampler": sampler, "sigmas": sigmas} if number == 0 else {}
            if own.takes_tiles and own.tiles is None:
                given["tiles"] = tiles
            return own.model_copy(update={name: value for name, value in given.items() if value is not None})

        return self.model_copy(update={"stages": tuple(stage(number, own) for number, own in enumerate(self.stages))})

    def enlarging(self, factor: Fraction) -> Self:
        """The same recipe, with this factor for the source clip."""

        def stage(own: Stage) -> Stage:
            return own.model_copy(update={"source_scale": 1 / factor}) if own.source_scale < 1 else own

        return self.model_copy(update={"stages": tuple(map(stage, self.stages))})

    def for_audio(self) -> Self:
        """The recipe without video: its first stage, at full size. The others enlarge a video.

        Source: docs/reference/pipelines.md, "Audio alone" and "Video to audio".
        """
        first = self.stages[0].model_copy(update={"scale": Fraction(1), "rate": Fraction(1)})
        return self.model_copy(update={"stages": (first,)})

    def drafted(self, steps: int) -> Self:
        """The recipe of a draft: its first stage, at its size, in at most so many steps.

        Noise depends on the grid, so a draft of another size would show another clip.
        """
        return self.model_copy(update={"stages": (self.stages[0].model_copy(update={"steps": steps}),)})

    def with_references(self, *, has_voice: bool) -> Self:
        """The same with reference images or a voice: stages that only refine use neither these nor LoRAs.

        Their audio would lose the voice, so that of the first stage goes into the file.
        Source: docs/reference/pipelines.md, "Kinds of run".
        """

        def stage(own: Stage) -> Stage:
            images = "none" if own.conditions == "none" else "images"
            plain = {"conditions": images, "user_loras": False}
            return own.model_copy(update=plain if own.start == "upsampled" else {})

        changes: dict[str, Any] = {"stages": tuple(map(stage, self.stages))}
        if has_voice:
            changes["audio_from"] = "first"
        return self.model_copy(update=changes)

    @property
    def audio_stage(self) -> int:
        """The stage whose audio goes into the file; stages count from 1."""
        return 1 if self.audio_from == "first" else len(self.stages)

    @property
    def names_its_sampler(self) -> bool:
        """Whether its file sets the sampler of the first stage, which then cannot be changed."""
        return "sampler" in self.stages[0].model_fields_set

    @property
    def is_guided(self) -> bool:
        """Whether it uses a negative prompt."""
        return any(stage.guided for stage in self.stages)

    @property
    def needs(self) -> list[str]:
        """Roles of the files that it needs beside the model and the text encoder."""
        needs: list[str] = [self.upsampler(stage) for stage in self.stages if stage.enlarges]
        needs += ["distilled_lora"] * any(stage.distilled_lora is not None for stage in self.stages)
        return list(dict.fromkeys(needs))

    def multiple(self, factor: int) -> int:
        """The required divisor of the final width and height, so that each stage's latent grid is whole."""
        return factor * math.lcm(*((stage.scale * stage.source_scale).denominator for stage in self.stages))

    def frame_multiple(self, factor: int) -> int:
        """The required divisor of the final number of frames minus one, for the same reason."""
        return factor * math.lcm(*(stage.rate.denominator for stage in self.stages))

    def upsampler(self, stage: Stage) -> Role:
        """The role of the upsampler for the start of a stage, by the change of size: from the stage before, or from the
        source clip.

        Raises: KeyError if there is no such upsampler.
        """
        if stage.source_scale < 1:
            return UPSAMPLERS[Fraction(1), 1 / stage.source_scale]
        before = next(before for before, after in pairwise(self.stages) if after is stage)
        return UPSAMPLERS[stage.rate / before.rate, stage.scale / before.scale]

    @model_validator(mode="after")
    def _grows_as_upsamplers_do(self) -> Self:
        try:
            _ = self.needs
        except (KeyError, StopIteration) as error:
            raise ValueError("no upsampler leads from the size and rate of one stage to the next") from error
        return self
