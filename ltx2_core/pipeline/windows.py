"""The windows of a chain, each as a separate request that the engine runs like any other.

A clip of these models begins with a latent frame that represents a single pixel frame, and an audio step that is short.
A window begins with these two as well, followed by the latents from the previous window, at the same positions and with
the same meaning. The first latent frame and the first step are generated and discarded.
Source: docs/long-clips.md, "How it works".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .chain import WindowPlace
from .recipe import Stage
from .request import ImageInput, Request
from .segments import TextSpan


class WindowRequest(Request):
    """One window of a chain.

    Args: own_place: its place in the chain. whole: the request for the whole chain.
    """

    own_place: WindowPlace
    whole: Request

    @property
    def place(self) -> WindowPlace:
        return self.own_place

    @property
    def is_given(self) -> bool:
        """Whether it lies inside an extended input clip, including its audio, so that there is nothing to denoise."""
        extension, whole = self.extension, self.whole
        if extension is None or extension.before or self.place.begin + self.frames > whole.frames - extension.after:
            return False
        has_audio = self.audio_source is not None
        given = extension.audio_steps(whole.frames, self.fps) if has_audio else range(0)
        return self.audio == "off" or self.audio_steps.stop <= given.stop

    @property
    def text_spans(self) -> list[TextSpan]:
        return self.whole.text_spans


def windows_of(request: Request) -> list[Request]:
    """The windows of a request in their order; the request itself if it is not a chain."""
    if request.chain is None:
        return [request]
    common: dict[str, Any] = dict(request)
    length = request.chain.frames

    def window(place: WindowPlace) -> Request:
        new = range(place.begin + place.carried + 1 if place.number else 0, place.begin + length)
        own = {"chain": None, "frames": length, "images": _within(request.images, place.begin, new)}
        return WindowRequest.model_construct(**{**common, **own, "own_place": place, "whole": request})

    return [window(place) for place in request.chain.places(request.frames)]


def _within(images: Sequence[ImageInput], begin: int, frames: range) -> tuple[ImageInput, ...]:
    """The images at some of the frames of a clip, for a window that starts at a frame of it."""
    return tuple(one.model_copy(update={"frame": one.frame - begin}) for one in images if one.frame in frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOfWindow:
    """One denoising run: a stage of a window.

    Args: request: of the window. windows: the number of windows. number: of the stage, from 1.
    """

    request: Request
    stage: Stage
    windows: int
    number: int

    @property
    def is_given(self) -> bool:
        """Whether its window lies inside an input clip, so that it is not denoised."""
        return isinstance(self.request, WindowRequest) and self.request.is_given

    @property
    def steps(self) -> int:
        """The number of steps of the run."""
        return self.request.steps_of_stages[self.number - 1]

    @property
    def name(self) -> str:
        """Stage and window for display: "stage 1 of 2, window 3 of 8"."""
        stage = f"stage {self.number} of {len(self.request.recipe.stages)}"
        return stage if self.windows == 1 else f"{stage}, window {self.request.place.number + 1} of {self.windows}"


def runs_of(request: Request) -> list[StageOfWindow]:
    """Every denoising run of a request in execution order: a stage of all windows, then the next one.

    So each model is loaded once, and a draft, which has only the first stage, draws the noise of the full render.
    """
    windows = windows_of(request)
    return [
        StageOfWindow(request=window, stage=stage, windows=len(windows), number=number)
        for number, stage in enumerate(request.recipe.stages, 1)
        for window in windows
    ]
