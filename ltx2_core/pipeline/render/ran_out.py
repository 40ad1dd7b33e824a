"""Out-of-memory errors of a render: where they happened, and the command to run instead."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...config.video_vae import VideoVAEConfig
from ...costs.decoding import smaller_sizes
from ...errors import OutOfMemoryError
from ...machine import MemoryMode
from ...paths import in_shell
from ..events import Event, PhaseDone, PhaseStarted, Watch
from ..job import Job

TOLD = (
    *("can't allocate memory", "out of memory", "ALLOC_FAILED", "alloc failed"),
    *("unable to find an engine to execute", "nable to find a valid cuDNN algorithm"),  # a convolution on a GPU
)
NEXT: Mapping[MemoryMode, MemoryMode] = {"resident": "streamed", "streamed": "lean"}  # the mode that needs less


class Progress:
    """Passes events on, and remembers the phase."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.last: PhaseStarted | None = None
        self.is_over = False
        self.watch = Watch(on_event=self._note, should_stop=watch.should_stop)

    @property
    def words(self) -> str:
        """The phase, as the end of a sentence."""
        if self.last is None:
            return ""
        return f" after {self.last.name}" if self.is_over else f" while {self.last.name}"

    def _note(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self.last = event
        if isinstance(event, PhaseStarted | PhaseDone):
            self.is_over = isinstance(event, PhaseDone)
        self._watch.on_event(event)


def ran_out(error: Exception) -> bool:
    """Whether an exception is an out-of-memory error. torch has a separate class only for some of its allocators."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in TOLD)


def out_of_memory(error: Exception, job: Job, progress: Progress, vae: VideoVAEConfig) -> OutOfMemoryError:
    """The error that names the phase in which memory ran out, and how to continue with less."""
    why = str(error).partition("\n")[0].split(". ")[0]  # empty if Python itself ran out of memory
    return OutOfMemoryError(f"memory ran out{progress.words}", why, _hint(job, progress, vae))


def _hint(job: Job, progress: Progress, vae: VideoVAEConfig) -> str:
    """A command that needs less memory, or what to change in the request if there is none."""
    machine = job.task.machine
    smaller = f"a smaller --res, or a shorter --{'duration' if job.request.chain is None else 'window'}"
    if progress.last is not None and progress.last.phase == "video":
        sizes = smaller_sizes(vae, job.request.decoded_grid(vae.factors), machine.decode_tiles)
        if sizes is None:
            return smaller
        return f"ltx2 decode {in_shell(job.folder)} --tiles {'x'.join(map(str, sizes))}"
    if machine.memory in NEXT and not job.has_all_latents:
        return f"{job.resume_command} --memory {NEXT[machine.memory]}"
    return smaller
