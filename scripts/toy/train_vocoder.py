"""Train the vocoder of the toy model: `scripts/toy/train_vocoder.py --state DIR [--steps N]`.

It needs the trained audio VAE, because in the second half of the training it also learns from decoded mels. The
training continues from the state in DIR. Without a state it starts from the shipped weights, or with `--fresh` from
random weights. The weights are written into the toy's `audio_vae.safetensors` with every report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import torch
from torch import Tensor, nn

from ltx2_core.checkpoint import load_component
from ltx2_core.models.vocoder import Vocoder
from scripts.toy.model import fresh, save, trained
from scripts.toy.sound import (
    draw_clips,
    draw_sounds,
    expect_mels,
    mel_distance,
    mels_of,
    sound_distance,
    sound_likeness,
    sounds_of,
    spread,
)
from scripts.toy.training import Muon, Run, learning_rate, options_of
from scripts.toy.world import Clip

FILE = "audio_vae.safetensors"
BATCH, FRAMES = 8, 41  # clips and mel frames per step; 4t - 3 frames, as the audio VAE needs
SAMPLES = 240  # samples per mel frame
DECODED_FROM, LATENT_NOISE = 0.5, 0.1
HELD_OUT = 40  # number of held-out clips
REPORT_EVERY = 200
SEED, HELD_OUT_SEED = 4, 2


def main() -> None:
    options = options_of(__doc__, steps=6000).parse_args()
    train(options.state, options.out, steps=options.steps, rate=options.rate, is_fresh=options.fresh)


def train(state: Path, out: Path, *, steps: int, rate: float, is_fresh: bool) -> None:
    """Train up to a number of steps; report on held-out clips and write the file from time to time."""
    vocoder = beginning(is_fresh, out)
    chain = Chain(out)
    parameters = list(vocoder.parameters())
    optimiser = Muon(parameters, rate)
    run = Run(state, {"vocoder": vocoder, "optimiser": optimiser})
    held_out = draw_clips(HELD_OUT, HELD_OUT_SEED, held_out=True)
    for step in run.steps(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(rate, step, steps)
        generator = torch.Generator().manual_seed(step)
        mel, sounds = crops(spread(draw_sounds(BATCH, SEED, step), generator), generator)
        half = BATCH // 2 if step >= DECODED_FROM * steps else 0
        made = vocoder(torch.cat([chain.imitate(mel[:half], generator), mel[half:]]))
        loss = sound_distance(made, sounds) + 0.3 * mel_distance(mels_of(made), mel)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} loss {loss.item():.4f} minutes {run.seconds / 60:.1f}", flush=True)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            report(step + 1, vocoder, chain, held_out)
            save(FILE, {"vocoder": vocoder}, out, vocoder_steps=step + 1)


def beginning(is_fresh: bool, folder: Path) -> Vocoder:
    """The vocoder, shipped or new; a new one makes each channel of the audio from the same side of the mel."""
    vocoder = fresh("vocoder") if is_fresh else trained("vocoder", folder)
    assert isinstance(vocoder, Vocoder)
    if is_fresh:
        generator = torch.Generator().manual_seed(SEED)
        for layer in vocoder.modules():
            if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
                separate(layer, generator)
        for block in vocoder.resblocks:
            for dense in block.get_submodule("convs2").children():
                nn.init.zeros_(dense.get_parameter("weight"))
        expect_mels(vocoder.conv_pre)
    return vocoder


@torch.no_grad()
def separate(layer: nn.Conv1d | nn.ConvTranspose1d, generator: torch.Generator) -> None:
    """New weights that preserve the loudness, and keep the first half of the channels separate from the second half."""
    assert layer.bias is not None
    turn = isinstance(layer, nn.ConvTranspose1d)
    weight = layer.weight.transpose(0, 1) if turn else layer.weight  # (out in k)
    outputs, inputs, kernel = weight.shape
    same = (torch.arange(outputs) * 2 < outputs)[:, None] == (torch.arange(inputs) * 2 < inputs)
    taps = kernel / layer.stride[0] if turn else kernel
    deviation = (2 / (inputs / 2 * taps)) ** 0.5
    weight.copy_(deviation * torch.randn(weight.shape, generator=generator) * same[..., None])
    nn.init.zeros_(layer.bias)


def crops(sounds: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pieces of sounds: their mels (b 2 T M), and their samples (b 2 s)."""
    mel = mels_of(sounds)
    last = sounds.shape[2] // SAMPLES - FRAMES
    starts = torch.randint(last + 1, (len(mel),), generator=generator).tolist()
    mels = [one[:, start : start + FRAMES] for one, start in zip(mel, starts, strict=True)]
    waves = [one[:, SAMPLES * start : SAMPLES * (start + FRAMES)] for one, start in zip(sounds, starts, strict=True)]
    return torch.stack(mels), torch.stack(waves)


class Chain:
    """The trained audio VAE in front of the vocoder."""

    def __init__(self, folder: Path) -> None:
        self.encoder = load_component("audio_encoder", folder / FILE, dtype=torch.float32)
        self.decoder = load_component("audio_decoder", folder / FILE, dtype=torch.float32)

    @torch.no_grad()
    def imitate(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mels (b 2 T M) after encoding and decoding, with a little noise on the latents."""
        latent = self.encoder(mel)
        return self.decoder(latent + LATENT_NOISE * torch.randn(latent.shape, generator=generator))


@torch.no_grad()
def report(step: int, vocoder: Vocoder, chain: Chain, clips: Sequence[Clip]) -> None:
    """Print the findings of the detectors in the sounds that are made from true and from decoded mels."""
    mel = mels_of(sounds_of(clips))
    for name, seen in {"true": mel, "decoded": chain.decoder(chain.encoder(mel))}.items():
        print(f"step {step} held-out, {name} mels: {sound_likeness(vocoder(seen), clips)}", flush=True)


if __name__ == "__main__":
    main()
