"""Long clips, loops and enlarged clips that are killed or stopped at any point are resumed to the bytes of undisturbed
ones.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import ltx2_core as core
from ltx2_core.sampling.denoiser import GuidedDenoiser
from tests.commands import UNGUIDED, ltx2, rendered
from tests.stopping import at, killed, stopped_when
from tests.synthetic_media import write_video

pytestmark = pytest.mark.usefixtures("kept_models")

SMALL = ("--res", "64x64", "--steps", 3, *UNGUIDED)
EDITS: dict[str, tuple[object, ...]] = {
    "chain": ("v2v", "clip.mp4", "x", *SMALL, "--until", "2s", "--window", "1s", "--overlap", "0.33s"),
    "loop": ("v2v", "clip.mp4", "x", *SMALL, "--loop"),
    "loop of two stages": ("t2v", "x", "--res", "128x128", "--frames", 17, "--preset", "distilled", "--loop"),
    "upscale": ("v2v", "long.mp4", "x", "--upscale", 2),
}
A_PASS = (GuidedDenoiser, "__call__")


@pytest.fixture
def command(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """The words of an edit, in its own folder with input clips. long.mp4 is enlarged in two windows."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", frames=17, fps=Fraction(24), size=(64, 64), sound="aac")
    write_video(tmp_path / "long.mp4", frames=49, fps=Fraction(2), size=(32, 32), sound="aac")
    return lambda edit, target: [*EDITS[edit], "--model", tiny, "--seed", 3, "-o", target]


def anything(_: object) -> bool:
    return True


def of_kind(kind: type, phase: str) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, kind) and event.phase == phase


def is_border(event: object) -> bool:
    return isinstance(event, core.PhaseStarted | core.PhaseDone)


INPUTS = of_kind(core.PhaseStarted, "inputs")
DECODING = of_kind(core.PhaseStarted, "video")


@pytest.mark.parametrize("edit", ["upscale", pytest.param("loop", marks=pytest.mark.slow)])
def test_it_goes_on_after_a_kill_in_the_encoder_a_stop_and_kills_inside_a_step_and_before_the_decoder(
    edit: str, command: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = rendered(*command(edit, "whole.mp4")).read_bytes()
    resume = ("resume", "a.mp4.job")
    killed(command(edit, "a.mp4"), INPUTS)
    with stopped_when(monkeypatch, True):
        assert ltx2(*resume).exit_code == 130
    killed(resume, anything, 1, A_PASS)  # with two windows, this is half a step
    killed(resume, DECODING)
    assert rendered(*resume).read_bytes() == undisturbed
    assert not Path("a.mp4.job").exists()


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_it_goes_on_wherever_it_is_killed(edit: str, command: Callable[..., list[object]]) -> None:
    words = command(edit, "a.mp4")
    events: list[object] = []
    passes: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        at(patch, lambda event: is_border(event) and events.append(event) is None, lambda: None)
        at(patch, lambda given: passes.append(given) is None, lambda: None, of=A_PASS)
        undisturbed = rendered(*words).read_bytes()
    places: list[tuple[Any, ...]] = [(is_border, number) for number in range(1, len(events))]  # the last one is the end
    places += [(anything, number, A_PASS) for number in range(1, len(passes) + 1)]
    places.append((of_kind(core.StepDone, "video"), 4))
    for place in places:
        Path("a.mp4").unlink()
        killed(words, *place)
        assert not Path("a.mp4").exists()
        assert rendered("resume", "a.mp4.job").read_bytes() == undisturbed
        assert not Path("a.mp4.job").exists()
