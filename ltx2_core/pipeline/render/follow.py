"""The ranks other than the first: they denoise and decode their part of the first rank's render.

They read no prompt and no input, draw the same noise, and write nothing. Source: docs/ranks.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ...errors import OutOfMemoryError
from ...parallel import Ranks
from ...tiling.video import serve_tiles
from ..events import StoppedError, Watch
from ..request import RenderTask
from .models import Models, computing
from .ran_out import NEXT, ran_out
from .stages import StageRun

NOBODY = Watch()


@dataclass(frozen=True)
class StageTask:
    """A stage that all ranks run. noise: the state of the generator before it."""

    task: RenderTask
    run: StageRun
    noise: Tensor

    @classmethod
    def of(cls, task: RenderTask, run: StageRun) -> Self:
        """The task for a stage that the first rank is about to run."""
        shown = replace(run, generator=torch.Generator(), ranks=None)  # only valid in that process
        return cls(task, shown, run.generator.get_state())

    def do(self, models: Models, ranks: Ranks) -> None:
        """Run it with the others, to the same latents, which only the first rank keeps."""
        generator = torch.Generator(models.device)
        generator.set_state(self.noise)
        run = replace(self.run, device=models.device, generator=generator, ranks=ranks)
        with models.transformer(models.loras(self.task, run.stage)) as model:
            run.run(model, NOBODY, "")


@dataclass(frozen=True)
class DecodeTask:
    """A video latent (1 c f h w) whose tiles all ranks decode."""

    task: RenderTask
    latent: Tensor

    def do(self, models: Models, ranks: Ranks) -> None:
        """Decode some of the tiles."""
        with models.component("video_decoder") as decoder:
            serve_tiles(self.latent, decoder, models.machine.decode_tiles, ranks)


def follow(ranks: Ranks) -> None:
    """Do the tasks of the first rank, until it is done. Raises: OutOfMemoryError."""
    models: Models | None = None
    while (given := ranks.from_first()) is not None:
        machine = given.task.machine
        if models is None:
            models = Models(given.task.files, machine.of_rank(ranks.number))
        try:
            with computing(machine.threads):
                given.do(models, ranks)
        except StoppedError:
            continue  # the first rank saves the progress and ends all ranks
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            hint = f"--memory {NEXT.get(machine.memory, 'lean')}, or a smaller --res"
            why = str(error).partition("\n")[0].split(". ")[0]
            raise OutOfMemoryError(f"memory ran out on rank {ranks.number}", why, hint) from error
