"""Encoded clips on disk for the training of the denoiser: shards that are written once and can be added at any time.

A shard is a safetensors file with the latents of some clips of one size, normalised and in float16: `video` (b c f h
w), `audio` (b c t m), `mask` (b f h w) uint8, which is 1 in the cells that the object of a scene touches. The scenes
are in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from scripts.toy.model import write
from scripts.toy.world import Kind, Scene

Grid = tuple[int, int, int]


class Examples(NamedTuple):
    """Clips of one size for the training of the denoiser; shapes as in a shard."""

    video: Tensor
    audio: Tensor
    mask: Tensor
    scenes: Sequence[Scene]

    @property
    def grid(self) -> Grid:
        """Latent frames, rows and columns."""
        _, _, f, h, w = self.video.shape
        return f, h, w


def write_shard(path: Path, examples: Examples) -> None:
    """Write a shard atomically."""
    tensors = {"video": examples.video.half(), "audio": examples.audio.half(), "mask": examples.mask.to(torch.uint8)}
    write(path, tensors, {"scenes": json.dumps([vars(scene) for scene in examples.scenes])})


def read_shard(path: Path) -> Examples:
    """Read a shard."""
    with safe_open(path, "pt") as file:
        scenes = json.loads(file.metadata()["scenes"])
        tensors = [file.get_tensor(name) for name in ("video", "audio", "mask")]
    return Examples(*tensors, [Scene(**(scene | {"kind": Kind(scene["kind"])})) for scene in scenes])


class Cache:
    """All shards of a folder, including those that are added while it is used.

    Args: kinds: kinds of scenes to draw.
    """

    def __init__(self, folder: Path, kinds: Collection[Kind]) -> None:
        self.folder, self.kinds = folder, kinds
        self.shards: dict[Path, Examples] = {}
        self.places: dict[Grid, dict[Kind, list[tuple[Path, int]]]] = {}
        self.refresh()

    def __len__(self) -> int:
        return sum(len(places) for kinds in self.places.values() for places in kinds.values())

    def refresh(self) -> None:
        """Read the new shards."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self.shards:
                continue
            shard = self.shards[path] = read_shard(path)
            kinds = self.places.setdefault(shard.grid, {})
            for row, scene in enumerate(shard.scenes):
                if scene.kind in self.kinds:
                    kinds.setdefault(scene.kind, []).append((path, row))

    def draw(self, rng: np.random.Generator, count: int, grid: Grid) -> Examples:
        """Random clips of one size; all kinds are equally frequent, regardless of the number of clips of each kind."""
        kinds = self.places[grid]
        names = sorted(kinds)
        chosen = [kinds[names[rng.integers(len(names))]] for _ in range(count)]
        picked = [places[rng.integers(len(places))] for places in chosen]
        video, audio, mask = (
            torch.stack([getattr(self.shards[path], name)[row] for path, row in picked])
            for name in ("video", "audio", "mask")
        )
        return Examples(video.float(), audio.float(), mask, [self.shards[path].scenes[row] for path, row in picked])
