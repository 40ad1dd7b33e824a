"""Shape of the diffusion decoder of a video VAE: its stages of neighbourhood attention, and how it denoises pixels.

Source: docs/reference/video-diffusion-decoder.md, "Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Self

from ..errors import CheckpointError
from ..grids import Factors
from .section import Section

EMBEDDING_WIDTH = 384  # if the file does not name one
Prediction = Literal["x0", "v"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionStage:
    """Blocks of one width. kernel: frames, rows and columns that a position attends to, itself among them."""

    channels: int
    depth: int
    kernel: Factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What follows a stage: more frames, rows and columns by `stride`, and fewer channels by `reduction`."""

    stride: Factors
    reduction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionDecoderConfig:
    """The diffusion decoder: stages that enlarge the latent into a context, and a denoiser of pixels that reads it.

    Args: stages: those that make the context. growths: the enlargement after each of them. denoiser: the last stage,
    which denoises. timestep_scale: multiplies the noise level before it is embedded. predicts: "x0", the clean video,
    or "v", the velocity. steps: of the denoiser.
    """

    patch_size: int
    head_dim: int
    stages: tuple[AttentionStage, ...]
    growths: tuple[Growth, ...]
    denoiser: AttentionStage
    embedding_width: int
    timestep_scale: float
    predicts: Prediction
    steps: int

    @property
    def strides(self) -> tuple[Factors, ...]:
        """Positions per latent cell on each axis, for each stage, the denoiser last."""
        found = [Factors(1, 1, 1)]
        for growth in self.growths:
            found.append(Factors(*map(prod, zip(found[-1], growth.stride, strict=True))))
        return tuple(found)

    @property
    def least_latent(self) -> Factors:
        """The fewest latent frames, rows and columns on which every stage finds a whole window."""
        stages = zip((*self.stages, self.denoiser), self.strides, strict=True)
        needs = [[-(-size // by) for size, by in zip(stage.kernel, stride, strict=True)] for stage, stride in stages]
        return Factors(*map(max, zip(*needs, strict=True)))

    @property
    def ghost_frames(self) -> int:
        """How often the last latent frame is repeated, so that the attention window of the last frame stays centred."""
        return 2 * (self.stages[0].kernel.time // 2)

    @property
    def cell_pixels(self) -> Factors:
        """Pixel frames, rows and columns of a cell of the grid on which tiles are cut, that of the last stage."""
        time, height, width = self.growths[-1].stride
        return Factors(time, height * self.patch_size, width * self.patch_size)

    @property
    def is_single_step(self) -> bool:
        """Whether the first prediction is the result, so that tiles need not share noise."""
        return self.steps == 1 and self.predicts == "x0"

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["vae"]`. Raises: CheckpointError that names what is missing, wrong or not implemented."""
        vae, decoder = Section(config, "vae"), Section(config, "vae", "decoder")
        channels, depths = decoder.wholes("stage_channels"), decoder.wholes("stage_depths")
        kernels = decoder.lists_of_wholes("stage_kernels", ())
        growths = _growths(decoder)
        if not len(channels) == len(depths) == len(kernels) == len(growths) + 1:
            decoder.refuse(
                "stage_depths", "stages must have as many widths, depths, kernels and upsamples, but the last"
            )
        head_dim = decoder.whole("na_head_dim" if "na_head_dim" in decoder.values else "head_dim", 64)
        _check_widths(decoder, channels, growths, head_dim)
        last = decoder.whole("stage5_channels", channels[-1])
        if last != channels[-1]:
            decoder.refuse("stage5_channels", f"only the width of the context, {channels[-1]}, is implemented")
        kernel = decoder.wholes("stage5_kernel")
        stages = [
            AttentionStage(channels=width, depth=depth, kernel=_kernel(decoder, "stage_kernels", size))
            for width, depth, size in zip(channels, depths, kernels, strict=True)
        ]
        return cls(
            patch_size=decoder.whole("patch_size", 4),
            head_dim=head_dim,
            stages=tuple(stages[:-1]),
            growths=growths,
            denoiser=AttentionStage(channels=last, depth=depths[-1], kernel=_kernel(decoder, "stage5_kernel", kernel)),
            embedding_width=decoder.whole("t_emb_dim", EMBEDDING_WIDTH),
            timestep_scale=float(decoder.number("timestep_scale_multiplier")),
            predicts=_prediction(vae),
            steps=decoder.whole("default_num_inference_steps"),
        )


def _prediction(vae: Section) -> Prediction:
    vae.require("model_output_type")
    return vae.expect("model_output_type", "x0", "v")


def _kernel(decoder: Section, key: str, size: Sequence[int]) -> Factors:
    if len(size) != 3:
        decoder.refuse(key, "a kernel is so many frames, rows and columns")
    return Factors(*size)


def _growths(decoder: Section) -> tuple[Growth, ...]:
    """The list of pairs of a stride and a reduction."""
    found = decoder.require("upsamples")
    try:
        return tuple(Growth(stride=_stride(stride), reduction=_whole(reduction)) for stride, reduction in found)
    except (TypeError, ValueError):
        decoder.refuse("upsamples", "it must be a list of strides, [frames, rows, columns], each with a whole number")


def _stride(value: Any) -> Factors:
    time, height, width = map(_whole, value)
    return Factors(time, height, width)


def _whole(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 64:
        raise ValueError(value)
    return value


def _check_widths(decoder: Section, channels: Sequence[int], growths: Sequence[Growth], head_dim: int) -> None:
    for before, after, growth in zip(channels[:-1], channels[1:], growths, strict=True):
        if after * growth.reduction != before:
            decoder.refuse("stage_channels", f"{before} divided by {growth.reduction} is not {after}")
    for width in channels:
        if width % head_dim:
            raise CheckpointError(
                f"the checkpoint's config cannot be used: {decoder.name}.stage_channels has {width}",
                f"it is not a multiple of the {head_dim} channels of a head",
            )
