"""Denoise a large video in overlapping tiles, so that no attention goes over all of it.

Every estimate is made tile by tile and blended before the sampler moves on, so the tiles cannot grow apart; noise,
conditions and steps are those of the whole video.
Source: docs/reference/pipelines.md, "Tiled stage": tiles share 5 latent cells, and positions begin at 0 in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ...grids import Factors
from ...latents import Latents, LatentState, States
from ...sampling.denoiser import GuidedDenoiser
from ...sampling.guidance import GuidanceScales
from ...tiles import STAGE_OVERLAP, Interval, split_evenly
from ...tiling.blending import trapezoid
from ...types import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part of the video.

    Args: state: the part as if it were a video of its own, with positions from its corner on. Tiles whose positions are
    equal share one tensor of them, so that their rotary tables are made once. tokens: (n) int64, which of the whole
    video's it holds. weights: (n) float32, how much its estimates of them count.
    """

    state: LatentState
    tokens: Tensor
    weights: Tensor

    def cut(self, state: LatentState) -> LatentState:
        """The part of a state of the whole video; nothing but the noisy latent changes from step to step."""
        return self.state.with_latent(state.latent[:, self.tokens])


@dataclass(frozen=True)
class TiledDenoiser:
    """Estimate the clean latents of a large video from those of its tiles.

    The audio, which every tile hears, is the mean of what it would be beside each of them.
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
        audios: list[Tensor] = []
        for tile in self.tiles:
            estimate = self.denoise(states._replace(video=tile.cut(states.video)), sigma, step)
            assert estimate.video is not None
            video[:, tile.tokens] += estimate.video * tile.weights[:, None]
            weights[tile.tokens] += tile.weights
            audios += [] if estimate.audio is None else [estimate.audio.float()]
        video = (video / weights[:, None]).to(states.video.latent.dtype)
        audio = None if states.audio is None else torch.stack(audios).mean(0).to(states.audio.latent.dtype)
        return Streams(video, audio)


def tiled(
    denoise: GuidedDenoiser, states: States, count: tuple[int, int], factors: Factors
) -> GuidedDenoiser | TiledDenoiser:
    """The same denoiser over so many tiles across and down; the denoiser itself where one tile covers the video."""
    tiles = [] if states.video is None else cut_into(states.video, count, factors)
    return TiledDenoiser(denoise, tiles) if len(tiles) > 1 else denoise


def cut_into(state: LatentState, count: tuple[int, int], factors: Factors) -> list[Tile]:
    """So many tiles across and down, or fewer where the video is too small for them.

    Tokens that conditions appended are in every tile of which they show a part.
    """
    f, h, w = state.grid
    rows, columns = (split_evenly(length, n, STAGE_OVERLAP) for length, n in ((h, count[1]), (w, count[0])))
    _, down, across = state.positions[0] / state.positions.new_tensor(factors).view(3, 1, 1)
    device = state.latent.device
    tiles: list[Tile] = []
    for row, column in product(rows, columns):
        weight = _weights(row, down) * _weights(column, across)
        tokens = weight.nonzero().squeeze(-1)
        part = state.select(tokens, (f, row.length, column.length))
        origin = part.positions.new_tensor((0, row.start * factors.height, column.start * factors.width))
        own = part.positions - origin.view(1, 3, 1, 1)
        positions = next((tile.state.positions for tile in tiles if tile.state.positions.equal(own)), own)
        part = replace(part, positions=positions)
        tiles.append(Tile(state=part, tokens=tokens.to(device), weights=weight[tokens].to(device)))
    return tiles


def _weights(piece: Interval, spans: Tensor) -> Tensor:
    """How much tokens at (n 2), in cells from start to end, count in a piece of an axis: (n); 0 outside."""
    start, end = spans.unbind(-1)
    ramp = trapezoid(piece.length, piece.left, piece.right, from_zero=False)
    cell = ((start + end) / 2).floor().long().clamp(piece.start, piece.stop - 1) - piece.start
    return torch.where((start < piece.stop) & (end > piece.start), ramp[cell], 0.0)
