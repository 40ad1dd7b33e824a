"""Edits of clips: the latent frames, steps and noise levels that follow from a span, an extension and a strength."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.conditioning.conditions import TimeWindow
from ltx2_core.errors import RequestError
from ltx2_core.grids import Factors, audio_latent_count
from ltx2_core.latents import LatentState
from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import ROUNDING_S, VideoSource
from ltx2_core.pipeline.request import Extension, Window
from ltx2_core.pipeline.resolve.edits import choose_window, regenerated_frames
from ltx2_core.pipeline.resolve.settings import Settings
from ltx2_core.pipeline.resolve.sizes import ClipLength
from ltx2_core.sampling.schedules import from_level, ltx2_schedule, with_level
from tests.synthetic_media import write_video

RATES = st.sampled_from([Fraction(24), Fraction(25), Fraction(50), Fraction(30000, 1001)])
STEPS = st.integers(0, 12)


@given(st.integers(0, 90), st.integers(1, 90), RATES)
def test_frames_that_are_said_to_be_regenerated_frames_are_those_of_the_mask(
    begin: int, length: int, fps: Fraction
) -> None:
    part = ClipLength(frames=97, fps=fps)
    window = Window(start_s=(begin + Fraction(1, 3)) / fps, end_s=(begin + length) / fps)
    state = LatentState.video(torch.zeros(1, 1, 13, 1, 1), fps, Factors(8, 32, 32))
    applied = TimeWindow(start_s=float(window.start_s), end_s=float(window.end_s)).apply(state)
    new = [cell for cell, level in enumerate(applied.mask.dense.flatten().tolist()) if level]
    made = regenerated_frames(window, part, 8)
    assert made.start == max(0, 8 * new[0] - 7)
    assert made.stop == 8 * new[-1] + 1
    assert made.start <= begin
    assert made.stop >= min(begin + length, 97)


def test_a_span_may_end_as_long_after_the_clip_as_containers_round(tmp_path: Path) -> None:
    clip = check_input(write_video(tmp_path / "a.mp4", frames=25), VideoSource)
    part = ClipLength(frames=25, fps=Fraction(25))
    window = choose_window(clip, Settings.model_validate({"retake": "0.5s-1.001s"}), Fraction(0), part, 8)
    assert window.end_s == clip.duration_s + ROUNDING_S
    with pytest.raises(RequestError, match=r"the used part of a\.mp4 is 0\.00 to 1\.00 s"):
        choose_window(clip, Settings.model_validate({"retake": "0.5s-1.0011s"}), Fraction(0), part, 8)


@given(STEPS, st.integers(1, 12), STEPS, RATES)
def test_old_sound_lies_inside_the_old_part_and_leaves_less_than_a_step_at_its_ends(
    before: int, kept: int, after: int, fps: Fraction
) -> None:
    frames = 8 * (before + kept + after) + 1
    steps = Extension(before=8 * before, after=8 * after).audio_steps(frames, fps)
    begin, end = 8 * before / fps * 25, (8 * (before + kept) + 1) / fps * 25
    assert begin <= steps.start < begin + 1
    if after:
        assert end - 1 < steps.stop <= end
    else:
        assert steps.stop == audio_latent_count(frames, fps)


@given(st.floats(0.01, 1), st.integers(2, 40))
def test_a_schedule_that_begins_at_a_level_ends_as_the_whole_one_does(level: float, steps: int) -> None:
    whole = ltx2_schedule(steps)
    rest = from_level(whole, level)
    assert rest[0] == min(torch.tensor(level), whole[0])
    assert rest.diff().max() < 0
    assert rest[1:].equal(whole[-len(rest[1:]) :])
    assert with_level(whole, level)[-len(rest) :].equal(rest)
