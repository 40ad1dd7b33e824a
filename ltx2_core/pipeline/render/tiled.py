"""Denoise a large or a long video in overlapping tiles, so that no attention covers all of it.

Every estimate is computed tile by tile and blended before the sampler step, so that the tiles stay consistent; noise,
conditions and steps are those of the whole video.
Source: docs/reference/pipelines.md, "Tiled stage": tiles share 5 latent cells, and positions start at 0 in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
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

SAME_POSITION = 1e-5  # seconds or pixels, below which positions are equal up to rounding
INSIDE = 1e-3  # tolerance in cells for a token that ends where a piece begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of a stream in a tile.

    Args: state: the part as a separate stream, with positions relative to its corner. Parts with equal positions share
    one tensor of them, so that their rotary tables are computed once. tokens: (n) int64, their indices in the whole
    stream. weights: (n) float32, the weights of its estimates.
    """

    state: LatentState
    tokens: Tensor
    weights: Tensor

    def cut(self, state: LatentState) -> LatentState:
        """The part of a state of the whole stream; only the noisy latent changes from step to step."""
        return self.state.with_latent(state.latent[:, self.tokens])


@dataclass(frozen=True)
class TiledDenoiser:
    """Estimate the clean latents of a large video from those of its tiles.

    A tile attends to the audio of its time; if several tiles have the same audio, its estimate is the mean of theirs.
    """

    denoise: GuidedDenoiser
    tiles: Sequence[Streams[Part]]

    @property
    def scales(self) -> Streams[GuidanceScales]:
        return self.denoise.scales

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        """Estimate at a noise level; steps count from 0."""
        sums = states.map(lambda state: torch.zeros_like(state.latent, dtype=torch.float32))
        weights = states.map(lambda state: state.latent.new_zeros(state.latent.shape[1], dtype=torch.float32))

        def add(estimate: Tensor, part: Part, total: Tensor, weight: Tensor) -> None:
            total[:, part.tokens] += estimate.float() * part.weights[:, None]
            weight[part.tokens] += part.weights

        for tile in self.tiles:
            cut = states.map(lambda state, part: part.cut(state), tile)
            self.denoise(cut, sigma, step).map(add, tile, sums, weights)
        return sums.map(lambda total, weight, state: (total / weight[:, None]).to(state.latent.dtype), weights, states)


def tiled(
    denoise: GuidedDenoiser, states: States, count: tuple[int, int, int], factors: Factors, fps: Fraction
) -> GuidedDenoiser | TiledDenoiser:
    """The same denoiser over so many tiles in time, across and down; unchanged if one tile covers the video.

    fps: of the video.
    """
    tiles = cut_into(states, count, factors, fps)
    return TiledDenoiser(denoise, tiles) if len(tiles) > 1 else denoise


def cut_into(states: States, count: tuple[int, int, int], factors: Factors, fps: Fraction) -> list[Streams[Part]]:
    """So many tiles in time, across and down, or fewer if the video is too small for them; none without a video.

    Appended tokens are in every tile that contains a part of their frame. In all windows of time except the first, the
    first latent frame represents as many pixel frames as every other one, and so it starts at pixel frame 1.
    """
    video, audio = states
    if video is None:
        return []
    f, h, w = video.grid
    windows, across, down = count
    frames, rows, columns = (
        split_evenly(length, n, STAGE_OVERLAP) for length, n in ((f, windows), (h, down), (w, across))
    )
    seconds, down_px, across_px = video.positions[0]
    time, height, width = factors
    in_time, below, beside = _latent_time(seconds, fps, time), down_px / height, across_px / width
    tiles: list[Streams[Part]] = []
    for frame in frames:
        origin_s = max(0, frame.start - 1) * time / fps
        weight = _weights(frame, in_time)
        heard = audio and _heard(audio, frame, origin_s, fps, time)
        for row, column in product(rows, columns):
            origin = (float(origin_s), row.start * height, column.start * width)
            seen = [tile.video.state.positions for tile in tiles if tile.video is not None]
            part = _part(
                video,
                weight * _weights(row, below) * _weights(column, beside),
                (frame.length, row.length, column.length),
                origin,
                seen,
            )
            tiles.append(Streams(part, heard))
    return tiles


def _heard(audio: LatentState, frame: Interval, origin_s: Fraction, fps: Fraction, time: int) -> Part:
    """The audio during some latent frames; all of it if these are all latent frames."""
    weight = _weights(frame, _latent_time(audio.positions[0, 0], fps, time))
    if not (frame.left or frame.right):
        return Part(state=audio, tokens=torch.arange(len(weight)).to(audio.latent.device), weights=_at(audio, weight))
    return _part(audio, weight, (int((weight[: audio.base_tokens] > 0).sum()),), (float(origin_s),), [])


def _part(
    state: LatentState, weight: Tensor, grid: tuple[int, ...], origin: Sequence[float], seen: Sequence[Tensor]
) -> Part:
    """The tokens of a state with a weight above 0, by their weights (n). seen: positions of other parts."""
    tokens = weight.nonzero().squeeze(-1)
    part = state.select(tokens, grid)
    own = part.positions - part.positions.new_tensor(origin).view(1, -1, 1, 1)
    shared = (one for one in seen if one.shape == own.shape and one.allclose(own, rtol=0, atol=SAME_POSITION))
    part = replace(part, positions=next(shared, own), origin_s=part.origin_s + origin[0])
    return Part(state=part, tokens=tokens.to(state.latent.device), weights=_at(state, weight[tokens]))


def _at(state: LatentState, weight: Tensor) -> Tensor:
    return weight.to(state.latent.device)


def _latent_time(seconds: Tensor, fps: Fraction, time: int) -> Tensor:
    """Times (n 2) in latent frames, of which the first represents one pixel frame and each other one `time`."""
    return (seconds * float(fps) + time - 1) / time


def _weights(piece: Interval, spans: Tensor) -> Tensor:
    """The weights (n) of tokens at (n 2), in cells from start to end, in a piece of an axis; 0 outside.

    A piece at the start or end of the axis also contains everything before or after it.
    """
    start, end = spans.unbind(-1)
    ramp = trapezoid(piece.length, piece.left, piece.right, from_zero=False)
    cell = ((start + end) / 2).floor().long().clamp(piece.start, piece.stop - 1) - piece.start
    reaches = (start < piece.stop - INSIDE) | (piece.right == 0)
    return torch.where(reaches & ((end > piece.start + INSIDE) | (piece.left == 0)), ramp[cell], 0.0)
