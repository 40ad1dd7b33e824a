"""Run the diffusion decoder of a video VAE: its first stages on a whole latent, the last two tile by tile.

Source: docs/reference/video-diffusion-decoder.md, "Tiled decode".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.video_vae import IMAGE_CHANNELS
from ..diffusion_tiles import cut, pixels
from ..models.diffusion_decoder import DiffusionDecoder, Features, repeated
from ..tiles import TilePlan
from .blending import Tile, blend


def decode_diffused(
    latent: Tensor,
    decoder: DiffusionDecoder,
    plan: TilePlan,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> Iterator[Tensor]:
    """Decode a latent with a diffusion decoder.

    Args: latent: (b c f h w), normalised. generator: draws the initial noise of the pixels: for each tile in turn, or
    once for a decoder with several steps. noise: (b 3 F H W), to be used instead; for a latent that is smaller than the
    decoder's windows, it has the enlarged size.
    Yields: (b 3 F H W) in display order, about [-1, 1], not clamped. One tile equals the plain decoder.
    Raises: RequestError if tiles of these sizes are not possible.
    """
    features = decoder.features(latent)
    grid = decoder.grid(features)
    if noise is None and not decoder.decoder.is_single_step:
        noise = decoder.noise((len(latent), IMAGE_CHANNELS, grid.frames, grid.height, grid.width), generator)
    cells = cut(plan, grid, decoder.decoder)
    work = _Work(decoder, features, cells[0][-1].stop, generator, noise)
    volume = features.volume
    sums = torch.float16 if volume.dtype == torch.bfloat16 else volume.dtype  # as in the official code
    blank = torch.empty(len(latent), IMAGE_CHANNELS, 0, 0, 0, dtype=sums, device=volume.device)
    chunks = blend(work.decode, cells, pixels(cells, decoder.decoder), blank, from_zero=False)
    yield from _content(chunks, work, latent)


@dataclass(frozen=True, slots=True)
class _Work:
    """The shared data of all tiles of a clip. end: the cell in time after the last. noise: None if each tile draws its
    own.
    """

    decoder: DiffusionDecoder
    features: Features
    end: int
    generator: torch.Generator | None
    noise: Tensor | None

    def decode(self, source: Tile, target: Tile) -> Tensor:
        """Decode one tile. The last ones in time include the ghosts of the last frame."""
        frames, rows, columns = source
        ghosts = self.decoder.ghost_cells if frames.stop == self.end else 0
        piece = self.features.volume[:, frames.start : frames.stop + ghosts, rows.slice, columns.slice]
        context = self.decoder.context(piece, is_start=frames.start == 0, ghosts=ghosts)
        noise = self._noise(self.decoder.canvas(context), target)
        return self.decoder.sample(noise, context)[:, :, : target[0].length]

    def _noise(self, canvas: Sequence[int], target: Tile) -> Tensor:
        """The initial noise of a tile: its part of the shared noise, or its own."""
        if self.noise is None:
            return self.decoder.noise(canvas, self.generator)
        frames, rows, columns = target
        part = self.noise[:, :, frames.slice, rows.slice, columns.slice]
        return repeated(part, 2, 0, canvas[2] - part.shape[2])  # a short last tile is as long as a window


def _content(chunks: Iterator[Tensor], work: _Work, latent: Tensor) -> Iterator[Tensor]:
    """The part of a video that belongs to the original latent, before it was enlarged."""
    remaining = work.decoder.frames_of(latent)
    for chunk in chunks:
        kept = work.decoder.cropped(chunk, work.features, latent)[:, :, :remaining]
        remaining -= kept.shape[2]
        if kept.shape[2]:
            yield kept.to(latent.dtype)
