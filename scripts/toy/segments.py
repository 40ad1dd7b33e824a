"""How often each span of a clip of the toy model shows what its own prompt says.

    python scripts/toy/segments.py [--clips 20] [--folder DIR]

Half of the clips show a lamp whose colour changes in the middle, the other half a ball and then a lamp, in held-out
wordings and combinations. Each clip is rendered by `ltx2` with two segments, and the detectors examine its two spans,
without the latent frame between them. The first line has the results for the renderer's own clips, cut in the same way.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
from safetensors.torch import load_file

from ltx2_core.pipeline.render.run import run
from scripts.toy import detect, prompts, world
from scripts.toy.codec import Codec
from scripts.toy.generate import toy_request
from scripts.toy.model import HOME
from scripts.toy.world import FPS, FRAMES, Kind, Scene

SEED = 7000
BORDER_S = 1
SPANS = (slice(0, BORDER_S * FPS - 4), slice(BORDER_S * FPS + 4, FRAMES))  # frames, without the latent frame between
JUDGED = ("kind", "colour", "side")


@dataclass(frozen=True)
class Case:
    """A clip of two spans: the scene of each span, and its prompt."""

    scenes: tuple[Scene, Scene]
    prompts: tuple[str, str]

    @classmethod
    def of(cls, number: int) -> Case:
        rng = np.random.default_rng((SEED, number))
        second = world.draw(rng, [Kind.LAMP], held_out=True)
        if number % 2:
            first = world.draw(rng, [Kind.BALL], held_out=True)
        else:
            fitting = [one for one in world.combinations(Kind.LAMP, True) if one.colour != second.colour]
            first = replace(fitting[rng.integers(len(fitting))], side=second.side)
        first_text, second_text = (prompts.prompt(one, rng, held_out=True) for one in (first, second))
        return cls((first, second), (first_text, second_text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=HOME, help="folder of the model")
    options = parser.parse_args()
    cases = [Case.of(number) for number in range(options.clips)]
    rendered = ([world.render(scene).frames for scene in case.scenes] for case in cases)
    print("rendered:", *told(cases, rendered))
    print("with segments:", *told(cases, made(cases, options.folder)))


def made(cases: list[Case], folder: Path) -> Iterator[list[np.ndarray]]:
    """The frames (F H W 3) uint8 that `ltx2` renders for each case, once for each span."""
    codec = Codec.load("video_decoder", folder=folder)
    with TemporaryDirectory() as out:
        for number, case in enumerate(cases):
            target = Path(out) / f"{number}.mp4"
            first, second = case.prompts
            segments = [f"0s-{BORDER_S}s={first}", f"{BORDER_S}s-2s={second}"]
            own = {"segment": segments, "seed": number, "output": str(target), "keep_latents": True}
            run(toy_request(folder, **own))
            latents = load_file(target.with_name(target.name + ".job") / "latents-1.safetensors")
            yield [*codec.pictures(latents["video"].float())] * 2


def told(cases: list[Case], clips: Iterator[list[np.ndarray]]) -> Iterator[str]:
    """The share of spans that show what their prompt says, as text."""
    right: dict[str, list[bool]] = defaultdict(list)
    for case, frames in zip(cases, clips, strict=True):
        for scene, picture, span in zip(case.scenes, frames, SPANS, strict=True):
            seen = detect.see(picture[span])
            answers = [getattr(seen, name) == getattr(scene, name) for name in JUDGED]
            kind = "lamp then lamp" if case.scenes[0].kind == Kind.LAMP else "ball then lamp"
            for name, answer in zip(
                (*JUDGED, "all", f"all, {kind}"), (*answers, all(answers), all(answers)), strict=True
            ):
                right[name].append(answer)
    for name, answers in right.items():
        yield f"{name} {100 * np.mean(answers):.0f} % of {len(answers)} spans;"


if __name__ == "__main__":
    main()
