"""Settings: parsed once, merged in one order, and refused by name."""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.errors import RequestError
from ltx2_core.pipeline.resolve.settings import BUILT_IN, COMMAND_LINE, Origin, Place, merge
from ltx2_core.pipeline.values import NTSC, did_you_mean, parse_duration, parse_fps, parse_size, show_fps
from tests.places import A_FILE


@given(st.integers(1, 59), st.integers(0, 59))
def test_minutes_and_seconds_add_up(minutes: int, seconds: int) -> None:
    assert parse_duration(f"{minutes}m{seconds}s") == 60 * minutes + seconds


@given(st.decimals(min_value="0.001", max_value=3600, places=3))
def test_duration_is_exact_however_it_is_written(seconds: object) -> None:
    assert parse_duration(f"{seconds}s") == parse_duration(str(seconds)) == Fraction(str(seconds))


@pytest.mark.parametrize("text", ["", "s", "5 s", "-1s", "0s", "nan", "inf", "1e3", "9999999s", "5h", "1m-3s"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        parse_duration(text)


@given(st.sampled_from(sorted(NTSC)))
def test_broadcast_rates_mean_their_exact_fractions(text: str) -> None:
    assert parse_fps(text).denominator == 1001
    assert abs(parse_fps(text) - Fraction(text)) < Fraction(1, 100)
    assert parse_fps(show_fps(parse_fps(text))) == parse_fps(text)


@given(st.integers(1, 240))
def test_whole_rates_stay_what_they_are(fps: int) -> None:
    assert parse_fps(fps) == parse_fps(str(fps)) == parse_fps(f"{fps}/1") == fps


@pytest.mark.parametrize("text", ["0", "241", "-24", "nan", "inf", "24fps", "30/0", "1e2", ""])
def test_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        parse_fps(text)


@given(st.integers(0, 99999), st.integers(0, 99999))
def test_size_is_read_back(width: int, height: int) -> None:
    assert parse_size(f"{width}x{height}") == parse_size(f" {width}X{height}") == (width, height)


@given(st.text(max_size=20))
def test_parsers_answer_or_refuse_and_never_break(text: str) -> None:
    for parse in (parse_duration, parse_fps, parse_size):
        with suppress(ValueError):
            assert parse(text)


def test_first_layer_that_sets_a_value_wins_and_is_remembered() -> None:
    merged = merge([(COMMAND_LINE, {"steps": 8}), (A_FILE, {"steps": 30, "seed": 3}), (BUILT_IN, {"seed": 1})])
    assert (merged.settings.steps, merged.settings.seed) == (8, 3)
    assert merged.sources == {"steps": COMMAND_LINE, "seed": A_FILE}


def test_value_that_is_none_counts_as_not_set() -> None:
    merged = merge([(COMMAND_LINE, {"steps": None}), (Place(Origin.PRESET, "mine"), {"steps": 8})])
    assert merged.settings.steps == 8


def test_frames_set_above_a_duration_settle_the_length_and_the_other_way_round() -> None:
    above = merge([(A_FILE, {"frames": 9}), (Place(Origin.MODEL, "m"), {"duration": "5s"})]).settings
    below = merge([(A_FILE, {"duration": "1s"}), (Place(Origin.PRESET, "mine"), {"frames": 9})]).settings
    assert (above.frames, above.duration) == (9, None)
    assert (below.frames, below.duration) == (None, 1)


def test_frames_and_duration_in_one_place_contradict_each_other() -> None:
    with pytest.raises(RequestError, match="--duration and --frames"):
        merge([(COMMAND_LINE, {"frames": 9, "duration": "1s"})])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"stepz": 3}, "unknown setting stepz in ltx2.yaml.*did you mean steps"),
        ({"steps": 1}, "steps 1 cannot be used"),
        ({"steps": "many"}, "steps many cannot be used"),
        ({"video_st": float("nan")}, "video_st nan cannot be used"),
        ({"audio_sm": float("inf")}, "audio_sm inf cannot be used"),
        ({"fps": "0"}, "fps 0 cannot be used"),
        ({"duration": "-1s"}, "duration -1s cannot be used"),
        ({"codec": "mpeg2"}, "codec mpeg2 cannot be used.*h264"),
        ({"seed": -1}, "seed -1 cannot be used"),
        ({"device": "tpu"}, "device tpu cannot be used"),
    ],
)
def test_wrong_value_is_refused_with_its_name_and_place(layer: dict, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        merge([(A_FILE, layer)])
    assert re.search(message, str(caught.value).replace("\n", " "))
    assert "ltx2.yaml" in str(caught.value)


def test_suggestion_is_near_or_lists_the_few_that_there_are() -> None:
    assert did_you_mean("distiled", ["distilled", "hq"]) == "did you mean distilled?"
    assert did_you_mean("zzz", ["distilled", "hq"]) == "known are distilled, hq"
    assert did_you_mean("zzz", [f"name-{i}" for i in range(99)]) == ""
