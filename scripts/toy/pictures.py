"""Training data for the video VAE, and measures of how the frames of two clips differ.

In shapes, `F H W` are frames, rows and columns; videos are (b 3 F H W) in [-1, 1], masks (b F H W) are true inside the
object of a scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from scripts.toy import world
from scripts.toy.detect import Sync, match, see

LARGE_EVERY = 10  # one in ten clips has twice the height and width
KINDS = (*world.Kind, world.Kind.FLIGHT)  # flights, which have the finest detail, twice as often
ON_OBJECT = 0.7  # share of the crops that contain a part of the object
POOLS = (4, 8)  # sizes in pixels over which errors are averaged
FINE, POOLED, ABSOLUTE, EDGES = 4.0, 8.0, 0.5, 0.3  # weights of the terms of the loss
HIGHEST_WEIGHT = 150.0  # limit for the weight of a pixel of the object


class Size(NamedTuple):
    """The size of a batch of crops."""

    clips: int
    frames: int
    height: int
    width: int


class Pictures(NamedTuple):
    """Videos with the masks of their objects."""

    video: Tensor
    mask: Tensor

    @classmethod
    def of(cls, clips: Sequence[world.Clip]) -> Pictures:
        """Whole clips of one size."""
        return cls.from_arrays([clip.frames for clip in clips], [clip.mask for clip in clips])

    @classmethod
    def from_arrays(cls, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Pictures:
        """Make videos from frames (F H W 3) uint8 and masks (F H W)."""
        pixels = rearrange(torch.from_numpy(np.stack(frames)), "b F H W c -> b c F H W")
        return cls(pixels.float() / 127.5 - 1, torch.from_numpy(np.stack(masks)))


class Pool:
    """The latest clips of an endless sequence, which depends only on the seed.

    Rendering takes longer than cropping, so every clip is cropped several times while it is in the pool.
    """

    def __init__(self, seed: int, size: int = 160) -> None:
        self.seed, self.size = seed, size
        self.clips: dict[int, world.Clip] = {}

    def clip(self, index: int) -> world.Clip:
        rng = np.random.default_rng((self.seed, index))
        scale = 2 if index % LARGE_EVERY == 0 else 1
        return world.render(world.draw(rng, KINDS), width=scale * world.WIDTH, height=scale * world.HEIGHT)

    def crops(self, step: int, size: Size) -> Pictures:
        """Random crops of the clips `step` to `step + pool size`."""
        wanted = range(step, step + self.size)
        self.clips = {index: self.clips.get(index) or self.clip(index) for index in wanted}
        rng = np.random.default_rng((self.seed, step, 1))
        pieces = [crop(self.clips[step + int(rng.integers(self.size))], size, rng) for _ in range(size.clips)]
        return Pictures.from_arrays(*zip(*pieces, strict=True))


def crop(clip: world.Clip, size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F H W 3) and mask (F H W) of a random piece of a clip, usually one that contains a part of the object."""
    frames, height, width = clip.mask.shape
    first = int(rng.integers(frames - size.frames + 1))
    rows, columns = np.nonzero(clip.mask[first : first + size.frames].any(axis=0))
    if len(rows) and rng.random() < ON_OBJECT:
        chosen = rng.integers(len(rows))
        y, x = rows[chosen] - rng.integers(size.height), columns[chosen] - rng.integers(size.width)
    else:
        y, x = rng.integers(height - size.height + 1), rng.integers(width - size.width + 1)
    top, left = (int(np.clip(at, 0, room)) for at, room in ((y, height - size.height), (x, width - size.width)))
    piece = np.s_[first : first + size.frames, top : top + size.height, left : left + size.width]
    return clip.frames[piece], clip.mask[piece]


def picture_distance(decoded: Tensor, pictures: Pictures, share: float) -> Tensor:
    """The training loss between decoded videos (b 3 F H W) and true ones.

    A plain mean over pixels neglects small objects. So errors are weighted such that the object in a crop counts
    `share` times as much as the whole crop, and squared errors are also computed at coarser scales, where an object in
    a slightly wrong place still has a gradient.
    """
    residual = rearrange(decoded - pictures.video, "b c F H W -> (b F) c H W")
    mask = F.max_pool2d(pictures.mask.float(), 3, stride=1, padding=1)
    area = reduce(mask, "b F H W -> b 1 1 1", "mean")
    weights = rearrange(1 + mask * (share / area.clamp(1e-6)).clamp(max=HIGHEST_WEIGHT), "b F H W -> (b F) 1 H W")
    loss = FINE * _weighted_mean(residual.square(), weights) + ABSOLUTE * _weighted_mean(residual.abs(), weights)
    for size in POOLS:
        loss = loss + POOLED * _weighted_mean(F.avg_pool2d(residual, size).square(), F.avg_pool2d(weights, size))
    edges = sum(residual.diff(dim=axis).abs().mean() for axis in (-1, -2))
    return loss + EDGES * edges


def _weighted_mean(errors: Tensor, weights: Tensor) -> Tensor:
    """The mean of errors (b c H W), weighted per pixel with (b 1 H W)."""
    return (reduce(errors, "b c H W -> b 1 H W", "mean") * weights).sum() / weights.sum()


def psnr_db(decoded: Tensor, video: Tensor) -> float:
    """Peak signal-to-noise ratio of videos in [-1, 1]."""
    return 10 * math.log10(4 / (decoded.clamp(-1, 1) - video).square().mean().item())


def object_error(decoded: Tensor, pictures: Pictures) -> float:
    """Mean absolute error inside the objects, for values in a range of 2; NaN if there are no objects."""
    errors = reduce((decoded.clamp(-1, 1) - pictures.video).abs(), "b c F H W -> b F H W", "mean")
    return errors[pictures.mask].mean().item()


def picture_likeness(decoded: Tensor, clips: Sequence[world.Clip]) -> str:
    """How similar whole decoded videos are to their original clips of one size: PSNR and errors, and the results of the
    detectors.
    """
    pictures = Pictures.of(clips)
    frames = rearrange((decoded.clamp(-1, 1) + 1) * 127.5, "b c F H W -> b F H W c").byte().numpy()
    right, named, sync = 0, 0, Sync()
    for picture, clip in zip(frames, clips, strict=True):
        seen = vars(see(picture))
        truth = {name: value for name, value in vars(clip.scene).items() if name in seen and value is not None}
        named += len(truth)
        right += sum(seen[name] == value for name, value in truth.items())
        sync += match([event.time_s for event in clip.events], seen["times_s"])
    return (
        f"{psnr_db(decoded, pictures.video):.1f} dB, object {object_error(decoded, pictures):.3f}, "
        f"seen {right}/{named}, events {sync.found}/{sync.events} and {sync.justified}/{sync.onsets}"
    )
