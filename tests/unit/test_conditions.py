"""The effect of each condition on a state, and that it changes nothing else."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ltx2_core.conditioning.conditions import (
    Condition,
    GivenTokens,
    Keyframe,
    KeyframeSlots,
    ReferenceAudio,
    ReferenceVideo,
    TimeWindow,
    WithAttention,
    before_start,
)
from ltx2_core.grids import Factors
from ltx2_core.latents import LatentState, audio_positions, patchify_video, reference_positions, video_positions

FPS, FACTORS = Fraction(24), Factors(8, 32, 32)
GRID = (4, 2, 3)
N, FRAME = 24, 6


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def clip(f: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(1, 4, f, 2, 3).to(dtype)


def video(dtype: torch.dtype = torch.float32) -> LatentState:
    return LatentState.video(clip(4, dtype), FPS, FACTORS)


def keyframe(frame: int = 8, strength: float = 1.0, dtype: torch.dtype = torch.float32) -> Keyframe:
    return Keyframe(latent=clip(dtype=dtype), frame=frame, fps=FPS, factors=FACTORS, strength=strength)


def reference(**scales: int) -> ReferenceVideo:
    return ReferenceVideo(latent=clip(4), fps=FPS, factors=FACTORS, **scales)


appending: list[Condition] = [keyframe(), reference(), KeyframeSlots(frames=(6, 13), fps=FPS, factors=FACTORS)]


@pytest.mark.parametrize("strength", [1.0, 0.75])
def test_given_frames_are_clean_where_they_stand_and_nowhere_else(strength: float) -> None:
    before, given = video(), clip(2)
    after = GivenTokens.frames(given, 1, strength).apply(before)
    here = slice(FRAME, 3 * FRAME)
    assert torch.equal(after.clean[:, here], patchify_video(given))
    assert (after.mask.dense[:, here] == 1 - strength).all()
    assert torch.equal(after.latent, before.latent)
    assert after.mask.dense.sum() == N - 2 * FRAME * strength
    assert torch.equal(before.clean, before.latent)  # the original state is not changed


def test_given_frames_must_fit_into_the_grid() -> None:
    with pytest.raises(AssertionError):
        GivenTokens.frames(clip(2), 3).apply(video())


def test_a_window_over_the_whole_clip_makes_everything_up() -> None:
    assert (TimeWindow(start_s=0, end_s=99).apply(video()).mask.dense == 1).all()


def test_a_window_makes_up_each_latent_frame_that_it_touches() -> None:
    mask = TimeWindow(start_s=1.5 / 24, end_s=8.5 / 24).apply(video()).mask.dense  # inside latent frame 1
    assert mask.flatten().tolist() == [0.0] * FRAME + [1.0] * FRAME + [0.0] * 2 * FRAME


@pytest.mark.parametrize("condition", appending, ids=lambda condition: type(condition).__name__)
def test_appended_tokens_leave_those_of_the_grid_alone(condition: Condition) -> None:
    before = video()
    after = condition.apply(before)
    assert after.base_tokens == N < after.latent.shape[1]
    assert torch.equal(after.base, before.latent)
    assert torch.equal(after.clean[:, :N], before.clean)
    assert torch.equal(after.positions[:, :, :N], before.positions)
    assert (after.mask.dense[:, :N] == 1).all()
    lengths = {tensor.shape[1] for tensor in (after.latent, after.clean, after.mask.dense, after.keyframes_mask)}
    assert lengths == {after.positions.shape[2]}


def test_a_keyframe_is_given_and_starts_from_nothing() -> None:
    condition = keyframe(strength=0.8)
    after = condition.apply(video())
    assert not after.latent[:, N:].any()
    assert torch.equal(after.clean[:, N:], patchify_video(condition.latent))
    assert torch.allclose(after.mask.dense[:, N:], torch.tensor(0.2))
    assert not after.keyframes_mask[:, N:].any()


def test_an_appended_mask_level_is_rounded_as_the_latent_is() -> None:
    after = keyframe(strength=0.8, dtype=torch.bfloat16).apply(video(torch.bfloat16))
    assert after.mask.dense.dtype == torch.float32
    assert (after.mask.dense[:, N:] == 0.2001953125).all()


def test_slots_are_made_up_and_come_back_as_they_were_seeded() -> None:
    seeds = clip(3)
    after = KeyframeSlots(frames=(6, 13, 19), fps=FPS, factors=FACTORS, seeds=seeds).apply(keyframe().apply(video()))
    assert (after.mask.dense[:, N + FRAME :] == 1).all()
    assert after.keyframes_mask[:, N + FRAME :].all()
    assert torch.equal(after.slots, seeds)


def test_a_slot_stands_where_a_keyframe_stands() -> None:
    slots = KeyframeSlots(frames=(13,), fps=FPS, factors=FACTORS).apply(video())
    assert torch.equal(slots.positions, keyframe(13).apply(video()).positions)


def test_a_reference_of_the_same_size_stands_on_the_clip() -> None:
    assert torch.equal(reference_positions(GRID, FPS, FACTORS), video_positions(GRID, FPS, FACTORS))


def test_a_smaller_reference_covers_the_same_picture() -> None:
    small = reference_positions((4, 1, 1), FPS, FACTORS, spatial_scale=3)
    large = video_positions((4, 3, 3), FPS, FACTORS)
    assert torch.equal(small[:, 1:].amax((-2, -1)), large[:, 1:].amax((-2, -1)))
    assert torch.equal(small[:, 0], large[:, 0, ::9])


def test_a_reference_with_fewer_frames_covers_the_same_time() -> None:
    sparse = reference_positions((2, 1, 1), FPS, FACTORS, temporal_scale=4)[0, 0]
    full = video_positions((5, 1, 1), FPS, FACTORS)[0, 0]
    assert sparse[0].tolist() == pytest.approx([0, full[0, 1].item()])
    assert sparse[-1, -1].item() == pytest.approx(full[-1, -1].item(), rel=1e-6)


def test_reference_sound_ends_before_the_clip_starts() -> None:
    positions = before_start(audio_positions(10))
    assert (positions < 0).all()
    assert torch.allclose(positions.diff(dim=-1), audio_positions(10).diff(dim=-1), atol=1e-6)
    state = LatentState.audio(torch.zeros(1, 2, 5, 3))
    after = ReferenceAudio(tokens=torch.ones(1, 10, 6), positions=positions).apply(state)
    assert torch.equal(after.positions[:, :, 5:], positions)
    assert after.keyframes_mask is None


def test_without_weights_there_is_no_attention_mask() -> None:
    assert reference().apply(keyframe().apply(video())).attention_mask is None


def test_weights_count_between_a_reference_and_the_grid_in_both_directions() -> None:
    weights = torch.rand(1, N)
    mask = WithAttention(reference(), weights).apply(video()).attention_mask
    assert torch.equal(mask, mask.mT)
    assert torch.equal(mask[:, 0, N:], weights)
    assert (mask[:, :N, :N] == 1).all()
    assert (mask[:, N:, N:] == 1).all()


def test_weight_one_is_no_condition_on_what_a_token_sees() -> None:
    assert (WithAttention(reference(), 1.0).apply(video()).attention_mask == 1).all()


def test_conditions_behind_a_weighted_one_do_not_see_it() -> None:
    weighted = WithAttention(reference(), 0.5).apply(video())
    after = keyframe().apply(weighted).attention_mask
    assert torch.equal(after[:, : 2 * N, : 2 * N], weighted.attention_mask)
    assert not after[:, 2 * N :, N : 2 * N].any()
    assert (after[:, 2 * N :, :N] == 1).all()
    assert torch.equal(after, after.mT)
