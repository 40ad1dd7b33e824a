"""Train the audio VAE of the toy model: `scripts/toy/train_audio_vae.py --state DIR [--steps N]`.

The training continues from the state in DIR. Without a state it starts from the shipped weights, or with `--fresh` from
random weights. Only a training that started from random weights changes the encoder and the statistics of its latents,
because the denoiser depends on them. The weights are written into the toy's `audio_vae.safetensors` after the last
step.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import torch
from einops import rearrange
from torch import Tensor, nn

from ltx2_core.models.audio_vae import AudioDecoder, AudioEncoder
from scripts.toy.model import fresh, save, trained
from scripts.toy.sound import MEL_MEAN, draw_sounds, expect_mels, mel_distance, mel_likeness, mels_of, spread
from scripts.toy.training import Muon, Run, learning_rate, options_of

FILE = "audio_vae.safetensors"
BATCH, FRAMES = 6, 65
LATENT_NOISE, MOMENTUM, SHRINK = 0.1, 0.02, 1e-4
HELD_OUT, STATISTICS = 48, 600  # clips
REPORT_EVERY = 50
SEED, HELD_OUT_SEED, STATISTICS_SEED = 1, 2, 3


def main() -> None:
    options = options_of(__doc__, steps=500).parse_args()
    train(options.state, options.out, steps=options.steps, rate=options.rate, is_fresh=options.fresh)


def train(state: Path, out: Path, *, steps: int, rate: float, is_fresh: bool) -> None:
    """Train up to a number of steps, report on held-out clips from time to time, and write the file."""
    encoder, decoder = beginning(is_fresh, out)
    encoder.requires_grad_(is_fresh)
    parameters = [p for half in (encoder, decoder) for p in half.parameters() if p.requires_grad]
    optimiser = Muon(parameters, rate)
    run = Run(state, {"encoder": encoder, "decoder": decoder, "optimiser": optimiser})
    held_out = mels_of(draw_sounds(HELD_OUT, HELD_OUT_SEED, held_out=True))
    for step in run.steps(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(rate, step, steps)
        generator = torch.Generator().manual_seed(step)
        mel = crops(mels_of(spread(draw_sounds(BATCH, SEED, step), generator)), generator)
        with torch.autocast("cpu", torch.bfloat16):
            mean = encoder.moments(mel)[:, : encoder.config.latent_channels].float()
            if is_fresh:
                follow(mean, max(MOMENTUM, 1 / (step + 1)), encoder, decoder)
            latent = encoder.per_channel_statistics.normalise(mean)
            noise = torch.randn(latent.shape, generator=generator)
            decoded = decoder(latent + LATENT_NOISE * noise).float()
        loss = mel_distance(decoded, mel) + SHRINK * mean.square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} loss {loss.item():.4f} minutes {run.seconds / 60:.1f}", flush=True)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1} held-out {report(encoder, decoder, held_out)}", flush=True)
    if is_fresh:
        settle(encoder, decoder)
    print(f"step {run.step} held-out, as written {report(encoder, decoder, held_out)}", flush=True)
    save(FILE, {"audio_encoder": encoder, "audio_decoder": decoder}, out, audio_vae_steps=run.step)


def beginning(is_fresh: bool, folder: Path) -> tuple[AudioEncoder, AudioDecoder]:
    """The encoder and the decoder, shipped or new; new ones are initialised with the mean of the mels, which would take
    long to learn.
    """
    names = ("audio_encoder", "audio_decoder")
    encoder, decoder = (fresh(name) if is_fresh else trained(name, folder) for name in names)
    assert isinstance(encoder, AudioEncoder)
    assert isinstance(decoder, AudioDecoder)
    if is_fresh:
        expect_mels(encoder.conv_in.conv)
        assert decoder.conv_out.conv.bias is not None
        nn.init.constant_(decoder.conv_out.conv.bias, MEL_MEAN)
    return encoder, decoder


def crops(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Pieces of mels (b 2 T M); in half of them left and right are swapped."""
    starts = torch.randint(mel.shape[2] - FRAMES + 1, (len(mel),), generator=generator).tolist()
    flips = torch.rand(len(mel), generator=generator).lt(0.5).tolist()
    pieces = [one[:, start : start + FRAMES] for one, start in zip(mel, starts, strict=True)]
    return torch.stack([piece.flip(0) if flip else piece for piece, flip in zip(pieces, flips, strict=True)])


@torch.no_grad()
def follow(mean: Tensor, momentum: float, *halves: AudioEncoder | AudioDecoder) -> None:
    """Move the statistics of encoder and decoder towards those of some latents (b c t m) that are not normalised."""
    features = rearrange(mean, "b c t m -> (b t) (c m)")
    for half in halves:
        half.per_channel_statistics.get_buffer("mean-of-means").lerp_(features.mean(0), momentum)
        half.per_channel_statistics.get_buffer("std-of-means").lerp_(features.std(0), momentum)


@torch.no_grad()
def settle(encoder: AudioEncoder, decoder: AudioDecoder) -> None:
    """Compute the statistics from whole clips, with the weights rounded as in the file."""
    for half in (encoder, decoder):
        for parameter in half.parameters():
            parameter.copy_(parameter.bfloat16())
    parts = [mels_of(draw_sounds(10, STATISTICS_SEED, part)) for part in range(STATISTICS // 10)]
    means = [encoder.moments(mel)[:, : encoder.config.latent_channels] for mel in parts]
    follow(torch.cat(means), 1.0, encoder, decoder)


@torch.no_grad()
def report(encoder: AudioEncoder, decoder: AudioDecoder, mel: Tensor) -> str:
    """The errors of decoded mels."""
    return mel_likeness(decoder(encoder(mel)), mel)


if __name__ == "__main__":
    main()
