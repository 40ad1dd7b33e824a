"""Fit the map from latents to colours that `--preview` shows the toy model with, and write it where it is shipped.

    python scripts/toy/preview_map.py [--clips 150]

What the toy's video VAE makes of rendered clips of all kinds is compared with their latents, as a render does with the
first clip that it decodes. The file is named after the SHA-256 of the VAE, so it has to be made again with that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional

from ltx2_core.identity import identity
from ltx2_core.pipeline.render.latent_colours import PATCH, ColourFit, ColourMap
from ltx2_core.pipeline.render.preview import FOLDER
from ltx2_core.records import presets_folder
from scripts.toy.codec import Codec
from scripts.toy.evaluate import Case
from scripts.toy.model import FILE_OF, HOME

FRAMES_PER_LATENT = 8
HELD_OUT = 0.2  # of the clips, to measure with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=150)
    options = parser.parse_args()
    codec = Codec.load("video_encoder", "audio_encoder", "video_decoder")
    clips = []
    for number in range(options.clips):
        latent = codec.encode([Case.of(number, True).clip]).video
        assert latent is not None
        frames = rearrange(torch.from_numpy(codec.pictures(latent)[0]), "F H W c -> F c H W").float() / 255
        clips.append((latent, frames))
    held_out = int(HELD_OUT * len(clips))
    found = psnr_db(fitted(clips[held_out:]), clips[:held_out])
    print(f"{found:.1f} dB on pictures of {PATCH}x{PATCH} pixels a cell, of clips that were left out")
    content = fitted(clips).dump()
    path = presets_folder() / FOLDER / f"{identity(HOME / FILE_OF['video_decoder']).content}.safetensors"
    path.parent.mkdir(exist_ok=True)
    for old in path.parent.iterdir():
        old.unlink()
    path.write_bytes(content)
    print(f"{path}: {len(content):,} bytes")


def fitted(clips: list[tuple[Tensor, Tensor]]) -> ColourMap:
    """The map of latents (1 c f h w) to their frames (F 3 H W)."""
    fit = ColourFit.blank(clips[0][0].shape[1])
    for latent, frames in clips:
        for _ in fit.add_clip(iter([frames]), latent, FRAMES_PER_LATENT):
            pass
    return fit.solve()


def psnr_db(colours: ColourMap, clips: list[tuple[Tensor, Tensor]]) -> float:
    """How near the map comes to the mean of the frames that each latent frame stands for, at its own size."""
    errors = []
    for latent, frames in clips:
        means = reduce(frames[1:], "(f t) c H W -> f c H W", "mean", t=FRAMES_PER_LATENT)
        for index, mean in enumerate(means, 1):
            shown = colours.picture(latent[0, :, index])
            errors.append((shown - functional.adaptive_avg_pool2d(mean, shown.shape[-2:])).square().mean())
    return -10 * torch.stack(errors).mean().log10().item()


if __name__ == "__main__":
    main()
