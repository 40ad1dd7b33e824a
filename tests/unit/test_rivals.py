"""Settings that exclude each other: the layer with the highest precedence that sets one decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.errors import RequestError
from ltx2_core.pipeline.resolve.modes import mode_of
from ltx2_core.pipeline.resolve.rivals import without_rivals
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, ENVIRONMENT, Layer, Origin, Place
from ltx2_core.pipeline.resolve.settle import Asked
from ltx2_core.pipeline.resolved import Resolved
from tests.commands import refused
from tests.synthetic_media import write_video

FILE = Place(Origin.FILE, "own.yaml")


def left(mode: str, *values: dict[str, Any]) -> list[dict[str, Any]]:
    """The remaining settings of some layers."""
    places = (COMMAND_LINE, ENVIRONMENT, FILE)
    layers: list[Layer] = [*zip(places, values, strict=False)]
    return [dict(layer) for _, layer in without_rivals(layers, mode_of(mode))[0]]


def settled(layers: list[Layer]) -> Resolved:
    """The render of some settings."""
    return Asked(mode="t2v", prompt="a lamp", layers=layers).settle().resolved


@pytest.mark.parametrize("mode", ["t2v", "i2v", "a2v"])
def test_the_first_place_that_says_how_long_a_clip_is_decides(mode: str) -> None:
    until, frames = {"until": "3s", "window": "1s"}, {"frames": 9, "seed": 1}
    assert left(mode, until, frames) == [until, {"seed": 1}]
    assert left(mode, frames, until) == [frames, {"window": "1s"}]
    assert left(mode, {"until": None}, frames, until) == [{"until": None}, frames, {"window": "1s"}]
    both = until | frames
    assert left(mode, both) == [both]  # this is refused when it is read


def test_a_video_that_stays_as_it_is_follows_no_until() -> None:
    assert left("v2a", {"until": "3s"}, {"duration": "1s"}) == [{"until": "3s"}, {"duration": "1s"}]


def test_the_first_place_that_says_what_is_done_to_a_clip_decides() -> None:
    assert left("v2v", {"retake": "0s-1s"}, {"until": "60s", "loop": True}) == [{"retake": "0s-1s"}, {"loop": True}]
    assert left("v2v", {"strength": 0.5}, {"loop": "true"}, {"control": "pose"}) == [{"strength": 0.5}, {}, {}]
    assert left("v2v", {"loop": False}, {"strength": 0.5}) == [{"loop": False}, {"strength": 0.5}]
    assert left("v2v", {"until": "3s"}, {"extend": "1s", "duration": "1s"}) == [{"until": "3s"}, {"duration": "1s"}]
    beside = {"strength": 0.5, "control": "off"}
    assert left("v2v", {"upscale": 2}, beside) == [{"upscale": 2}, beside]
    assert left("v2v", {"extend": "1s"}, {"extend_before": "1s"}) == [{"extend": "1s"}, {"extend_before": "1s"}]


@pytest.mark.parametrize(
    ("mode", "first", "other"),
    [
        ("t2v", {"loop": True}, {"until": "60s"}),
        ("i2v", {"loop": "true"}, {"cache_steps": 0.05}),
        ("v2v", {"loop": True}, {"segment": "0s-1s=a bell rings"}),
        ("a2v", {"attention": "map.mp4"}, {"compile": True}),
        ("t2v", {"enhance": True}, {"segment": "0s-1s=a bell rings"}),
    ],
)
def test_the_first_place_decides_between_settings_that_exclude_each_other(
    mode: str, first: dict[str, Any], other: dict[str, Any]
) -> None:
    assert left(mode, first, other) == [first, {}]
    assert left(mode, other, first) == [other, {}]
    assert left(mode, first | other) == [first | other]  # which is refused where it is read
    off = {"loop": False, "cache_steps": "0", "generated_keyframes": 0, "compile": "false", "ranks": 1}
    assert left(mode, off, first) == [off, first]


def test_the_cards_of_ranks_that_are_left_out_are_left_out_too() -> None:
    two = {"ranks": 2, "gpus": [0, 1]}
    assert left("t2v", {"attention": "map.mp4"}, two) == [{"attention": "map.mp4"}, {}]
    assert left("t2v", {"cache_steps": 0.05}, two, {"gpus": [3]}) == [{"cache_steps": 0.05}, {}, {"gpus": [3]}]
    assert left("t2v", {"enhance": True}, two) == [{"enhance": True}, two]


def test_a_mode_without_loops_keeps_what_they_exclude() -> None:
    assert left("a2v", {"loop": True}, {"until": "60s"}) == [{"loop": True}, {"until": "60s"}]


def test_what_is_typed_wins_over_a_file_and_a_note_says_so(tmp_path: Path) -> None:
    """`loop` of a file and `--until` on the command line, and the other way round."""
    model = {"model": "toy", "output": str(tmp_path / "b.mp4")}
    until, loop = {"until": "6s", "window": "3s"}, {"loop": True}
    found = settled([(COMMAND_LINE, model | until), (FILE, loop)])
    assert (found.task.request.frames, found.task.request.loops) == (145, False)
    assert "loop of own.yaml is ignored, because --until excludes it" in found.notes
    found = settled([(COMMAND_LINE, model | loop), (FILE, until)])
    assert (found.task.request.frames, found.task.request.loops) == (49, True)
    assert "until of own.yaml is ignored, because --loop excludes it" in found.notes
    lengths: list[Layer] = [(COMMAND_LINE, model | until), (FILE, {"frames": 17})]
    assert not any("ignored" in note for note in settled(lengths).notes)
    with pytest.raises(RequestError, match="--loop cannot be used here"):
        settled([(COMMAND_LINE, model | until | loop)])


def test_a_loop_of_a_file_does_not_apply_to_audio_alone(tmp_path: Path) -> None:
    sound = {"model": "toy", "video": "off", "output": str(tmp_path / "b.wav")}
    assert not settled([(COMMAND_LINE, sound), (FILE, {"loop": True})]).request.loops
    with pytest.raises(RequestError, match="--loop cannot be used here"):
        settled([(COMMAND_LINE, sound | {"loop": True})])


def test_an_edit_on_the_command_line_wins_over_that_of_a_file(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", frames=17, size=(64, 64))
    model = {"model": "toy", "output": str(tmp_path / "b.mp4")}
    layers: list[Layer] = [(COMMAND_LINE, model | {"strength": 0.5}), (FILE, {"until": "60s", "loop": True})]
    request = Asked(mode="v2v", prompt="", layers=layers, main=clip).settle().resolved.request
    assert (request.strength, request.chain, request.loops) == (0.5, None, False)
    flags = model | {"strength": 0.5, "until": "60s"}
    with pytest.raises(RequestError, match="--strength and --until cannot be used together"):
        Asked(mode="v2v", prompt="", layers=[(COMMAND_LINE, flags)], main=clip).settle()


def test_a_job_wins_over_the_defaults_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", frames=25, size=(64, 64))
    Path("jobs.yaml").write_text(
        "defaults: {frames: 17}\n"
        "jobs:\n"
        "- {prompt: a, until: 3s, window: 1s, overlap: 0.3s}\n"
        "- {prompt: b}\n"
        "- {prompt: c, mode: v2v, input: a.mp4, until: 2s}\n"
    )
    flags = {"model": "toy", "frames": 9, "seed": 1}
    found = core.read_batch(core.AskedBatch(path=Path("jobs.yaml"), flags=flags, takes=TAKES, is_planned=True))
    assert [job.resolved.request.frames for job in found.jobs] == [73, 9, 49]
    Path("jobs.yaml").write_text("- {prompt: a, until: 3s, frames: 17}\n")
    assert "--frames and --until set the same value" in refused(2, "batch", "jobs.yaml", "--plan", "--model", "toy")
