"""The windows of a clip that is longer than a model generates at once. Arithmetic only, in pixel frames.

Source: docs/long-clips.md, "How it works".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from ..grids import MEL_FRAMES_PER_AUDIO_LATENT, MEL_HOP_SAMPLES, MEL_SAMPLE_RATE_HZ, audio_latent_count
from ..records import Record

MOST_WINDOWS = 500
MEL_FRAMES_PER_SECOND = Fraction(MEL_SAMPLE_RATE_HZ, MEL_HOP_SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlace:
    """The place of a window in its chain. The defaults are those of a clip in one piece.

    Args: number: of the window, from 0. begin: its first frame in the whole clip. carried: how many of its frames,
    after the first one, are taken over from the window before.
    """

    number: int = 0
    begin: int = 0
    carried: int = 0

    def audio_steps(self, frames: int, fps: Fraction) -> range:
        """The audio latent steps of a window of so many frames, counted from the beginning of the whole clip.

        The first one is shortened by the start of the window, like that of every clip.
        """
        mel_frames = self.begin / fps * MEL_FRAMES_PER_SECOND
        first = math.floor((mel_frames + MEL_FRAMES_PER_AUDIO_LATENT - 1) / MEL_FRAMES_PER_AUDIO_LATENT)
        return range(first, audio_latent_count(self.begin + frames, fps))


class Chain(Record):
    """Windows of one length, each of which continues from the end of the window before.

    Args: frames: of a window. overlap: how many of them, after the first one, are taken over from the window before.
    Both are whole latent frames in every stage, plus the first frame of a window, which is a latent frame by itself.
    """

    frames: Annotated[int, Field(ge=1)]
    overlap: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.stride < 1:
            raise ValueError("a window has no new frames")
        return self

    @property
    def stride(self) -> int:
        """The number of new frames in a window."""
        return self.frames - 1 - self.overlap

    def count(self, total: int) -> int:
        """The number of windows for a clip of so many frames. Raises: ValueError if it is not longer than one."""
        count = 1 - (self.frames - total) // self.stride
        if not 1 < count <= MOST_WINDOWS:
            raise ValueError(f"a clip of {total} frames is not a chain of windows of {self.frames}")
        return count

    def places(self, total: int) -> list[WindowPlace]:
        """The places of the windows of a clip of so many frames.

        The last one ends with the clip and is as long as the others, so its overlap may be larger.
        """
        begins = [number * self.stride for number in range(self.count(total) - 1)] + [total - self.frames]
        carried = [0, *(before + self.frames - 1 - begin for before, begin in pairwise(begins))]
        return [
            WindowPlace(number=number, begin=begin, carried=kept)
            for number, (begin, kept) in enumerate(zip(begins, carried, strict=True))
        ]
