"""Measure `--cache-steps` on clips of the toy model: how much it skips, and how much the clips change.

    python scripts/toy/cache_steps.py [--clips 20] [--steps 30] [--bounds 0.02 0.05 0.1 0.2]

Each clip is generated separately, in held-out wordings and combinations, once without skipping and once with each
bound, and compared frame by frame; the detectors judge all of them. For comparison, the last rows use fewer steps
without skipping.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np

from ltx2_core.models.block_cache import BlockCache
from ltx2_core.types import Streams
from scripts.toy import detect
from scripts.toy.codec import Codec
from scripts.toy.evaluate import CODEC, Case
from scripts.toy.generate import Generator, toy_request
from scripts.toy.judge import Finding, sync

FEWER = (24, 18, 12)  # numbers of steps without skipping


@dataclass
class Row:
    """One way to generate the clips, and its results. bound: 0 skips nothing."""

    steps: int
    bound: float = 0.0
    skipped: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    errors: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def line(self) -> str:
        """A row of the table."""
        psnr = "" if not any(self.errors) else f"{-10 * np.log10(np.mean(self.errors)):.1f}"
        judged = [answer for finding in self.findings for answer in finding.judged.values()]
        skipped = "" if not self.bound else f"{100 * self.skipped / self.evaluations:.0f} %"
        name = f"{self.bound:g}" if self.bound else "off"
        events = sync(self.findings)
        found = f"{events.found} of {events.events} | {events.justified} of {events.onsets}"
        right = f"{100 * np.mean(judged):.1f} %"
        return f"| {self.steps} | {name} | {skipped} | {self.seconds:.2f} | {psnr} | {right} | {found} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--bounds", type=float, nargs="*", default=(0.02, 0.05, 0.1, 0.2))
    options = parser.parse_args()
    rows = [Row(options.steps, bound) for bound in (0.0, *options.bounds)] + [Row(steps) for steps in FEWER]
    requests = [toy_request(output="unused.mp4", steps=row.steps) for row in rows]
    generator, codec = Generator.of(requests[0]), Codec.load(*CODEC)
    for number in range(options.clips):
        case, full = Case.of(number, True), None
        for row, resolved in zip(rows, requests, strict=True):
            cache, start = BlockCache(bound=row.bound) if row.bound else None, time.process_time()
            latents = generator.generate(resolved.request, [case.prompt], [number], Streams(), cache=cache)
            row.seconds += (time.process_time() - start) / options.clips
            if cache is not None:
                row.skipped += cache.skipped
                row.evaluations += cache.evaluations
            assert latents.video is not None
            assert latents.audio is not None
            frames, sound = codec.pictures(latents.video)[0], codec.sounds(latents.audio)[0]
            if full is None:
                full = frames
            row.errors.append(float(np.mean((frames / 255 - full / 255) ** 2)))
            row.findings.append(finding(case, frames, sound))
        show(rows, number + 1)


def finding(case: Case, frames: np.ndarray, sound: np.ndarray) -> Finding:
    """The findings of the detectors in a clip."""
    return Finding(
        row="",
        clip=case.number,
        scene=case.clip.scene,
        times_s=case.times_s,
        given="neither",
        seen=detect.see(frames),
        heard=detect.hear(sound, case.clip.scene.kind),
        numbers={},
    )


def show(rows: Sequence[Row], clips: int) -> None:
    """Print the table of the clips so far."""
    print(f"{clips} clips", *(row.line() for row in rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
