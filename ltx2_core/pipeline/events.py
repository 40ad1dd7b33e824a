"""The events of a render. Nothing here prints; the watcher decides what to do with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .job import Saved

Phase = Literal[
    "enhance", "text", "inputs", "denoise", "upsample", "sound", "video", "check", "convert", "verify", "sync", "report"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted:
    """A phase starts. name: as text. total: its number of steps; None if it has none."""

    phase: Phase
    name: str
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """A step of a phase is done."""

    phase: Phase
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDone:
    """A phase is done.

    Args: peak_bytes: its peak memory, with the models that were loaded for it: on a GPU the memory of tensors, on the
    CPU that of the process without pages of files. None if unknown.
    """

    phase: Phase
    seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One line for the user: a warning, or a detail of a choice."""

    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthChosen:
    """The model has chosen the length of the clip. seconds: its estimate, before bounds and whole latent frames."""

    frames: int
    fps: Fraction
    seconds: float

    @property
    def message(self) -> str:
        """One line for the user."""
        lasts = float(self.frames / self.fps)
        return f"the model chose {lasts:.2f} s for this prompt: {self.frames} frames"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRewritten:
    """A language model has rewritten the prompt.

    Args: prompt: the one that is rendered. given: the original one. seed: that of the render, also used for rewriting.
    problem: why the original is used; "" if it is not.
    """

    prompt: str
    given: str
    seed: int
    problem: str = ""

    @property
    def message(self) -> str:
        """One line for the user."""
        if self.problem:
            return f"the prompt is used as you wrote it, because the rewritten one {self.problem}"
        return f"the rewritten prompt: {self.prompt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewShown:
    """A preview image of the video has been written.

    Args: path: of a PNG, which replaces the one before. step: the step that it shows, of so many.
    """

    path: Path
    step: int
    total: int


Event = PhaseStarted | StepDone | PhaseDone | Message | LengthChosen | PromptRewritten | PreviewShown


class StoppedError(Exception):
    """The user asked to stop.

    Args: after: the last step of a stage, as text. saved: the tokens inside the stage, if it can resume from there.
    """

    def __init__(self, after: str = "", saved: Saved | None = None) -> None:
        super().__init__("stopped")
        self.after, self.saved = after, saved


@dataclass(frozen=True, slots=True)
class Watch:
    """Receives the events of a render. on_event: called with every event. should_stop: called between phases, steps and
    frames.
    """

    on_event: Callable[[Event], None] = lambda event: None
    should_stop: Callable[[], bool] = lambda: False

    @contextmanager
    def phase(self, phase: Phase, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Report the start and the end of a phase; yields a function that reports the number of finished steps.

        Raises: StoppedError before it starts and after a step, if the watcher asks for it; denoising checks for itself.
        """

        def step_done(done: int) -> None:
            self.on_event(StepDone(phase=phase, done=done, total=total or done))
            if phase != "denoise":
                self.check()

        self.check()
        start = time.perf_counter()
        self.on_event(PhaseStarted(phase=phase, name=name, total=total))
        yield step_done
        self.on_event(PhaseDone(phase=phase, seconds=time.perf_counter() - start))

    def check(self) -> None:
        """A point where stopping loses nothing. Raises: StoppedError if the watcher asks for it."""
        if self.should_stop():
            raise StoppedError

    def tell(self, message: str, *, is_warning: bool = False) -> None:
        self.on_event(Message(message=message, is_warning=is_warning))
