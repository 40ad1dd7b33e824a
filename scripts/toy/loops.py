"""Compare the seams of toy clips with `--loop` and without it.

    python scripts/toy/loops.py [--clips 20] [--preset distilled-lora] [--duration 2s]

For each way, the script prints the difference between the last and the first frame relative to the median difference in
the clip, and the share of clips in which the difference at the seam, and the spectral flux of the audio, are not larger
than elsewhere in the clip. The last column is the share of clips that show the requested kind of scene.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from einops import rearrange

from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import VideoSource
from ltx2_core.media.seam import Seam, measure_seam
from ltx2_core.media.video import frames_by_time
from ltx2_core.pipeline.render.models import Models
from ltx2_core.pipeline.render.run import run
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from scripts.toy import prompts, world
from scripts.toy.detect import see


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--preset", default="distilled-lora")
    parser.add_argument("--duration", default="2s")
    given = parser.parse_args()
    settings = {"preset": given.preset, "duration": given.duration, "audio_codec": "alac", "crf": 6}
    print("| clips | seam / median step, median and most | step ≤ largest | flux ≤ 99th percentile | scene right |")
    print("| --- | --- | --- | --- | --- |")
    for name, loop in (("as usual", False), ("--loop", True)):
        found = seams(given.clips, {**settings, "loop": loop})
        ratios = np.array([seam.ratio for seam, _ in found])
        smooth = np.mean([seam.step <= seam.steps.max() for seam, _ in found])
        quiet = np.mean([seam.flux is not None and seam.flux <= np.percentile(seam.fluxes, 99) for seam, _ in found])
        right = np.mean([is_right for _, is_right in found])
        steps = f"{np.median(ratios):.2f}, {ratios.max():.2f}"
        print(f"| {name} | {steps} | {smooth:.0%} | {quiet:.0%} | {right:.0%} |", flush=True)


def seams(clips: int, settings: dict[str, Any]) -> list[tuple[Seam, bool]]:
    """The seams of this many clips, with prompts of all kinds of scenes in turn, and whether each clip shows its
    scene.
    """
    rng, found = np.random.default_rng(5), []
    models: Models | None = None
    with TemporaryDirectory() as folder:
        for number in range(clips):
            scene = world.draw(rng, (tuple(world.Kind)[number % len(world.Kind)],))
            target = Path(folder) / f"{number}.mp4"
            layers = [(COMMAND_LINE, {"model": "toy", "seed": number, "output": str(target), **settings})]
            resolved = resolve("t2v", prompts.prompt(scene, rng), layers)
            models = models or Models(resolved.task.files, resolved.task.machine)
            run(resolved, models=models)
            source = check_input(target, VideoSource)
            pixels = torch.cat([*frames_by_time(source, resolved.request.file_frames, source.fps)])
            is_right = see(rearrange(pixels, "F c H W -> F H W c").numpy()).kind == scene.kind
            found.append((measure_seam(source), is_right))
    return found


if __name__ == "__main__":
    main()
