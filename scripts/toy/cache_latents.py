"""Render and encode clips for the denoiser: `scripts/toy/cache_latents.py OUT --clips N [--kinds ball lamp]`.

OUT gets shards of latents from the encoders of the toy model. Clip i of a seed is always the same clip, and existing
shards are kept. A training that reads OUT notices new shards. Several processes can share the work by using different
seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from scripts.toy import world
from scripts.toy.codec import Codec
from scripts.toy.model import HOME
from scripts.toy.shards import Examples, write_shard
from scripts.toy.world import Clip, Kind

SHARD, BATCH = 128, 4  # clips per shard, clips that are encoded at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the shards, created if it is missing")
    parser.add_argument("--clips", type=int, required=True, help="total number of clips of this seed")
    parser.add_argument("--kinds", type=Kind, nargs="+", default=list(Kind), choices=list(Kind), help="kinds of scenes")
    parser.add_argument("--scale", type=int, default=1, help="factor for width and height")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=HOME, help="folder of the encoders")
    options = parser.parse_args()
    codec = Codec.load("video_encoder", "audio_encoder", folder=options.folder)
    for index in range(0, options.clips, SHARD):
        path = options.out / f"{'-'.join(options.kinds)}-x{options.scale}-{options.seed}-{index:06}.safetensors"
        if path.is_file():
            continue
        started = time.monotonic()
        rng = np.random.default_rng((options.seed, options.scale, index))
        scenes = [world.draw(rng, options.kinds) for _ in range(min(SHARD, options.clips - index))]
        size = {"width": options.scale * world.WIDTH, "height": options.scale * world.HEIGHT}
        batches = [
            encode([world.render(scene, **size) for scene in scenes[first : first + BATCH]], codec)
            for first in range(0, len(scenes), BATCH)
        ]
        tensors = (torch.cat(parts) for parts in zip(*batches, strict=True))
        write_shard(path, Examples(*tensors, scenes))
        print(f"{path.name}: {(time.monotonic() - started) / len(scenes):.3f} s per clip", flush=True)


def encode(clips: Sequence[Clip], codec: Codec) -> tuple[Tensor, Tensor, Tensor]:
    """The latents of clips, (b c f h w) and (b c t m), and the cells (b f h w) that their objects touch."""
    video, audio = codec.encode(clips)
    assert video is not None
    assert audio is not None
    masks = torch.from_numpy(np.stack([clip.mask for clip in clips]))
    return video, audio, touched_cells(masks, video.shape[-3:])


def touched_cells(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """The cells (b f h w) uint8 of a latent that masks (b F H W) touch; the first latent frame stands for one frame."""
    f, h, w = grid
    size = {"y": masks.shape[2] // h, "x": masks.shape[3] // w}
    cells = reduce(masks.float(), "b F (h y) (w x) -> b F h w", "max", **size)
    first, later = cells[:, :1], reduce(cells[:, 1:], "b (f t) h w -> b f h w", "max", f=f - 1)
    return torch.cat([first, later], 1).to(torch.uint8)


if __name__ == "__main__":
    main()
