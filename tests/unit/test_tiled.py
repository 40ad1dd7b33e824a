"""Denoising in tiles: each tile is processed like a separate video, and a denoiser without interaction gives the same
as without tiles.
"""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.conditioning.conditions import Condition, GivenTokens, Keyframe, ReferenceVideo, WithAttention
from ltx2_core.grids import Factors, audio_latent_count
from ltx2_core.latents import DenoiseMask, Latents, LatentState, States
from ltx2_core.pipeline.render.tiled import Part, TiledDenoiser, cut_into, tiled
from ltx2_core.tiles import STAGE_OVERLAP
from ltx2_core.types import Streams

FACTORS = Factors(8, 32, 32)
GRID = 2, 12, 26
COUNT = 3, 2
WINDOWS = 3
LONG = 22, 2, 3
FPS = Fraction(24)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditions(latent: Tensor) -> list[Condition]:
    """A first frame, a keyframe and a reference, for a latent of the size (1 c f h w)."""
    still, half = latent[:, :, :1] * 2, latent[..., ::2, ::2]
    reference = ReferenceVideo(latent=half, fps=FPS, factors=FACTORS, spatial_scale=2, temporal_scale=1, strength=0.8)
    return [
        GivenTokens.frames(still, 0, 1.0),
        Keyframe(latent=still + 1, frame=5, fps=FPS, factors=FACTORS, strength=0.5),
        WithAttention(reference, 0.7),
    ]


def conditioned(latent: Tensor, which: slice) -> LatentState:
    state = LatentState.video(latent, FPS, FACTORS)
    for condition in conditions(latent)[which]:
        state = condition.apply(state)
    return state


def assert_same(ours: LatentState, expected: LatentState) -> None:
    for name in (one.name for one in fields(LatentState)):
        a, b = getattr(ours, name), getattr(expected, name)
        if isinstance(a, DenoiseMask):
            a, b = a.dense, b.dense
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, name


def pictures(state: LatentState, across: int, down: int) -> list[Part]:
    """The parts of a video for this many tiles."""
    tiles = cut_into(Streams(state, None), (1, across, down), FACTORS, FPS)
    return [tile.video for tile in tiles if tile.video is not None]


@pytest.mark.parametrize("which", [slice(0), slice(2), slice(3)], ids=["plain", "images", "reference"])
def test_tile_is_the_state_of_a_picture_of_its_own(which: slice) -> None:
    latent = noise(1, 6, 2, 12, 18)  # two tiles side by side; the second one begins at an even cell
    for tile in pictures(conditioned(latent, which), 2, 1):
        _, rows, columns = tile.state.grid
        top, left = divmod(tile.tokens[0].item(), 18)
        assert left % 2 == 0
        part = latent[..., top : top + rows, left : left + columns]
        assert_same(tile.cut(conditioned(latent, which)), conditioned(part, which))


class EachForItself:
    """A denoiser without interaction between tokens. Counts its calls."""

    scales: Any = None

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        self.calls += 1
        return states.map(lambda state: state.latent * (1 - state.timesteps(sigma)) + state.clean.sin())


def estimates(count: tuple[int, int, int], grid: tuple[int, int, int] = GRID) -> tuple[Latents, Latents]:
    """The estimates of a denoiser without interaction for tiles and for the whole; checks that tiles were used."""
    video, steps = conditioned(noise(1, 6, *grid), slice(3)), audio_latent_count(8 * grid[0] - 7, FPS)
    states = Streams(
        video.with_latent(noise(*video.latent.shape, seed=2)), LatentState.audio(noise(1, 2, steps, 3, seed=1))
    )
    each: Any = EachForItself()
    over_tiles = tiled(each, states, count, FACTORS, FPS)
    assert isinstance(over_tiles, TiledDenoiser)
    made = over_tiles(states, 0.7, 0)
    assert each.calls == len(over_tiles.tiles) > 1
    return made, each(states, 0.7, 0)


@pytest.mark.parametrize(
    ("count", "grid"), [((1, 2, 1), GRID), ((1, 1, 2), GRID), ((1, *COUNT), GRID), ((WINDOWS, 1, 1), LONG)]
)
def test_tiles_without_neighbours_equal_the_whole(count: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
    for tiles, whole in zip(*estimates(count, grid), strict=True):
        torch.testing.assert_close(tiles, whole, rtol=0, atol=2e-6)


def test_every_tile_shares_its_edges_and_begins_at_zero() -> None:
    state = conditioned(noise(1, 6, *GRID), slice(0))
    tiles = pictures(state, *COUNT)
    assert len(tiles) == 6
    for tile in tiles:
        cut = tile.cut(state)
        assert cut.positions[0, 1:, :, 0].amin(-1).tolist() == [0, 0]
        assert cut.positions[0, 1:, :, 1].amax(-1).tolist() == [32 * side for side in tile.state.grid[1:]]
    seen = torch.stack([torch.bincount(tile.tokens, minlength=state.base_tokens) for tile in tiles]).sum(0)
    assert seen.amin() == 1
    assert seen.amax() == 4
    across = seen.view(GRID)[0, 0]
    assert (across > 1).sum() >= 2 * STAGE_OVERLAP


def test_windows_share_their_ends_begin_at_pixel_frame_one_and_hear_the_audio_of_their_time() -> None:
    states = Streams(conditioned(noise(1, 6, *LONG), slice(0)), LatentState.audio(noise(1, 2, 176, 3)))
    windows = cut_into(states, (WINDOWS, 1, 1), FACTORS, FPS)
    assert len(windows) == WINDOWS
    begins = [0, 1 / 24, 1 / 24]
    for begin, window in zip(begins, windows, strict=True):
        assert window.video is not None
        assert window.audio is not None
        seconds, heard = window.video.state.positions[0, 0], window.audio.state.positions[0, 0]
        assert float(seconds.amin()) == pytest.approx(begin, abs=1e-5)
        assert abs(float(heard.amin()) - begin) < 0.04
        assert abs(float(heard.amax() - seconds.amax())) < 0.04
    seen = torch.stack(
        [torch.bincount(one.video.tokens, minlength=22 * 6) for one in windows if one.video is not None]
    ).sum(0)
    assert seen.amin() == 1
    assert int((seen.view(LONG)[:, 0, 0] == 2).sum()) >= (WINDOWS - 1) * STAGE_OVERLAP
    second, third = (window.video.state.positions for window in windows[1:] if window.video is not None)
    assert second is third


def test_tiles_of_one_size_share_their_positions() -> None:
    first, *others = pictures(conditioned(noise(1, 6, *GRID), slice(0)), *COUNT)
    assert all(tile.state.positions is first.state.positions for tile in others)


def test_one_tile_is_the_denoiser_itself() -> None:
    states = Streams(conditioned(noise(1, 6, 2, 5, 5), slice(0)), None)
    each: Any = EachForItself()
    assert tiled(each, states, (2, 2, 2), FACTORS, FPS) is each
    assert tiled(each, Streams(None, LatentState.audio(noise(1, 2, 5, 3))), (2, 2, 2), FACTORS, FPS) is each
