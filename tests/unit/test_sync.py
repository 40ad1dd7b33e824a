"""How well audio and motion agree: lags that are found, lags that cannot be determined, and changes without effect."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import VideoSource
from ltx2_core.media.pieces import Piece
from ltx2_core.media.sync import BINS_PER_S, Sync, correlations, energies, measure_sync, onsets
from scripts.toy.synchrony import clips, measured
from tests.claps import write_claps
from tests.synthetic_media import write_video

UNEVEN = [0, *np.cumsum(np.random.default_rng(4).choice([1 / 60, 1 / 30, 1 / 24], 110)).tolist()]


def measure(path: Path, **options: Any) -> Sync:
    video = check_input(write_claps(path / "claps.mp4", **options), VideoSource)
    assert video.audio is not None
    return measure_sync(video, video.audio)


def check(found: Sync, late_s: float) -> None:
    """Check that the lag is right within a frame, and reported as clear."""
    assert found.lag_s is not None
    assert found.frame_s is not None
    assert abs(found.lag_s - late_s) <= found.frame_s
    assert found.is_clear


@pytest.mark.parametrize("late_s", [-0.16, -0.08, -0.04, 0, 0.04, 0.08, 0.16])
@pytest.mark.parametrize("fps", [Fraction(24), Fraction(60000, 1001)])
def test_shifted_claps_are_recovered_within_a_frame(late_s: float, fps: Fraction, tmp_path: Path) -> None:
    check(measure(tmp_path, late_s=late_s, fps=fps), late_s)


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "mono", "rate_hz": 22050},
        {"layout": "5.1", "rate_hz": 44100},
        {"times_s": UNEVEN},
        {"fps": Fraction(10)},
        {"fps": Fraction(30000, 1001)},
        {"gain": 0.01},
        {"seconds": 1.0},
    ],
    ids=["mono", "5.1", "variable rate", "few frames", "29.97", "quiet", "one clap"],
)
def test_claps_of_any_kind_are_recovered(options: dict[str, Any], tmp_path: Path) -> None:
    check(measure(tmp_path, late_s=-0.08, **options), -0.08)


@pytest.mark.parametrize(("video_from_s", "audio_from_s"), [(0.4, 0.4), (0.4, 0.5), (0.0, 0.12)])
def test_tracks_that_begin_late_are_compared_by_their_times(
    video_from_s: float, audio_from_s: float, tmp_path: Path
) -> None:
    found = measure(tmp_path, video_from_s=video_from_s, audio_from_s=audio_from_s)
    check(found, audio_from_s - video_from_s)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"gain": 0}, "the audio is silent"),
        ({"is_static": True}, "the video is static"),
        ({"seconds": 0.3}, "the clip is too short: 0.32 s"),
    ],
)
def test_where_nothing_can_be_told_there_is_no_number(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    found = measure(tmp_path, **options)
    assert found.problem.partition(":")[0] == problem.partition(":")[0]
    assert (found.lag_s, found.agreement, found.confidence, found.is_clear) == (None, None, None, False)
    assert found.verdict == f"nothing can be told: {found.problem}"


def test_a_steady_tone_is_not_said_to_be_clear(tmp_path: Path) -> None:
    video = check_input(write_video(tmp_path / "a.mp4", frames=50, sound="aac"), VideoSource)
    assert video.audio is not None
    assert not measure_sync(video, video.audio).is_clear


def test_a_clip_of_one_frame_is_too_short(tmp_path: Path) -> None:
    video = check_input(write_video(tmp_path / "a.mp4", frames=1, fps=Fraction(1), sound="aac"), VideoSource)
    assert video.audio is not None
    assert "too short" in measure_sync(video, video.audio).problem


@given(st.lists(st.integers(1, 999), max_size=12), st.sampled_from([8000, 11025, 22050, 44100, 48000]))
def test_energies_do_not_depend_on_how_audio_is_cut(cuts: list[int], rate_hz: int) -> None:
    samples = np.random.default_rng(1).standard_normal((2, 1000)).astype(np.float32)
    places = [0, *sorted({*cuts}), 1000]
    pieces = [
        Piece(Fraction(start, rate_hz), rate_hz, samples[:, start:end]) for start, end in itertools.pairwise(places)
    ]
    seconds = 1000 / rate_hz
    whole = energies([Piece(Fraction(0), rate_hz, samples)], rate_hz, seconds)
    np.testing.assert_allclose(energies(pieces, rate_hz, seconds), whole, rtol=1e-12)
    power = np.square(samples, dtype=np.float64).sum()
    assert np.isclose(whole[:-1].sum() * rate_hz / BINS_PER_S, power, rtol=0.15)


def test_a_hole_in_the_audio_stays_where_it_is() -> None:
    ones = np.ones((1, 100), np.float32)
    pieces = [Piece(Fraction(0), 1000, ones), Piece(Fraction(1, 2), 1000, ones)]
    energy = energies(pieces, 1000, 1.0)
    assert energy.nonzero()[0].tolist() == [*range(20), *range(100, 120)]


@given(st.integers(-90, 90))
def test_what_is_late_correlates_best_at_its_lag(lag: int) -> None:
    row = np.zeros(400)
    row[[120, 190, 230]] = 1
    assert correlations(np.roll(row, lag), [row]).argmax() - 100 == lag


def test_onsets_do_not_depend_on_the_level() -> None:
    energy = np.random.default_rng(2).random(100)
    np.testing.assert_allclose(onsets(energy), onsets(1e-6 * energy))


def test_matching_audio_of_the_toy_world_agrees_better_than_the_same_audio_at_another_time() -> None:
    source = clips("rendered")
    found = [measured(*next(source)) for _ in range(4)]
    assert all(all(one.told_apart) for one in found)
    assert all(one.recovered[0] for one in found if one.matching.is_clear)
