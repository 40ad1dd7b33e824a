"""`--duration auto`: the model chooses the length from the prompt, and messages, records and later commands use it."""

from __future__ import annotations

import json
import math
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.checkpoint import BUILDERS
from tests.commands import ltx2, made_in, refused, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

SIZES = {"mlp_hidden.weight": (24, 16), "attention_pooler.query_tokens": (1, 16)}
COMMON = ("--preset", "smoke", "--res", "128x128", "--fps", "8", "--seed", "7", "--no-cache")
CONTEXT = 32  # width of the tiny model's contexts


def write_head(path: Path, seconds: float = 2.2, width: int = CONTEXT) -> Path:
    """A duration head that always predicts this many seconds."""
    shapes = {f"{stream}_input_proj.weight": (16, width) for stream in ("video", "audio")}
    torch.manual_seed(0)
    head = BUILDERS["duration_head"]({"shapes": SIZES | shapes})
    state = {f"duration_head.{name}": torch.randn_like(tensor) for name, tensor in head.state_dict().items()}
    state["duration_head.mlp_out.weight"].zero_()
    state["duration_head.mlp_out.bias"].fill_(math.log(seconds))
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("head") / "duration-head.safetensors")


def clip(tiny: Path, out: Path, *words: object) -> Path:
    return rendered("t2v", "a bell", "--model", tiny, *words, *COMMON, "-o", out)


def test_the_model_chooses_the_length_and_the_file_is_that_of_these_frames(
    head: Path, tiny: Path, tmp_path: Path
) -> None:
    chosen = clip(tiny, tmp_path / "a.mp4", "--duration", "auto", "--duration-head", head)
    made = made_in(chosen).request
    assert (made.frames, made.auto_length) == (17, None)
    assert made == made_in(clip(tiny, tmp_path / "b.mp4", "--frames", 17)).request
    plain = ("--no-metadata", "--overwrite")
    auto = clip(tiny, tmp_path / "a.mp4", "--duration", "auto", "--duration-head", head, *plain).read_bytes()
    assert auto == clip(tiny, tmp_path / "b.mp4", "--frames", 17, *plain).read_bytes()


def events(tiny: Path, out: Path, *words: object) -> list[dict[str, Any]]:
    result = ltx2("t2v", "a bell", "--model", tiny, *words, *COMMON, "--json", "-o", out)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_choice_is_told_in_an_event_and_in_a_line(head: Path, tiny: Path, tmp_path: Path) -> None:
    words = ("--duration", "auto", "--duration-head", head)
    told = [one for one in events(tiny, tmp_path / "a.mp4", *words) if one["event"] == "length"]
    assert [(one["frames"], one["fps"], one["wanted_seconds"]) for one in told] == [(17, "8", 2.2)]
    result = ltx2("t2v", "a bell", "--model", tiny, *words, *COMMON, "-o", tmp_path / "b.mp4")
    assert "the model chose 2.12 s for this prompt: 17 frames" in " ".join(result.stderr.split())


def test_a_plan_is_made_for_the_longest_and_says_so(head: Path, tiny: Path) -> None:
    result = ltx2("plan", "t2v", "a bell", "--model", tiny, "--duration", "auto", "--duration-head", head, *COMMON)
    assert result.exit_code == 0, result.stderr
    told = " ".join((result.stdout + result.stderr).split())
    assert "the length is chosen at run time, 1 to 20 s; this is planned for the longest, 153 frames" in told


def test_a_model_without_a_duration_head_says_what_to_do(tiny: Path) -> None:
    told = refused(2, "t2v", "a bell", "--model", tiny, "--duration", "auto", *COMMON, "-o", "never.mp4")
    assert "--duration auto cannot be used" in told
    assert "has no duration head, which chooses the length" in told
    assert "--duration 5s, or --duration-head FILE names one" in told


def test_a_duration_head_of_another_model_is_refused_before_anything_is_loaded(tiny: Path, tmp_path: Path) -> None:
    own = write_head(tmp_path / "head.safetensors", width=64)
    words = ("--duration", "auto", "--duration-head", own)
    told = refused(7, "t2v", "a bell", "--model", tiny, *words, *COMMON, "-o", "never.mp4")
    assert "it reads video contexts of [64] values, and those of this model have 32" in told


def test_an_image_inside_a_clip_of_unknown_length_is_refused(head: Path, tiny: Path, tmp_path: Path) -> None:
    image = Path(__file__).parents[1] / "golden/e2e/2.0/media/image0.png"
    words = ("--duration", "auto", "--duration-head", head)
    given = ("i2v", image, "a bell", "--model", tiny, *words, *COMMON)
    told = refused(2, *given, "--image", f"{image}@last", "-o", "never.mp4")
    assert "image0.png stands inside the clip, whose length is not known yet" in told
    assert made_in(rendered(*given, "-o", tmp_path / "a.mp4")).request.frames == 17


def test_sound_alone_has_its_length_chosen_too(head: Path, tiny: Path, tmp_path: Path) -> None:
    words = ("--duration", "auto", "--duration-head", head, "--video", "off", "--preset", "smoke", "--fps", "8")
    made = rendered("t2v", "a bell", "--model", tiny, *words, "-o", tmp_path / "a.wav")
    with wave.open(str(made)) as file:
        assert file.getnframes() / file.getframerate() == 17 / 8


def test_modes_whose_input_decides_refuse_it(head: Path, tiny: Path) -> None:
    source = Path(__file__).parents[1] / "golden/e2e/2.0/media/clip_silent.mov"
    words = ("--duration", "auto", "--duration-head", head, "--model", tiny, "--preset", "smoke")
    told = refused(2, "v2a", source, "a bell", *words, "-o", "never.mp4")
    assert "only t2v and i2v leave the length to the model" in told


def test_a_job_that_was_stopped_goes_on_with_the_chosen_length(
    head: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltx2_core.pipeline.job import Job
    from ltx2_core.pipeline.render.engine import Engine

    words = ("--duration", "auto", "--duration-head", head, "--no-metadata")
    expected = clip(tiny, tmp_path / "whole.mp4", *words).read_bytes()

    def broken(engine: Engine) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(Engine, "render", broken)
        ltx2("t2v", "a bell", "--model", tiny, *words, *COMMON, "-o", tmp_path / "a.mp4")
    job = Job.open(tmp_path / "a.mp4.job")
    assert (job.request.frames, job.request.auto_length) == (17, None)
    assert rendered("resume", job.folder).read_bytes() == expected
