"""Denoise a large picture in overlapping tiles, so that no attention goes over all of it.

Every estimate is made tile by tile and blended before the sampler moves on, so the tiles cannot grow apart; noise,
conditions and steps are those of the whole picture.
Source: spec pipelines, sections 2.14 and 4.1: tiles share 5 latent cells, and positions begin at 0 in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ...grids import Factors
from ...latents import DenoiseMask, Latents, LatentState, States
from ...sampling.denoiser import GuidedDenoiser
from ...sampling.guidance import GuidanceScales
from ...tiles import Interval, split_evenly
from ...tiling import trapezoid
from ...types import Streams

OVERLAP_CELLS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part of the picture.

    Args: grid: (f, h, w) in latent cells. tokens: (n) int64, which of the state's it holds, those of its grid first.
    weights: (n) float32, how much its estimates of them count. positions: (b 3 n 2), counted from the corner of the
    tile; tiles whose positions are equal share one tensor, so that their rotary tables are made once.
    """

    grid: tuple[int, int, int]
    tokens: Tensor
    weights: Tensor
    positions: Tensor

    def cut(self, state: LatentState) -> LatentState:
        """The state of this part, as if it were a picture of its own."""
        index, tokens = state.mask.index, self.tokens
        attention, keyframes = state.attention_mask, state.keyframes_mask
        mask = DenoiseMask(
            shape=(state.mask.shape[0], len(tokens)),
            levels=state.mask.levels,
            index=None if index is None else index[:, tokens],
        )
        return replace(
            state,
            grid=self.grid,
            latent=state.latent[:, tokens],
            clean=state.clean[:, tokens],
            mask=mask,
            positions=self.positions,
            attention_mask=None if attention is None else attention[:, tokens][:, :, tokens],
            keyframes_mask=None if keyframes is None else keyframes[:, tokens],
        )


@dataclass(frozen=True)
class TiledDenoiser:
    """Estimate the clean latents of a large picture from those of its tiles.

    The sound, which every tile hears, is the mean of what it would be beside each of them.
    """

    denoise: GuidedDenoiser
    tiles: Sequence[Tile]

    @property
    def scales(self) -> Streams[GuidanceScales]:
        return self.denoise.scales

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        """Estimate at a noise level; steps count from 0."""
        assert states.video is not None
        video = torch.zeros_like(states.video.latent, dtype=torch.float32)
        weights = torch.zeros(video.shape[1], device=video.device)
        sounds: list[Tensor] = []
        for tile in self.tiles:
            estimate = self.denoise(states._replace(video=tile.cut(states.video)), sigma, step)
            assert estimate.video is not None
            video[:, tile.tokens] += estimate.video * tile.weights[:, None]
            weights[tile.tokens] += tile.weights
            sounds += [] if estimate.audio is None else [estimate.audio.float()]
        video = (video / weights[:, None]).to(states.video.latent.dtype)
        sound = None if states.audio is None else torch.stack(sounds).mean(0).to(states.audio.latent.dtype)
        return Streams(video, sound)


def tiled(
    denoise: GuidedDenoiser, states: States, count: tuple[int, int], factors: Factors
) -> GuidedDenoiser | TiledDenoiser:
    """The same denoiser over so many tiles across and down; the denoiser itself where one tile covers the picture."""
    tiles = [] if states.video is None else cut_into(states.video, count, factors)
    return TiledDenoiser(denoise, tiles) if len(tiles) > 1 else denoise


def cut_into(state: LatentState, count: tuple[int, int], factors: Factors) -> list[Tile]:
    """So many tiles across and down, or fewer where the picture is too small for them.

    Tokens that conditions appended are in every tile of which they show a part.
    """
    f, h, w = state.grid
    rows, columns = (split_evenly(length, n, OVERLAP_CELLS) for length, n in ((h, count[1]), (w, count[0])))
    _, down, across = state.positions[0] / torch.tensor(factors, device=state.positions.device).view(3, 1, 1)
    tiles: list[Tile] = []
    for row, column in product(rows, columns):
        weight = _weights(row, down) * _weights(column, across)
        tokens = weight.nonzero().squeeze(-1)
        origin = state.positions.new_tensor((0, row.start * factors.height, column.start * factors.width))
        own = state.positions[:, :, tokens] - origin.view(1, 3, 1, 1)
        positions = next((tile.positions for tile in tiles if tile.positions.equal(own)), own)
        grid = f, row.length, column.length
        tiles.append(Tile(grid=grid, tokens=tokens, weights=weight[tokens], positions=positions))
    return tiles


def _weights(piece: Interval, spans: Tensor) -> Tensor:
    """How much tokens at (n 2), in cells from start to end, count in a piece of an axis: (n); 0 outside."""
    start, end = spans.unbind(-1)
    ramp = trapezoid(piece.length, piece.left, piece.right, from_zero=False).to(spans.device)
    cell = ((start + end) / 2).floor().long().clamp(piece.start, piece.stop - 1) - piece.start
    return torch.where((start < piece.stop) & (end > piece.start), ramp[cell], 0.0)
