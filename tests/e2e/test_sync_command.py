"""`ltx2 sync` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.claps import write_claps
from tests.commands import ltx2
from tests.synthetic_media import write_sound, write_video


def test_the_lag_is_told_in_words_and_as_json(tmp_path: Path) -> None:
    path = write_claps(tmp_path / "claps.mp4", late_s=0.12)
    told = ltx2("sync", path)
    assert told.exit_code == 0, told.stderr
    assert told.stderr == ""
    title, lag, agreement, confidence, looked_at = told.stdout.splitlines()
    assert title == "claps.mp4"
    assert lag.endswith("after the motion")
    assert agreement.split()[0] == "agreement"
    assert confidence.endswith(", clear")
    assert looked_at.endswith("75 frames, 3.00 s")
    output, summary = map(json.loads, ltx2("sync", path, "--json").stdout.splitlines())
    assert output["event"] == "output"
    assert abs(output["lag_ms"] - 120) <= output["frame_ms"] == 40
    assert str(output["lag_ms"]) in lag
    assert output["is_clear"]
    assert output["agreement"] < output["best"] <= 1
    assert summary["exit_code"] == 0


def test_what_is_in_sync_is_called_so(tmp_path: Path) -> None:
    assert "in sync within a frame of 40 ms" in ltx2("sync", write_claps(tmp_path / "claps.mp4")).stdout


def test_a_silent_clip_ends_well_and_says_why(tmp_path: Path) -> None:
    path = write_claps(tmp_path / "claps.mp4", gain=0)
    told = ltx2("sync", path)
    assert told.exit_code == 0
    assert "nothing can be told: the audio is silent" in told.stdout
    output = json.loads(ltx2("sync", path, "--json").stdout.splitlines()[0])
    assert output["problem"] == "the audio is silent"
    assert {output[name] for name in ("lag_ms", "agreement", "best", "confidence", "frame_ms")} == {None}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a.mp4", "there is no audio in it"),
        ("a.wav", "there is no video in it"),
        ("a.txt", "its format is not supported"),
        ("none.mp4", "there is no such file"),
    ],
)
def test_a_file_without_video_or_audio_is_exit_3(name: str, why: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    write_sound(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("no clip at all")
    refused = ltx2("sync", tmp_path / name)
    assert refused.exit_code == 3
    assert refused.stdout == ""
    assert why in refused.stderr
    assert "hint: " in refused.stderr
