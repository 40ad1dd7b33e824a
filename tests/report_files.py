"""Finished files with recipes, and their results, for tests of reports."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import torch

import ltx2_core as core
from ltx2_core.machine import Machine
from ltx2_core.media.clip import ClipShape, Encoding, Output
from ltx2_core.media.overview import Overview, look_at
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_clip
from ltx2_core.pipeline.made import Made, MadeModel, versions
from ltx2_core.pipeline.report.cells import Result, result_of
from ltx2_core.pipeline.request import EncodingSettings, MadeFile, Request

SHAPE = ClipShape(width=96, height=64, frames=25, fps=Fraction(24))
RATE_HZ = 24000


@cache
def settled() -> tuple[Request, Machine]:
    """The request of a small render, and its machine."""
    task = core.resolve("t2v", "a lamp", core.gather({"preset": "smoke", "seed": "1"}).layers).task
    return task.request, task.machine


def recipe(prompt: str = "a lamp", seed: int = 1, **changes: Any) -> Made:
    """A recipe. changes: to its request."""
    request, machine = settled()
    return Made(
        made_with=versions(),
        hardware="a CPU",
        model=MadeModel(name="toy", files={"transformer": MadeFile(name="a.safetensors", fingerprint="f" * 64)}),
        request=request.model_copy(update={"prompt": prompt, "seed": seed, **changes}),
        machine=machine,
        output=EncodingSettings(),
    )


def noise(level: float = 0.1, seed: int = 0, seconds: float = 25 / 24) -> Waveform:
    samples = torch.randn(2, round(seconds * RATE_HZ), generator=torch.Generator().manual_seed(seed))
    return Waveform(level * samples, RATE_HZ)


def frames(seed: int = 0) -> torch.Tensor:
    """A bright square that moves on coloured noise, (F 3 H W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(1, 3, 1, 1, generator=generator)
    images = colour * torch.rand(SHAPE.frames, 3, SHAPE.height, SHAPE.width, generator=generator).clamp(0.7, 1)
    for number, image in enumerate(images):
        image[:, 20:44, 2 * number : 2 * number + 24] = 1
    return images


def clip(path: Path, made: Made | None, audio: Waveform | None, images: torch.Tensor | None = None) -> Path:
    """A finished file."""
    shown = frames() if images is None else images
    comment = made.dump() if made else None
    write_clip(Output(path=path, comment=comment), replace(SHAPE, frames=len(shown)), [shown], audio, Encoding())
    return path


def looked_at(folder: Path, name: str = "a.mp4", **made: Any) -> Overview:
    """The measured video and audio of such a file."""
    return look_at(clip(folder / name, recipe(**made), noise()))


def result(overview: Overview, file: str = "a.mp4", **made: Any) -> Result:
    """A result with the images of a file, and with its own name and recipe."""
    comment = recipe(**made).dump()
    return result_of(file, replace(overview, info=replace(overview.info, comment=comment)))
