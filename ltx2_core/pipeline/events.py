"""What a render tells while it runs. Nothing here prints; whoever watches decides what becomes of it."""

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
    """A phase begins. name: what is done, in words. total: of its steps; None if it has none."""

    phase: Phase
    name: str
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """One more step of a phase is done."""

    phase: Phase
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDone:
    """A phase is over.

    Args: peak_bytes: the most that it took, with what was loaded for it: of a card's memory what tensors take there, on
    the CPU what the process holds beside the pages of files. None where nobody tells.
    """

    phase: Phase
    seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One line for a person: a warning, or a detail of what was chosen."""

    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthChosen:
    """The model has chosen the length of the clip. seconds: what it wanted, before bounds and whole latent frames."""

    frames: int
    fps: Fraction
    seconds: float

    @property
    def message(self) -> str:
        """One line for a person."""
        lasts = float(self.frames / self.fps)
        return f"the model chose {lasts:.2f} s for this prompt: {self.frames} frames"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRewritten:
    """A language model has rewritten the prompt.

    Args: prompt: what is rendered. given: what a person wrote. seed: that of the render, with which it was written.
    problem: why the given one is kept; "" where it is not.
    """

    prompt: str
    given: str
    seed: int
    problem: str = ""

    @property
    def message(self) -> str:
        """One line for a person."""
        if self.problem:
            return f"the prompt is used as you wrote it, because the rewritten one {self.problem}"
        return f"the rewritten prompt: {self.prompt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewShown:
    """A picture of how far the video is has been written.

    Args: path: of a PNG, in the place of the one before. step: after which it shows the video, of so many.
    """

    path: Path
    step: int
    total: int


Event = PhaseStarted | StepDone | PhaseDone | Message | LengthChosen | PromptRewritten | PreviewShown


class StoppedError(Exception):
    """The user asked to stop.

    Args: after: which step of a stage, in words. saved: the tokens inside the stage, if it can go on from there.
    """

    def __init__(self, after: str = "", saved: Saved | None = None) -> None:
        super().__init__("stopped")
        self.after, self.saved = after, saved


@dataclass(frozen=True, slots=True)
class Watch:
    """Whoever watches a render. on_event: is told everything. should_stop: asked between phases, steps and frames."""

    on_event: Callable[[Event], None] = lambda event: None
    should_stop: Callable[[], bool] = lambda: False

    @contextmanager
    def phase(self, phase: Phase, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Tell begin and end of a phase; the function that it gives tells how many of its steps are done.

        Raises: StoppedError before it begins and after a step, if the watcher says so; denoising asks for itself.
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
        """A place where stopping loses nothing. Raises: StoppedError if the watcher says so."""
        if self.should_stop():
            raise StoppedError

    def tell(self, message: str, *, is_warning: bool = False) -> None:
        self.on_event(Message(message=message, is_warning=is_warning))
