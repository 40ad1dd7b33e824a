"""Train the latent upsampler of the toy model: `scripts/toy/train_upsampler.py --state DIR [--steps N]`.

It is trained on latents of the same scenes rendered in two sizes, which are encoded once with the video VAE and stored
in DIR. The training continues from the state in DIR. Without a state it starts from the shipped weights, or with
`--fresh` from random weights. The weights are written into the toy's `upsampler.safetensors` after the last step.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.models.upsampler import LatentUpsampler, upsample_latent
from ltx2_core.models.video_vae import VideoDecoder, VideoEncoder
from scripts.toy import world
from scripts.toy.model import fresh, save, trained
from scripts.toy.pictures import Pictures, picture_likeness
from scripts.toy.training import Muon, Run, learning_rate, options_of

FILE = "upsampler.safetensors"
BATCH, PART = 8, 50  # pairs per step, pairs per file
HELD_OUT = 3  # clips of each kind
REPORT_EVERY = 500
SEED, HELD_OUT_SEED = 1, 2


def main() -> None:
    parser = options_of(__doc__, steps=3000)
    parser.add_argument("--pairs", type=int, default=500, help="number of training clips")
    options = parser.parse_args()
    encoder, decoder = (trained(f"video_{half}", options.out) for half in ("encoder", "decoder"))
    upsampler = fresh("upsampler") if options.fresh else trained("upsampler", options.out)
    assert isinstance(encoder, VideoEncoder)
    assert isinstance(decoder, VideoDecoder)
    assert isinstance(upsampler, LatentUpsampler)
    small, large = kept_pairs(options.state, encoder, options.pairs)
    parameters = [*upsampler.parameters()]
    optimiser = Muon(parameters, lr=options.rate)
    run = Run(options.state, {"upsampler": upsampler, "optimiser": optimiser})
    held_out = held_out_clips()
    for step in run.steps(options.steps):
        optimiser.param_groups[0]["lr"] = learning_rate(options.rate, step, options.steps)
        chosen = torch.randint(len(small), (BATCH,), generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            enlarged = upsample_latent(small[chosen], upsampler, encoder.per_channel_statistics)
        loss = (enlarged - large[chosen]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        with torch.autocast("cpu", torch.bfloat16):
            optimiser.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} loss {loss.item():.4f} minutes {run.seconds / 60:.1f}", flush=True)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == options.steps:
            print(f"step {step + 1} {report(encoder, decoder, upsampler, held_out)}", flush=True)
    save(FILE, {"upsampler": upsampler}, options.out, upsampler_steps=run.step)


def kept_pairs(folder: Path, encoder: VideoEncoder, count: int) -> tuple[Tensor, Tensor]:
    """Normalised latents (b c f h w) of clips in the usual size and in twice the size; missing ones are encoded and
    stored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, count, PART):
        path = folder / f"pairs-{first}.safetensors"
        if not path.is_file():
            rng = np.random.default_rng((SEED, first))
            scenes = [world.draw(rng) for _ in range(PART)]
            part = path.with_suffix(".part")
            save_file({f"x{scale}": encode(encoder, scenes, scale) for scale in (1, 2)}, part)
            part.replace(path)
            print(f"pairs {first + PART} of {count}", flush=True)
        parts.append(load_file(path))
    small, large = (torch.cat([part[name] for part in parts]).float() for name in ("x1", "x2"))
    return small, large


@torch.no_grad()
def encode(encoder: VideoEncoder, scenes: list[world.Scene], scale: int) -> Tensor:
    """Normalised latents (b c f h w) of scenes."""
    clips = (world.render(scene, width=scale * world.WIDTH, height=scale * world.HEIGHT) for scene in scenes)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([encoder(Pictures.of([clip]).video).bfloat16() for clip in clips])


def held_out_clips() -> list[tuple[world.Clip, world.Clip]]:
    """Clips in both sizes, of combinations that are not used for training."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    scenes = [world.draw(rng, [kind], held_out=True) for kind in world.Kind for _ in range(HELD_OUT)]
    return [(world.render(scene), world.render(scene, 2 * world.WIDTH, 2 * world.HEIGHT)) for scene in scenes]


@torch.no_grad()
def report(
    encoder: VideoEncoder, decoder: VideoDecoder, upsampler: LatentUpsampler, pairs: list[tuple[world.Clip, world.Clip]]
) -> str:
    """The similarity of large clips to the true ones: decoded from enlarged small latents, and from their own
    latents.
    """
    small, large = zip(*pairs, strict=True)
    with torch.autocast("cpu", torch.bfloat16):
        latents = [encoder(Pictures.of([clip]).video) for clip in small]
        enlarged = [decoder(upsample_latent(z, upsampler, encoder.per_channel_statistics)) for z in latents]
        own = [decoder(encoder(Pictures.of([clip]).video)) for clip in large]
    lines = {"enlarged": enlarged, "own": own}
    return "held-out" + "".join(f"\n  {name}: {picture_likeness(torch.cat(v), large)}" for name, v in lines.items())


if __name__ == "__main__":
    main()
