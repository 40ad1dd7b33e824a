"""Shape of a latent upsampler.

Source: docs/reference/video-vae.md, "Latent upsamplers".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from ..errors import CheckpointError
from .section import Section

RATIOS = {2.0: (2, 1), 1.5: (3, 2), 4.0: (4, 1), 0.75: (3, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerConfig:
    """A network that enlarges a latent.

    Args: channels: of the latent. width: of the network. blocks: residual blocks before the change of size, and as many
    after it. in_time, in_space: whether it doubles time or space. ratio: numerator and denominator of a resampler in
    space; None for the plain doubling.
    """

    channels: int
    width: int
    blocks: int
    in_time: bool
    in_space: bool
    ratio: tuple[int, int] | None

    @property
    def enlarges(self) -> tuple[Fraction, Fraction]:
        """The factors for the frame rate, and for height and width."""
        sides = self.ratio or (2 if self.in_space else 1, 1)
        return Fraction(2 if self.in_time else 1), Fraction(*sides)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read the config, which is flat in these files.

        Raises: CheckpointError that names a setting that is not implemented.
        """
        section = Section(config)
        section.expect("_class_name", "LatentUpsampler")
        section.expect("dims", 3, default=3)
        in_time, in_space = section.switch("temporal_upsample", False), section.switch("spatial_upsample", True)
        if not (in_time or in_space):
            raise CheckpointError("the checkpoint's upsampler enlarges neither time nor space")
        is_rational = section.switch("rational_resampler", False) and not in_time
        return cls(
            channels=section.whole("in_channels", 128),
            width=section.whole("mid_channels", 512),
            blocks=section.whole("num_blocks_per_stage", 4),
            in_time=in_time,
            in_space=in_space,
            ratio=RATIOS[section.expect("spatial_scale", *RATIOS, default=2.0)] if is_rational else None,
        )
