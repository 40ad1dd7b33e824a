"""Grids, positions, masks and states: arithmetic without a model."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2_core.grids import Factors, VideoGrid, audio_latent_count
from ltx2_core.latents import (
    DenoiseMask,
    LatentState,
    audio_positions,
    keyframe_positions,
    patchify_audio,
    patchify_video,
    to_denoised,
    to_velocity,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)

FACTORS = Factors(8, 32, 32)
FPS = Fraction(24)

sizes = st.integers(min_value=1, max_value=5)
rates = st.fractions(min_value=1, max_value=120, max_denominator=1001)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def video_state(frames: int = 3) -> LatentState:
    return LatentState.video(torch.randn(1, 4, frames, 2, 3), FPS, FACTORS)


@settings(deadline=None)
@given(k=st.integers(0, 60), height=sizes, width=sizes)
def test_latent_frames_count_back_to_the_frames(k: int, height: int, width: int) -> None:
    grid = VideoGrid(frames=8 * k + 1, height=32 * height, width=32 * width, factors=FACTORS)
    assert grid.latent == (k + 1, height, width)
    assert grid.tokens == (k + 1) * height * width


@settings(deadline=None)
@given(frames=st.integers(1, 500), fps=rates)
def test_audio_count_stays_within_half_a_latent_of_the_duration(frames: int, fps: Fraction) -> None:
    assert abs(audio_latent_count(frames, fps) - frames / fps * 25) <= Fraction(1, 2) + Fraction(1, 10**9)


@pytest.mark.parametrize(("frames", "fps", "count"), [(121, 50, 60), (9, 30, 8), (33, 30, 28), (1, 24, 1)])
def test_audio_count_rounds_halves_to_even(frames: int, fps: int, count: int) -> None:
    assert audio_latent_count(frames, Fraction(fps)) == count


@given(f=sizes, h=sizes, w=sizes, fps=rates)
@settings(max_examples=25, deadline=None)
def test_video_positions_cover_the_clip_without_gaps(f: int, h: int, w: int, fps: Fraction) -> None:
    positions = video_positions((f, h, w), fps, FACTORS)
    assert positions.shape == (1, 3, f * h * w, 2)
    assert positions.dtype == torch.float32
    bounds = positions[0].unflatten(1, (f, h, w))
    time, row, column = bounds[0][:, 0, 0], bounds[1][0, :, 0], bounds[2][0, 0, :]
    for axis, end in ((time, (8 * (f - 1) + 1) / float(fps)), (row, 32 * h), (column, 32 * w)):
        assert axis[0, 0] == 0
        assert torch.equal(axis[1:, 0], axis[:-1, 1])
        assert axis[-1, 1].item() == pytest.approx(end, rel=1e-6)


@given(t=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_audio_positions_end_where_the_decoded_sound_ends(t: int) -> None:
    positions = audio_positions(t)[0, 0]
    assert positions[0, 0] == 0
    assert torch.equal(positions[1:, 0], positions[:-1, 1])
    assert positions[-1, 1].item() == pytest.approx((4 * t - 3) / 100, rel=1e-6)


@given(t=st.integers(1, 50), shift=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_shifted_audio_positions_are_the_tail_of_longer_ones(t: int, shift: int) -> None:
    assert torch.equal(audio_positions(t, shift), audio_positions(t + shift)[:, :, shift:])


def test_keyframe_at_frame_zero_stands_where_the_first_latent_frame_stands() -> None:
    assert torch.equal(keyframe_positions((1, 2, 3), 0, FPS, FACTORS), video_positions((1, 2, 3), FPS, FACTORS))


def test_keyframe_spans_a_single_pixel_frame() -> None:
    time = keyframe_positions((1, 2, 3), 40, FPS, FACTORS)[0, 0]
    assert torch.equal(time, (torch.tensor([40.0, 41.0]) / 24).expand(6, 2))


def test_keyframe_clip_spans_all_of_its_frames() -> None:
    time = keyframe_positions((2, 1, 1), 16, FPS, FACTORS, pixel_frames=9)[0, 0]
    assert torch.equal(time, torch.tensor([[16.0, 24.0], [24.0, 32.0]]) / 24)


def test_tokens_go_through_the_grid_with_columns_fastest() -> None:
    f, h, w = 2, 3, 4
    latent = torch.arange(f * h * w).view(1, 1, f, h, w)
    assert torch.equal(patchify_video(latent).flatten(), torch.arange(f * h * w))


@given(b=sizes, c=sizes, f=sizes, h=sizes, w=sizes)
@settings(max_examples=25, deadline=None)
def test_unpatchify_undoes_patchify(b: int, c: int, f: int, h: int, w: int) -> None:
    video, audio = torch.randn(b, c, f, h, w), torch.randn(b, c, f, h)
    assert torch.equal(unpatchify_video(patchify_video(video), (f, h, w)), video)
    assert torch.equal(unpatchify_audio(patchify_audio(audio), channels=c), audio)


@given(levels=st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=4, max_size=12))
@settings(max_examples=25, deadline=None)
def test_mask_levels_and_index_make_the_dense_mask(levels: list[float]) -> None:
    dense = torch.tensor(levels).view(1, -1, 1)
    mask = DenoiseMask.from_dense(dense)
    assert torch.equal(mask.dense, dense)
    assert len(mask.levels) == len(set(levels))
    assert (mask.index is None) == (len(set(levels)) == 1)


def test_mask_of_a_batch_may_differ_between_samples() -> None:
    dense = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).unsqueeze(-1)
    assert torch.equal(DenoiseMask.from_dense(dense).dense, dense)


def test_full_mask_is_the_mask_that_is_found_in_ones() -> None:
    found = DenoiseMask.from_dense(torch.ones(2, 3, 1))
    full = DenoiseMask.full((2, 3), 1.0)
    assert (full.shape, full.index) == (found.shape, found.index)
    assert torch.equal(full.levels, found.levels)


def test_given_tokens_have_timestep_zero() -> None:
    state = given_first_frame(video_state())
    timesteps = state.timesteps(0.725)
    assert not timesteps[:, :6].any()
    assert (timesteps[:, 6:] == torch.tensor(0.725)).all()


def test_unique_timesteps_gathered_per_token_are_the_timesteps() -> None:
    state = given_first_frame(video_state())
    assert state.mask.index is not None
    assert torch.equal(state.unique_timesteps(0.4)[state.mask.index].unsqueeze(-1), state.timesteps(0.4))


def test_initial_state_marks_the_first_latent_frame_as_a_single_pixel_frame() -> None:
    keyframes = video_state().keyframes_mask
    assert keyframes is not None
    assert keyframes.flatten().tolist() == [1.0] * 6 + [0.0] * 12


def test_frozen_stream_has_no_noise_level_and_does_not_move() -> None:
    state = video_state().freeze()
    assert not state.timesteps(0.9).any()
    assert not state.stream_sigma(0.9).any()
    moved = state.euler_step(state.keep_given(torch.randn_like(state.latent)), 0.9, 0.5)
    assert torch.equal(moved.latent, state.latent)


def test_stream_sigma_has_one_entry_per_sample() -> None:
    state = LatentState.audio(torch.zeros(2, 8, 5, 16))
    assert torch.equal(state.stream_sigma(0.5), torch.tensor([0.5, 0.5]))
    assert state.positions.shape == (2, 1, 5, 2)


def test_base_leaves_appended_tokens_out() -> None:
    state = video_state()
    longer = replace(state, latent=torch.cat([state.latent, torch.ones(1, 5, 4)], dim=1))
    assert torch.equal(longer.base, state.latent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keep_given_returns_what_was_given_and_leaves_the_rest(dtype: torch.dtype) -> None:
    state = given_first_frame(video_state())
    denoised = torch.randn_like(state.latent).to(dtype)
    kept = state.keep_given(denoised)
    assert kept.dtype == dtype
    assert torch.equal(kept[:, :6], state.clean[:, :6].to(dtype))
    assert torch.equal(kept[:, 6:], denoised[:, 6:])


def test_euler_step_to_zero_arrives_at_the_clean_estimate() -> None:
    state, denoised = video_state(), torch.randn(1, 18, 4)
    assert torch.allclose(state.euler_step(denoised, 0.7, 0.0).latent, denoised, atol=1e-6)


def test_euler_step_rounds_the_velocity_to_the_dtype_of_the_latent() -> None:
    half = replace(video_state(), latent=torch.randn(1, 18, 4).bfloat16())
    denoised = torch.randn(1, 18, 4).bfloat16()
    velocity = to_velocity(half.latent, denoised, 0.7)
    assert velocity.dtype == torch.bfloat16
    expected = (half.latent.float() + velocity.float() * (0.1 - 0.7)).bfloat16()
    assert torch.equal(half.euler_step(denoised, 0.7, 0.1).latent, expected)


@given(sigma=st.floats(0.01, 1.0))
@settings(max_examples=25, deadline=None)
def test_velocity_and_clean_estimate_are_each_others_inverse(sigma: float) -> None:
    noisy, denoised = torch.randn(2, 1, 5, 4)
    assert torch.allclose(to_denoised(noisy, to_velocity(noisy, denoised, sigma), sigma), denoised, atol=1e-5)


def given_first_frame(state: LatentState) -> LatentState:
    mask: Tensor = torch.ones(1, state.latent.shape[1], 1)
    mask[:, :6] = 0
    return replace(state, mask=DenoiseMask.from_dense(mask), clean=torch.randn_like(state.latent))
