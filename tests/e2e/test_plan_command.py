"""`ltx2 plan` for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import ltx2


def test_the_table_has_a_row_for_each_phase_and_marks_the_peak() -> None:
    result = ltx2("plan", "t2v", "x", "--res", "480p", "--vram", 8, "--model", "ltx-2-fp8", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["phase", "VRAM", "RAM", "disk", "TFLOP", "seconds"]
    assert [row.split("  ")[0] for row in rows[:6]] == [
        "text",
        "text context",
        "denoising",
        "audio",
        "vocoder",
        "video",
    ]
    assert sum("<- peak" in row for row in rows) == 1
    assert "6.8 GB of the card can be used; memory mode streamed" in result.stdout
    assert "their sizes are those of the release" in result.stdout
    assert all(len(row) <= 80 for row in result.stdout.splitlines())
    assert "ltx-2-fp8, one-stage: 832x480, 121 frames" in result.stderr


def test_what_does_not_fit_is_exit_4_behind_the_table() -> None:
    result = ltx2("plan", "t2v", "x", "--res", "4k", "--vram", 8, "--model", "ltx-2")
    assert result.exit_code == 4
    assert "video" in result.stdout
    assert "error: this does not fit" in result.stderr
    assert result.stderr.count(" or --") == 2


def test_json_tells_bytes(tmp_path: Path) -> None:
    result = ltx2("plan", "i2v", "--model", "toy", "--json", "-o", tmp_path / "x.mp4")
    assert result.exit_code == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["plan", "output", "summary"]
    told = events[1]
    assert told["fits"]
    assert not told["is_assumed"]
    assert told["vram_bytes"] is None
    assert told["peak"] in {phase["name"] for phase in told["phases"]}
    assert all(phase["ram"] > 10**8 for phase in told["phases"])
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_a_warning_since_a_plan_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").touch()
    words = ("plan", "t2v", "x", "--model", "toy", "-o", tmp_path / "x.mp4")
    result = ltx2(*words)
    assert result.exit_code == 0, result.stderr
    assert "warning: x.mp4 already exists; --overwrite replaces it" in " ".join(result.stderr.split())
    assert "already exists" not in ltx2(*words, "--overwrite").stderr


def test_the_memory_that_holds_assumed_files_is_marked() -> None:
    words = ("plan", "t2v", "x", "--model", "ltx-2", "--res", "480p")
    on_card, on_cpu = (
        ltx2(*words, *where).stdout.splitlines()[1].split() for where in (["--vram", 8], ["--device", "cpu"])
    )
    assert [cell[0] == "~" for cell in (on_card[1], on_card[3])] == [True, False]
    assert (on_cpu[1], on_cpu[2][0]) == ("-", "~")


def test_explained_settings_say_where_they_come_from() -> None:
    result = ltx2("plan", "t2v", "x", "--model", "toy", "--steps", 7, "--explain")
    assert result.exit_code == 0, result.stderr
    explained = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  "))
    assert explained["steps"] == "the command line"
    assert explained["res"] == "model toy"


def test_a_finished_render_tells_the_next_plan_how_long_it_takes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    words = ("t2v", "a bell rings", "--model", tiny, "--preset", "smoke", "--seed", 7, "-o")
    before, made = ltx2("plan", *words, tmp_path / "a.mp4"), ltx2(*words, tmp_path / "a.mp4", "-v")
    after = ltx2("plan", *words, tmp_path / "b.mp4")
    assert made.exit_code == 0, made.stderr
    assert [row.split()[-1] for row in before.stdout.splitlines() if row.startswith("denoising")] == ["-"]
    (row,) = (row for row in after.stdout.splitlines() if row.startswith("denoising"))
    assert float(row.split()[-1]) > 0
    assert after.stdout.splitlines()[-1] == "seconds: measured on this machine"
    (line,) = (line for line in made.stderr.splitlines() if line.startswith("peak: "))
    assert " of memory in " in line
    assert "; planned: " in line
    assert before.stderr == after.stderr


@pytest.mark.parametrize("value", ["0", "-8", "8.5", "many", "1001"])
def test_vram_is_a_whole_number(value: str) -> None:
    result = ltx2("plan", "t2v", "x", "--model", "toy", f"--vram={value}")
    assert result.exit_code == 2
    assert "it is a whole number of GB" in result.stderr


def test_a_plan_needs_a_mode() -> None:
    result = ltx2("plan", "--help")
    assert result.exit_code == 0
    for mode in ("t2v", "i2v", "v2v", "a2v", "v2a"):
        assert mode in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("i2v", "--loop"), "loop: 120 frames"),
        (("v2v", "--loop"), "loop: 120 frames"),
        (("i2v", "--until", "60s"), "8 windows of 241 frames"),
        (("a2v", "--until", "3m"), "23 windows of 241 frames"),
        (("v2v", "--until", "60s"), "one of this size and 5.04 s is planned for"),
        (("v2v", "--until", "60s", "--duration", "20s"), "one of this size and 20.04 s is planned for"),
        (("v2v", "--upscale", 2), "the clip: 768x512 becomes 1536x1024"),
        (("v2v", "--upscale", "1.5"), "the clip: 768x512 becomes 1152x768"),
        (("v2v", "--upscale", 2, "--tiles", "3x2"), "in 1 window of 3x2 tiles"),
        (("v2v", "--upscale", 2, "--duration", "30s"), "in 2 windows of 1x1 tiles"),
    ],
)
def test_long_clips_loops_and_enlarging_are_planned_without_what_they_start_from(
    words: tuple[object, ...], told: str
) -> None:
    result = ltx2("plan", *words, "--model", "ltx-2.3", "--vram", 80)
    assert result.exit_code == 0, result.stderr
    assert told in " ".join(result.stderr.split())


def test_windows_that_the_clip_fills_are_not_planned() -> None:
    result = ltx2("plan", "v2v", "--until", "60s", "--duration", "20s", "--model", "ltx-2.3", "--vram", 24)
    assert "8 windows of 241 frames" in result.stderr
    assert "stage 1, 6 times" in result.stdout
