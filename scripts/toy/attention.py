"""Measure how much of the audio's attention falls on the object of a clip of the toy world, whose place the renderer
knows.

    python scripts/toy/attention.py [--clips 20] [--first 0] [--blocks 2-4] [--steps 1-6]

The model generates audio for rendered balls and lamps (v2a), in held-out wordings and combinations. For each frame, the
script takes the attention of the audio at that time to the cells that the object covers in the latent frame, weighted
by the covered share of each cell, and divides it by the mean of that latent frame. The score is the mean over the
frames.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from ltx2_core.media.overlay import AttentionMap
from ltx2_core.models.capture import AttentionCapture
from ltx2_core.pipeline.values import parse_ranges
from ltx2_core.types import Streams
from scripts.toy.codec import Codec
from scripts.toy.evaluate import Case
from scripts.toy.generate import Generator, toy_request
from scripts.toy.world import FPS, Kind

CELL, FRAMES_PER_LATENT, AUDIO_STEP_S = 32, 8, Fraction(1, 25)
GOAL = 3.0  # goal for the score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of clips to skip")
    parser.add_argument("--blocks", type=parse_ranges, default=parse_ranges("2-4"))
    parser.add_argument("--steps", type=parse_ranges, default=parse_ranges("1-6"))
    options = parser.parse_args()
    found = (case for number in count() if (case := Case.of(number, True)).clip.scene.kind in (Kind.BALL, Kind.LAMP))
    cases = [*islice(found, options.first, options.first + options.clips)]
    capture = AttentionCapture(blocks=options.blocks, steps=options.steps, samples=len(cases))
    weights = captured(cases, capture)
    scores = np.array([score(one, case.clip.mask) for one, case in zip(weights, cases, strict=True)])
    for kind in (Kind.BALL, Kind.LAMP):
        own = scores[[case.clip.scene.kind == kind for case in cases]]
        print(f"{kind.value}: {own.mean():.2f} times the mean of the frame, {own.min():.2f} to {own.max():.2f}")
    print(f"at least {GOAL:g} times in {100 * np.mean(scores >= GOAL):.0f} % of {len(cases)} clips")


def captured(cases: Sequence[Case], capture: AttentionCapture) -> Tensor:
    """The attention (b na nv) of the audio that is generated for the clips."""
    resolved = toy_request(output="unused.mp4")
    video = Codec.load("video_encoder", "audio_encoder").encode([case.clip for case in cases]).video
    asked, seeds = [case.prompt for case in cases], [case.number for case in cases]
    Generator.of(resolved).generate(resolved.request, asked, seeds, Streams(video, None), capture)
    assert capture.weights is not None
    return capture.weights


def score(weights: Tensor, mask: np.ndarray) -> float:
    """The attention to the object divided by the mean of the frame, for one clip (na nv) with the mask (F H W) of its
    object.
    """
    pixels = torch.from_numpy(mask.astype(np.float32))
    cells = reduce(pixels, "F (h y) (w x) -> F h w", "mean", y=CELL, x=CELL)
    seen = torch.cat([cells[:1], reduce(cells[1:], "(f t) h w -> f h w", "mean", t=FRAMES_PER_LATENT)])
    frames, rows, columns = seen.shape
    grid = rearrange(weights, "t (f h w) -> t f h w", f=frames, h=rows, w=columns)
    attention = AttentionMap(
        weights=grid, fps=Fraction(FPS), frames_per_latent=FRAMES_PER_LATENT, width=columns, height=rows
    )
    ratios = []
    for frame in range(len(mask)):
        covered = seen[-(-frame // FRAMES_PER_LATENT)].numpy()
        if covered.any():
            ratios.append((attention.at(Fraction(frame, FPS)) * covered).sum() / covered.sum())
    return float(np.mean(ratios))


if __name__ == "__main__":
    main()
