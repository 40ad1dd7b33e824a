"""Compare clips that `v2v --upscale 2` enlarges with the frames that the toy world's own renderer draws at that size.

    python scripts/toy/enlarge.py [--clips 2]

The script prints, by kind of scene, how similar each clip is to the renderer's frames: enlarged by bicubic
interpolation, and by the edit at several noise levels. In the last row the renderer's frames are encoded and decoded,
which is the upper limit of the video VAE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import av
import numpy as np
import torch
from av import VideoStream
from torch import Tensor
from torch.nn import functional as F

from ltx2_core.checkpoint import load_component
from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import VideoSource
from ltx2_core.media.resize import to_clip
from ltx2_core.media.video import frames_by_time
from ltx2_core.pipeline.render.models import Models
from ltx2_core.pipeline.render.run import run
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from scripts.toy import prompts, world
from scripts.toy.model import FILE_OF, HOME
from scripts.toy.pictures import Pictures, object_error, psnr_db

FACTOR = 2
STRENGTHS = (0.909375, 0.725, 0.421875, 0.2)
CRF = "10"  # low, so that the files to enlarge lose little quality


@dataclass(frozen=True)
class Case:
    """A clip in a file, the prompt that describes it, and the same scene at twice the size."""

    path: Path
    prompt: str
    truth: world.Clip

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the enlarged frames."""
        return self.truth.frames.shape[1], self.truth.frames.shape[2]

    def pixels(self, path: Path) -> Tensor:
        """The frames of a file (1 3 F H W) in [-1, 1], at their own size."""
        source = check_input(path, VideoSource)
        return to_clip(frames_by_time(source, world.FRAMES, Fraction(world.FPS)), source.height, source.width)


class Enlarger:
    """Runs the edit on all clips with the same loaded models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: Models | None = None

    def __call__(self, case: Case, strength: float) -> Tensor:
        target = self.folder / f"{case.path.stem}-{strength}.mp4"
        settings: dict[str, Any] = {"model": "toy", "upscale": FACTOR, "strength": strength, "crf": CRF, "seed": 0}
        layers = [(COMMAND_LINE, {**settings, "output": str(target)})]
        resolved = resolve("v2v", case.prompt, layers, main=case.path)
        self.models = self.models or Models(resolved.task.files, resolved.task.machine)
        run(resolved, models=self.models)
        return case.pixels(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2, help="clips of each kind of scene")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = measure(cases(Path(folder), given.clips), Enlarger(Path(folder)))
    kinds = [*world.Kind, "all"]
    print("| PSNR in dB, mean error in the object |", " | ".join(kinds), "|")
    print("| --- |" + " --- |" * len(kinds))
    for name, found in rows.items():
        cells = [[score for kind, score in found if which in (kind, "all")] for which in kinds]
        print(f"| {name} |", " | ".join(_shown(scores) for scores in cells), "|")


def _shown(scores: Sequence[tuple[float, float]]) -> str:
    likeness, errors = zip(*scores, strict=True)
    return f"{mean(likeness):.1f}, {np.nanmean(errors):.3f}"


def cases(folder: Path, clips: int) -> Iterator[Case]:
    """This many scenes of each kind, with combinations that the denoiser was not trained on."""
    rng = np.random.default_rng(19)
    for kind in world.Kind:
        for number in range(clips):
            scene = world.draw(rng, (kind,), held_out=True)
            path = folder / f"{kind}-{number}.mp4"
            _write(path, world.render(scene).frames)
            truth = world.render(scene, world.WIDTH * FACTOR, world.HEIGHT * FACTOR)
            yield Case(path, prompts.prompt(scene, rng), truth)


@torch.inference_mode()
def measure(cases: Iterator[Case], enlarge: Enlarger) -> dict[str, list[tuple[str, tuple[float, float]]]]:
    """PSNR and error in the object of each clip, with its kind, by the method of enlarging."""
    rows: dict[str, list[tuple[str, tuple[float, float]]]] = {}
    encoder, decoder = (load_component(name, HOME / FILE_OF[name]) for name in ("video_encoder", "video_decoder"))
    for case in cases:
        truth, small = Pictures.of([case.truth]), case.pixels(case.path)
        ways = {"bicubic": F.interpolate(small[0].transpose(0, 1), case.size, mode="bicubic").transpose(0, 1)[None]}
        ways |= {f"--strength {strength:g}": enlarge(case, strength) for strength in STRENGTHS}
        ways["the truth through the VAE"] = decoder(encoder(truth.video))
        for name, made in ways.items():
            score = psnr_db(made, truth.video), object_error(made, truth)
            rows.setdefault(name, []).append((case.truth.scene.kind, score))
    return rows


def _write(path: Path, frames: np.ndarray) -> None:
    """Write a silent clip of frames (F H W 3)."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(world.FPS), options={"crf": CRF})
        assert isinstance(stream, VideoStream)
        (stream.height, stream.width), stream.pix_fmt = frames.shape[1:3], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())


if __name__ == "__main__":
    main()
