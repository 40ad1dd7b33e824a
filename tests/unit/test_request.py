"""Requests: every value is determined, every file found, and everything wrong refused before a model is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ltx2_core.components import Role
from ltx2_core.errors import CheckpointError, LTX2Error, RequestError, StorageError
from ltx2_core.headers import read_header
from ltx2_core.hub.registry import RegisteredModel, registered_models
from ltx2_core.pipeline.recipe import Recipe
from ltx2_core.pipeline.resolve import basis
from ltx2_core.pipeline.resolve.presets import generation_defaults, names, recipe
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import BUILT_IN, COMMAND_LINE, ENVIRONMENT, Origin, Place, merge
from ltx2_core.pipeline.resolve.sizes import nearest_legal
from ltx2_core.pipeline.resolve.target import slug
from ltx2_core.pipeline.resolved import Resolved
from tests.places import A_FILE


def resolved(tiny: Path, prompt: str = "a bell rings", own: dict | None = None, **flags: object) -> Resolved:
    return resolve("t2v", prompt, [(A_FILE, {"model": str(tiny), "output": f"{tiny}/none.mp4"} | flags)], own)


def test_model_without_an_entry_gets_the_defaults_of_its_generation(tiny: Path) -> None:
    request = resolved(tiny).request
    assert (request.width, request.height, request.frames, request.fps) == (768, 512, 121, 24)
    assert (request.preset, request.steps, request.schedule_tokens, request.text_rows) == ("one-stage", 40, 4096, 1024)
    assert request.guidance.video is not None
    assert request.guidance.audio is not None
    assert (request.guidance.video.st, request.guidance.audio.st) == (3, 7)


def test_perturbed_block_is_at_the_same_depth_in_a_model_of_fewer_blocks(tiny: Path) -> None:
    guidance = resolved(tiny).request.guidance
    assert guidance.video is not None
    assert guidance.video.stg_blocks == (29 * 4 // 48,)


@given(st.fractions(min_value=Fraction(1, 20), max_value=20), st.sampled_from([24, 25, 30, 60, Fraction(30000, 1001)]))
def test_duration_takes_the_nearest_frames_of_8k_plus_1(tiny: Path, duration: Fraction, fps: Fraction) -> None:
    wanted = round(duration, 6) * fps
    frames = resolved(tiny, duration=str(float(round(duration, 6))), fps=str(fps), sound="off").request.frames
    assert frames % 8 == 1
    assert abs(frames - wanted) <= abs(frames - 8 - wanted) or frames == 1
    assert abs(frames - wanted) < abs(frames + 8 - wanted) or frames == 1


def test_five_seconds_at_24_fps_are_121_frames(tiny: Path) -> None:
    assert resolved(tiny, duration="5s").request.frames == 121


def test_a_duration_that_is_asked_for_is_told_in_frames_and_a_usual_one_where_it_is_rounded(tiny: Path) -> None:
    assert "9 s at 1 fps: 9 frames" in resolved(tiny, duration="9s", fps="1", sound="off").notes
    rounded = resolved(tiny, fps="24")
    assert any(note.endswith(f"fps: {rounded.request.frames} frames") for note in rounded.notes)


@given(st.integers(-100, 20000), st.sampled_from([32, 64]))
def test_nearest_legal_sides_are_legal_and_near(side: int, multiple: int) -> None:
    below, above = nearest_legal(side, multiple, 64)
    assert below % multiple == above % multiple == 0
    assert 64 <= below <= above
    assert above - below in (0, multiple)


@pytest.mark.parametrize(
    ("flags", "error", "fragments"),
    [
        ({"res": "770x500"}, RequestError, ("width 770", "multiple of 32", "--res 768x480 or --res 800x512")),
        ({"res": "1920x1080", "preset": "two-stage"}, RequestError, ("height 1080", "multiple of 64", "1920x1088")),
        ({"res": "32x64"}, RequestError, ("width 32", "from 64")),
        ({"res": "huge"}, RequestError, ("res huge", "768x512")),
        ({"frames": 120}, RequestError, ("frames 120", "--frames 113 or --frames 121")),
        ({"stg_blocks": (4,)}, RequestError, ("stg_blocks 4", "0 to 3")),
        ({"preset": "distiled"}, RequestError, ("unknown preset distiled", "did you mean distilled or")),
        ({"video": "off", "sound": "off"}, RequestError, ("nothing to render",)),
        ({"output": "clip.avi"}, RequestError, ("clip.avi", ".mp4")),
        ({"output": "x.mp4", "video": "off"}, RequestError, ("x.mp4", ".wav or .flac")),
        ({"output": "{prompt}.mp4"}, RequestError, ("{prompt}.mp4", "{slug}")),
        ({"output": "nowhere/x.mp4"}, RequestError, ("there is no folder nowhere",)),
        ({"model": "ltx-3"}, RequestError, ("unknown model ltx-3", "did you mean ltx-2.3?")),
        ({"model": "gone.safetensors"}, StorageError, ("gone.safetensors is not there",)),
        ({"text_encoder": "gone"}, StorageError, ("text_encoder gone does not exist",)),
        ({"crf": 60}, RequestError, ("crf 60",)),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_name(
    tiny: Path, flags: dict, error: type[LTX2Error], fragments: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        resolved(tiny, **flags)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_prompt_of_nothing_is_refused(tiny: Path) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        resolved(tiny, prompt="  \n")


def test_model_that_is_not_installed_is_named_with_its_files_and_the_way_on() -> None:
    with pytest.raises(StorageError) as caught:
        resolve("t2v", "x", [(A_FILE, {"model": "ltx-2"})])
    for fragment in (
        "ltx-2-19b-dev.safetensors",
        "looked in",
        "at least 67.7 GB, with",
        "ltx2 download ltx-2",
        "--model FILE|FOLDER",
    ):
        assert fragment in str(caught.value)


def test_lora_is_no_model(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="it is a LoRA"):
        resolved(tiny, model=str(tiny / "ltx-2-tiny-lora-style.safetensors"))


def test_existing_output_is_refused_replaced_or_left_alone(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.mp4"
    target.touch()
    with pytest.raises(RequestError, match="already exists"):
        resolved(tiny, output=str(target))
    assert not resolved(tiny, output=str(target), overwrite=True).is_done
    assert resolved(tiny, output=str(target), skip_existing=True).is_done


def test_tier_is_cut_to_its_file_size_and_says_so(tiny: Path) -> None:
    found = resolved(tiny, res="1080P")
    assert (found.request.width, found.request.height, found.request.file_size) == (1920, 1088, (1920, 1080))
    assert any("1920x1080" in note for note in found.notes)


def test_preset_of_values_builds_on_a_recipe_and_flags_win_over_it(tiny: Path) -> None:
    own = {"mine": {"preset": "distilled", "res": "128x128", "seed": 5}}
    found = resolved(tiny, own=own, preset="mine", seed=6)
    assert (found.request.preset, found.request.width, found.request.seed) == ("distilled", 128, 6)
    assert found.sources["res"] == "preset mine"


MINE = {"mine": {"preset": "distilled-one-stage", "res": "128x128", "seed": 5, "duration": "1s"}}


def test_a_preset_named_by_a_flag_wins_over_every_file_and_says_so(tiny: Path) -> None:
    usual = {"model": str(tiny), "output": f"{tiny}/none.mp4", "seed": 3, "frames": 33, "crf": 20}
    layers = [(COMMAND_LINE, {"preset": "Mine"}), (ENVIRONMENT, {"res": "64x64"}), (A_FILE, usual)]
    found = resolve("t2v", "a bell rings", layers, MINE)
    assert (found.request.width, found.request.seed, found.request.frames) == (128, 5, 25)
    assert (found.preset, found.request.preset) == ("mine", "distilled-one-stage")
    assert found.overridden == ("LTX2_RES 64x64 of the environment", "seed 3 of ltx2.yaml", "frames 33 of ltx2.yaml")
    assert found.sources["crf"] == "ltx2.yaml"


def test_a_preset_named_in_a_file_stands_below_the_keys_of_that_file_and_above_other_places(tiny: Path) -> None:
    file = {"model": str(tiny), "output": f"{tiny}/none.mp4", "preset": "mine", "seed": 3}
    below = (Place(Origin.FILE, "config.yaml"), {"res": "64x64"})
    found = resolve("t2v", "a bell rings", [(ENVIRONMENT, {"duration": "2s"}), (A_FILE, file), below], MINE)
    assert (found.request.width, found.request.seed, found.request.frames) == (128, 3, 49)
    assert found.overridden == ("res 64x64 of config.yaml",)


def test_a_recipe_that_is_named_overrides_nothing(tiny: Path) -> None:
    found = resolved(tiny, preset="ONE-STAGE", seed=3)
    assert (found.preset, found.request.preset, found.overridden) == (None, "one-stage", ())


def test_skip_existing_above_overwrite_rules_it_out_and_the_other_way_round(tiny: Path) -> None:
    for above, below in (("skip_existing", "overwrite"), ("overwrite", "skip_existing")):
        settings = merge([(COMMAND_LINE, {above: True}), (A_FILE, {below: True}), (BUILT_IN, {below: False})]).settings
        assert (getattr(settings, above), getattr(settings, below)) == (True, False)


def test_preset_that_builds_on_itself_is_refused(tiny: Path) -> None:
    with pytest.raises(RequestError, match="builds on itself"):
        resolved(tiny, own={"a": {"preset": "b"}, "b": {"preset": "a"}}, preset="a")


def test_stream_that_is_alone_is_not_pulled_towards_the_other(tiny: Path) -> None:
    alone = resolved(tiny, video="off", output="x.wav").request.guidance
    assert alone.audio is not None
    assert alone.audio.sm == 1


def test_unguided_recipe_reads_no_negative_prompt(tiny: Path) -> None:
    assert resolved(tiny, preset="distilled", res="128x128").request.negative is None
    assert resolved(tiny, negative="").request.negative == ""


def test_long_or_fast_clips_are_warned_about(tiny: Path) -> None:
    assert len(resolved(tiny, duration="21s", fps="60").warnings) == 2
    assert not resolved(tiny).warnings


@pytest.mark.parametrize("sampler", ["euler", "gradient", "ancestral", "res2s"])
def test_sampler_is_of_the_first_stage_and_later_ones_keep_theirs(tiny: Path, sampler: str) -> None:
    stages = resolved(tiny, preset="two-stage", res="128x128", sampler=sampler).request.recipe.stages
    assert [stage.sampler for stage in stages] == [sampler, "euler"]


def test_recipe_with_a_sampler_of_its_own_keeps_it_whatever_a_file_says(tiny: Path) -> None:
    stages = resolved(tiny, preset="hq", res="128x128", sampler="euler").request.recipe.stages
    assert [stage.sampler for stage in stages] == ["res2s", "res2s"]


def test_sigmas_are_of_the_first_stage_and_stand_for_its_steps(tiny: Path) -> None:
    request = resolved(tiny, preset="two-stage", res="128x128", sigmas="1,0.9,0.4,0").request
    assert request.recipe.stages[0].sigmas == (1, 0.9, 0.4, 0)
    assert request.recipe.stages[1].sigmas == "distilled-3"
    assert request.steps == 3
    assert request.steps_of_stages == [3, 3]


def test_largest_size_is_refined_in_tiles_unless_somebody_says_otherwise(tiny: Path) -> None:
    found = resolved(tiny, preset="two-stage", res="4k")
    assert [stage.tiles for stage in found.request.recipe.stages] == [None, (2, 2)]
    assert found.sources["tiles"] == "size 4k"
    whole = resolved(tiny, preset="mine", own={"mine": {"preset": "two-stage", "res": "4k", "tiles": "1x1"}})
    assert whole.request.recipe.stages[1].tiles == (1, 1)
    assert resolved(tiny, res="4k").request.recipe.stages[0].tiles is None
    looping = resolved(tiny, preset="two-stage", res="512x512", tiles="1x1", loop=True, frames=17)
    assert looping.request.recipe.stages[1].is_whole


def test_upsampler_of_other_latents_is_refused(tiny: Path, tmp_path: Path) -> None:
    own = tiny / "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors"
    config = read_header(own).config | {"in_channels": 48}
    save_file(load_file(own), tmp_path / "narrow.safetensors", {"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match="latents of 48 channels, and the model's have 128"):
        resolved(tiny, preset="two-stage", res="128x128", upsampler=str(tmp_path / "narrow.safetensors"))


@pytest.mark.parametrize("first", [{"scale": 0.75}, {"scale": "1/2", "rate": "1/2"}, {"rate": "1/3"}])
def test_stage_grows_only_as_an_upsampler_does(first: dict) -> None:
    with pytest.raises(ValueError, match="no upsampler leads from"):
        Recipe.model_validate({"summary": "", "stages": [first, {"start": "upsampled"}]})


@pytest.mark.parametrize(
    ("stages", "role"),
    [
        ([{"scale": 0.5}, {"start": "upsampled"}], "upsampler"),
        ([{"scale": "2/3"}, {"start": "upsampled"}], "upsampler_x1.5"),
        ([{"rate": "1/2"}, {"start": "upsampled"}], "temporal_upsampler"),
    ],
)
def test_growth_names_the_upsampler(stages: list, role: str) -> None:
    assert Recipe.model_validate({"summary": "", "stages": stages}).needs == [role]


@given(st.text(max_size=200))
def test_slug_is_a_name_that_stays_in_its_folder(text: str) -> None:
    name = slug(text)
    assert name
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith(".")
    assert len(name) <= 40


def test_every_preset_file_is_right() -> None:
    assert [recipe(name).summary for name in names("recipes")]
    for model in (one for one in registered_models().values() if one.lacking is None):
        values = generation_defaults(model.generation) | model.defaults
        samplers = values.pop("samplers", {})
        assert values.pop("stg_block")
        assert all("sampler" in merge([(A_FILE, {"sampler": one})]).sources for one in samplers.values())
        assert {*samplers} <= {*names("recipes")}
        assert recipe(merge([(A_FILE, values)]).settings.preset or "one-stage").summary
        assert {*(model.tiers or ())} <= {*names("tiers")}


@pytest.fixture
def entry(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register the tiny model under the name `small`, with its own values."""
    files: dict[Role, str] = {
        "checkpoint": "ltx-2-tiny-dev.safetensors",
        "text_encoder": "gemma",
        "upsampler": "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors",
    }

    def register(**values: Any) -> None:
        model = RegisteredModel(summary="", generation="2.0", files=files, folder=str(tiny), **values)
        monkeypatch.setattr(basis, "registered_models", lambda: {"small": model})

    return register


def test_model_with_an_entry_gets_its_values_and_those_of_its_generation(
    entry: Callable[..., None], tiny: Path
) -> None:
    own: dict[str, Any] = {"preset": "distilled", "res": "128x192", "duration": "2s", "fps": 12, "text_rows": 128}
    entry(defaults=own | {"video_st": 2, "stg_block": "1/2", "steps": 9, "schedule_tokens": 200, "negative": "rain"})
    found = resolved(tiny, model="small")
    made = found.request
    assert (made.preset, made.width, made.height, made.frames, made.fps) == ("distilled", 128, 192, 25, 12)
    assert (made.text_rows, made.steps, made.schedule_tokens) == (128, 9, 200)
    assert found.sources["text_rows"] == "model small"
    guided = resolved(tiny, model="small", preset="one-stage").request
    assert guided.guidance.video is not None
    assert guided.guidance.audio is not None
    assert (guided.guidance.video.st, guided.guidance.video.stg_blocks) == (2, (2,))
    assert (guided.guidance.audio.st, guided.negative) == (7, "rain")


def test_size_by_name_that_a_model_is_not_made_for_is_refused(entry: Callable[..., None], tiny: Path) -> None:
    entry(tiers=("480p",))
    assert resolved(tiny, model="small", res="480p").request.width == 832
    with pytest.raises(RequestError, match="model small is made for 480p"):
        resolved(tiny, model="small", res="720p")
    entry(tiers=())
    with pytest.raises(RequestError, match="made for none of the sizes by name"):
        resolved(tiny, model="small", res="480p")
    assert resolved(tiny, model="small", res="96x64").request.width == 96


def test_preset_may_name_its_model_and_a_flag_names_another(entry: Callable[..., None], tiny: Path) -> None:
    entry()
    own = {"quick": {"model": "small", "preset": "smoke"}}
    layers = [(A_FILE, {"preset": "quick", "output": f"{tiny}/none.mp4"})]
    assert resolve("t2v", "x", layers, own).task.files.name == "small"
    assert resolved(tiny, own=own, preset="quick").task.files.name == tiny.name


@pytest.mark.parametrize("video", ["generate", "off"])
def test_a_clip_that_is_too_short_for_audio_is_refused_with_what_is_long_enough(video: str, tmp_path: Path) -> None:
    flags = {"model": "toy", "video": video, "frames": 1, "output": str(tmp_path / ("a.mp4", "a.wav")[video == "off"])}
    with pytest.raises(RequestError, match=r"1 frame at 59\.94 fps cannot have audio") as refused:
        resolve("t2v", "x", [(COMMAND_LINE, {**flags, "fps": "59.94"})])
    assert refused.value.hint.startswith("--frames 9")
    assert ("--sound off" in refused.value.hint) is (video == "generate")
    assert resolve("t2v", "x", [(COMMAND_LINE, {**flags, "fps": "24"})]).request.frames == 1
