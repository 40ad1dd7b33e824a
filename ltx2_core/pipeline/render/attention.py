"""Write the clip that shows the captured attention of a stage.

Source: docs/cli.md, "Attention".
"""

from __future__ import annotations

from pathlib import Path

from einops import rearrange

from ...errors import StorageError
from ...media.accept import check_input
from ...media.inputs import VideoSource
from ...media.overlay import AttentionMap, write_overlay
from ..job import Job
from ..parts import ModelHeaders
from ..request import RenderTask
from ..values import show_ranges


def write_attention(job: Job, target: Path) -> None:
    """Write the attention clip of a finished render, from the latents of the stage whose audio is in the file.

    Raises: StorageError if they contain no attention map; the errors of `write_overlay`.
    """
    task, request = job.task, job.request
    number = request.recipe.audio_stage
    stage, weights = request.recipe.stages[number - 1], job.load(number).attention
    if weights is None:
        why = "none of the selected steps and blocks was run, or another version began this render"
        raise StorageError(f"{job.folder} has no attention map", why)
    factors = ModelHeaders.of(task.files).shapes.video_vae.factors
    frames, rows, columns = request.grid(factors, stage).latent
    width, height = float(request.width), float(request.height)
    if request.video == "keep":  # the model read the middle of the given video
        clip = check_input(task.target, VideoSource)
        scale = max(width / clip.width, height / clip.height)
        width, height = width / scale, height / scale
    attention = AttentionMap(
        weights=rearrange(weights, "t (f h w) -> t f h w", f=frames, h=rows, w=columns),
        fps=request.fps * stage.rate,
        frames_per_latent=factors.time,
        width=width,
        height=height,
    )
    write_overlay(task.target, target, attention, words=_words(task), overwrite=task.output.overwrite)


def _words(task: RenderTask) -> str:
    """The legend: which steps and blocks the map averages."""
    output = task.output
    blocks = "all blocks" if output.attention_blocks is None else f"blocks {show_ranges(output.attention_blocks)}"
    steps = "all steps" if output.attention_steps is None else f"steps {show_ranges(output.attention_steps)}"
    return f"{blocks}, {steps}"
