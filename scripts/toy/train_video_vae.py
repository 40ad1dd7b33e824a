"""Train the video VAE of the toy model: `scripts/toy/train_video_vae.py --state DIR [--steps N]`.

The training continues from the state in DIR. Without a state it starts from the shipped weights, or with `--fresh` from
random weights. The weights and the statistics of the latents are written into the toy's `video_vae.safetensors` after
the last step. With `--decoder-only` the encoder and the statistics do not change, so existing latents remain valid.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ltx2_core.models.video_vae import VideoDecoder, VideoEncoder
from scripts.toy import world
from scripts.toy.model import fresh, save, trained
from scripts.toy.pictures import Pictures, Pool, Size, picture_distance, picture_likeness
from scripts.toy.training import Muon, Run, learning_rate, options_of

FILE = "video_vae.safetensors"
LATENT_NOISE, MOMENTUM, SHRINK = 0.1, 0.02, 1e-4
# Sizes of about the same cost. Whole frames and whole clips are used late, and make backgrounds cleaner.
SMALL = (Size(4, 17, 96, 96),)
MIXED = (Size(4, 17, 96, 96), Size(4, 17, 96, 96), Size(1, 25, 128, 192), Size(1, 49, 96, 128))
SHARE_OF_OBJECT, LATE_SHARE, LATE = 1.0, 0.7, 2 / 3
HELD_OUT, STATISTICS = 3, 200  # clips of each kind, clips of all kinds
REPORT_EVERY = 250
SEED, HELD_OUT_SEED, STATISTICS_SEED = 1, 2, 3


def main() -> None:
    parser = options_of(__doc__, steps=5000)
    parser.add_argument("--decoder-only", action="store_true", help="do not change the encoder")
    options = parser.parse_args()
    halves = ("video_encoder", "video_decoder")
    encoder, decoder = (fresh(half) if options.fresh else trained(half, options.out) for half in halves)
    assert isinstance(encoder, VideoEncoder)
    assert isinstance(decoder, VideoDecoder)
    encoder.requires_grad_(not options.decoder_only)
    train(encoder, decoder, options.state, options.out, steps=options.steps, rate=options.rate)


def train(encoder: VideoEncoder, decoder: VideoDecoder, state: Path, out: Path, *, steps: int, rate: float) -> None:
    """Train the parameters that require gradients up to a number of steps, report on held-out clips, and write the
    file.
    """
    is_encoder_free = encoder.conv_in.conv.weight.requires_grad
    parameters = [p for half in (encoder, decoder) for p in half.parameters() if p.requires_grad]
    optimiser = Muon(parameters, lr=rate)
    run = Run(state, {"encoder": encoder, "decoder": decoder, "optimiser": optimiser})
    pool, held_out = Pool(SEED), held_out_clips()
    for step in run.steps(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(rate, step, steps)
        is_late = not is_encoder_free or step >= LATE * steps
        sizes = MIXED if is_late else SMALL
        pictures = pool.crops(step, sizes[step % len(sizes)])
        with torch.autocast("cpu", torch.bfloat16):
            latent = encoder(pictures.video)
            mean = encoder.per_channel_statistics.unnormalize(latent)
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(step))
            decoded = decoder(latent + LATENT_NOISE * noise)
        loss = picture_distance(decoded, pictures, LATE_SHARE if is_late else SHARE_OF_OBJECT)
        loss = loss + SHRINK * mean.square().mean()
        optimiser.zero_grad()
        loss.backward()
        with torch.autocast("cpu", torch.bfloat16):
            optimiser.step()
        if is_encoder_free:
            follow(mean, max(MOMENTUM, 1 / (step + 1)), encoder, decoder)
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} loss {loss.item():.4f} minutes {run.seconds / 60:.1f}", flush=True)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1} {report(encoder, decoder, held_out)}", flush=True)
    settle(encoder, decoder, has_new_statistics=is_encoder_free)
    print(f"step {run.step} as written, {report(encoder, decoder, held_out)}", flush=True)
    save(FILE, {"video_encoder": encoder, "video_decoder": decoder}, out, video_vae_steps=run.step)


@torch.no_grad()
def follow(mean: Tensor, momentum: float, *halves: VideoEncoder | VideoDecoder) -> None:
    """Move the statistics of encoder and decoder towards those of some latents (b c f h w) that are not normalised."""
    cells = rearrange(mean.float(), "b c f h w -> (b f h w) c")
    for half in halves:
        half.per_channel_statistics.get_buffer("mean-of-means").lerp_(cells.mean(0), momentum)
        half.per_channel_statistics.get_buffer("std-of-means").lerp_(cells.std(0), momentum)


@torch.no_grad()
def settle(encoder: VideoEncoder, decoder: VideoDecoder, *, has_new_statistics: bool) -> None:
    """Round the weights as in the file, and compute the statistics from whole clips."""
    for half in (encoder, decoder):
        for parameter in half.parameters():
            parameter.copy_(parameter.bfloat16())
    if has_new_statistics:
        rng = np.random.default_rng(STATISTICS_SEED)
        clips = (Pictures.of([world.render(world.draw(rng))]).video for _ in range(STATISTICS))
        means = [encoder.per_channel_statistics.unnormalize(encoder(video)) for video in clips]
        follow(torch.cat(means), 1.0, encoder, decoder)


def held_out_clips() -> list[list[world.Clip]]:
    """Whole clips by kind, of combinations that are not used for training."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    return [[world.render(world.draw(rng, [kind], held_out=True)) for _ in range(HELD_OUT)] for kind in world.Kind]


@torch.no_grad()
def report(encoder: VideoEncoder, decoder: VideoDecoder, kinds: list[list[world.Clip]]) -> str:
    """The similarity of decoded clips to the true ones, by kind."""
    lines = []
    for clips in kinds:
        with torch.autocast("cpu", torch.bfloat16):
            decoded = torch.cat([decoder(encoder(Pictures.of([clip]).video)) for clip in clips])
        lines.append(f"  {clips[0].scene.kind}: {picture_likeness(decoded, clips)}")
    return "\n".join(["held-out", *lines])


if __name__ == "__main__":
    main()
