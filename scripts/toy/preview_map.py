"""Fit the map from latents to colours with which `--preview` shows the toy model, and write it into the package.

    python scripts/toy/preview_map.py [--clips 150]

The map is fitted to latents of rendered clips of all kinds and the frames that the toy's video VAE decodes from them,
just as a render fits a map to the first clip that it decodes. The file is named after the SHA-256 of the VAE, so it has
to be made again after a change of the VAE.
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
HELD_OUT = 0.2  # share of the clips that are used for measuring only


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
    """The map from latents (1 c f h w) to their frames (F 3 H W)."""
    fit = ColourFit.blank(clips[0][0].shape[1])
    for latent, frames in clips:
        for _ in fit.add_clip(iter([frames]), latent, FRAMES_PER_LATENT):
            pass
    return fit.solve()


def psnr_db(colours: ColourMap, clips: list[tuple[Tensor, Tensor]]) -> float:
    """The PSNR of the map, compared with the mean of the frames that each latent frame stands for, at the size of the
    map.
    """
    errors = []
    for latent, frames in clips:
        means = reduce(frames[1:], "(f t) c H W -> f c H W", "mean", t=FRAMES_PER_LATENT)
        for index, mean in enumerate(means, 1):
            shown = colours.picture(latent[0, :, index])
            errors.append((shown - functional.adaptive_avg_pool2d(mean, shown.shape[-2:])).square().mean())
    return -10 * torch.stack(errors).mean().log10().item()


if __name__ == "__main__":
    main()
