"""Every value in presets/ in one literal table, so that every change of a value is deliberate and visible here."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.hub.registry import registered_models
from ltx2_core.pipeline.recipe import Stage
from ltx2_core.pipeline.resolve.basis import Planned
from ltx2_core.pipeline.resolve.presets import generation_defaults, named_values, names, read_tier, recipe
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolve.settle import Asked
from ltx2_core.pipeline.resolve.sizes import nearest_aspect, turned
from ltx2_core.pipeline.resolved import Resolved
from tests.places import A_FILE

PLAIN = {
    "scale": Fraction(1),
    "rate": Fraction(1),
    "start": "noise",
    "noise": None,
    "sigmas": None,
    "steps": None,
    "schedule_tokens": "fixed",
    "sampler": "euler",
    "guided": False,
    "distilled_lora": None,
    "user_loras": True,
    "conditions": "all",
    "tiles": None,
    "source_scale": Fraction(1),
    "windows": 1,
}
HALF = Fraction(1, 2)
REFINED = {"start": "upsampled", "sigmas": "distilled-3"}
WITH_LORA = {**REFINED, "distilled_lora": 1.0}
ENLARGED = {"start": "source", "source_scale": HALF}
# The fields of each stage that differ from the defaults.
STAGES: dict[str, list[dict[str, Any]]] = {
    "control": [
        {"scale": HALF, "sigmas": "distilled-8"},
        {**REFINED, "user_loras": False, "conditions": "images"},
    ],
    "control-guided": [{"guided": True}],
    "distilled": [{"scale": HALF, "sigmas": "distilled-8"}, REFINED],
    "distilled-lora": [{"sigmas": "distilled-8", "distilled_lora": 1.0}],
    "distilled-one-stage": [{"sigmas": "distilled-8"}],
    "double-rate": [{"rate": HALF, "guided": True}, {**WITH_LORA, "sigmas": "temporal-4"}],
    "hq": [
        {"scale": HALF, "guided": True, "sampler": "res2s", "schedule_tokens": "grid", "distilled_lora": 0.25},
        {**REFINED, "sampler": "res2s", "distilled_lora": 0.5},
    ],
    "keyframes": [{"scale": HALF, "guided": True}, WITH_LORA],
    "one-stage": [{"guided": True}],
    "restyle": [{"start": "source", "sigmas": "distilled-8"}],
    "restyle-guided": [{"start": "source", "guided": True}],
    "retake": [{"start": "source", "noise": 1.0, "sigmas": "distilled-8"}],
    "retake-guided": [{"start": "source", "noise": 1.0, "guided": True}],
    "two-stage": [{"scale": HALF, "guided": True}, WITH_LORA],
    "upscale": [ENLARGED | {"sigmas": "distilled-3"}],
    "upscale-guided": [ENLARGED | {"guided": True}],
    "upscale-lora": [ENLARGED | {"sigmas": "distilled-3", "distilled_lora": 1.0}],
    "two-stage-1.5x": [{"scale": Fraction(2, 3), "guided": True}, WITH_LORA],
}
# The edit of each recipe, the stage that its audio comes from, and its use of images, if they differ from (None, last,
# replace-first).
OTHERS = {
    "control": ("control", "last", "replace-first"),
    "control-guided": ("control", "last", "replace-first"),
    "double-rate": (None, "first", "replace-first"),
    "hq": (None, "first", "replace-first"),
    "keyframes": (None, "last", "append"),
    "restyle": ("restyle", "last", "replace-first"),
    "restyle-guided": ("restyle", "last", "replace-first"),
    "retake": ("retake", "last", "replace-first"),
    "retake-guided": ("retake", "last", "replace-first"),
    "two-stage": (None, "first", "replace-first"),
    "two-stage-1.5x": (None, "first", "replace-first"),
    "upscale": ("upscale", "last", "replace-first"),
    "upscale-guided": ("upscale", "last", "replace-first"),
    "upscale-lora": ("upscale", "last", "replace-first"),
}
GENERATIONS: dict[str, dict[str, Any]] = {
    "2.0": {
        "res": "768x512",
        "duration": "5s",
        "window": "10s",
        "overlap": "2s",
        "fps": "24",
        "steps": 40,
        "video_st": 3.0,
        "video_sm": 3.0,
        "video_stg": 1.0,
        "video_rescale": 0.7,
        "audio_st": 7.0,
        "audio_sm": 3.0,
        "audio_stg": 1.0,
        "audio_rescale": 0.7,
        "skip_step": 0,
        "draft_steps": 8,
        "schedule_tokens": 4096,
        "text_rows": 1024,
        "image_crf": 33,
        "stg_block": "29/48",
        "negative": "2a54e94cb2be1882",  # the beginning of the text's SHA-256
    }
}
GENERATIONS["2.3"] = GENERATIONS["2.0"] | {"steps": 30, "stg_block": "28/48"}
ANCESTRAL = dict.fromkeys(("distilled", "distilled-lora", "distilled-one-stage"), "ancestral")
GENERATIONS["2.5"] = GENERATIONS["2.3"] | {"image_crf": 18, "samplers": ANCESTRAL}
# One stage, two stages, file, least and recommended memory in GB, other values.
TIERS = {
    "480p": ("832x480", "832x512", "832x480", 8, 12, {}),
    "720p": ("1280x736", "1280x768", "1280x720", 10, 14, {}),
    "1080p": ("1920x1088", "1920x1088", "1920x1080", 12, 16, {}),
    "4k": ("3840x2176", "3840x2176", "3840x2160", 16, 24, {"window": "5s", "overlap": "1s", "tiles": "2x2"}),
}
TOY = {
    "preset": "one-stage",
    "res": "192x128",
    "duration": "2s",
    "window": "2s",
    "overlap": "0.667s",
    "steps": 20,
    "video_st": 3.0,
    "video_sm": 1.0,
    "video_stg": 0.0,
    "video_rescale": 0.0,
    "audio_st": 3.0,
    "audio_sm": 1.0,
    "audio_stg": 0.0,
    "audio_rescale": 0.0,
    "schedule_tokens": 1024,
    "text_rows": 128,
    "stg_blocks": [2],
    "attention_blocks": "2-4",
    "image_crf": 0,
    "negative": "",
}
ENCODER = "Lightricks/gemma-3-12b-it-qat-q4_0-unquantized"
UPSAMPLER = "Lightricks/LTX-2/ltx-2-spatial-upscaler-x2-1.0.safetensors"
# Generation, files, defaults, tiers.
MODELS: dict[str, tuple[str, dict[str, str], dict[str, Any], list[str] | None]] = {
    "ltx-2": (
        "2.0",
        {
            "checkpoint": "Lightricks/LTX-2/ltx-2-19b-dev.safetensors",
            "text_encoder": ENCODER,
            "upsampler": UPSAMPLER,
            "temporal_upsampler": "Lightricks/LTX-2/ltx-2-temporal-upscaler-x2-1.0.safetensors",
            "distilled_lora": "Lightricks/LTX-2/ltx-2-19b-distilled-lora-384.safetensors",
        },
        {},
        None,
    ),
    "ltx-2-distilled": (
        "2.0",
        {
            "checkpoint": "Lightricks/LTX-2/ltx-2-19b-distilled.safetensors",
            "text_encoder": ENCODER,
            "upsampler": UPSAMPLER,
        },
        {"preset": "distilled", "res": "1536x1024"},
        None,
    ),
    "toy": (
        "2.0",
        {
            name: f"{name}.safetensors"
            for name in ("transformer", "video_vae", "audio_vae", "upsampler", "distilled_lora")
        }
        | {"text_encoder": "text_encoder"},
        TOY,
        [],
    ),
}
# Recipe, size, frames, steps of each stage.
RESOLVED = {
    "ltx-2": ("one-stage", (768, 512), 121, [40]),
    "ltx-2-distilled": ("distilled", (1536, 1024), 121, [8, 3]),
    "toy": ("one-stage", (192, 128), 49, [20]),
}


def test_every_stage_of_every_recipe_is_as_in_the_table() -> None:
    found = {name: [{key: getattr(stage, key) for key in PLAIN} for stage in recipe(name).stages] for name in STAGES}
    assert found == {name: [PLAIN | stage for stage in stages] for name, stages in STAGES.items()}
    assert {*names("recipes")} == STAGES.keys()
    assert {*Stage.model_fields} == PLAIN.keys()


def test_every_recipe_does_with_clip_audio_and_images_what_the_table_says() -> None:
    found = {name: (recipe(name).edit, recipe(name).audio_from, recipe(name).images) for name in names("recipes")}
    assert found == {name: OTHERS.get(name, (None, "last", "replace-first")) for name in STAGES}


def test_defaults_of_every_generation_are_as_in_the_table() -> None:
    found = {}
    for name in names("generations"):
        values = dict(generation_defaults(name))
        values["negative"] = hashlib.sha256(values["negative"].encode()).hexdigest()[:16]
        found[name] = values
    assert found == GENERATIONS


def test_every_tier_is_as_in_the_table() -> None:
    tiers = {name: read_tier(name) for name in names("tiers")}
    assert {
        name: (tier.one_stage, tier.two_stages, tier.file, tier.minimum_gb, tier.recommended_gb, tier.defaults)
        for name, tier in tiers.items()
    } == TIERS


def test_every_model_is_as_in_the_table() -> None:
    models = {name: model for name, model in registered_models().items() if name in MODELS}
    found = {
        name: (model.generation, dict(model.files), model.defaults, None if model.tiers is None else list(model.tiers))
        for name, model in models.items()
    }
    assert found == MODELS


def test_smoke_is_the_smallest_render_of_the_toy() -> None:
    assert named_values("smoke", {}) == {"model": "toy", "res": "128x96", "frames": 9, "steps": 2}


def resolved(**flags: object) -> Resolved:
    return resolve("t2v", "x", [(A_FILE, {"output": "none.mp4"} | flags)])


@pytest.mark.parametrize("name", RESOLVED)
def test_every_shipped_model_resolves_at_its_size(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    stand_ins = {
        "checkpoint": "dev",
        "upsampler": "spatial-upscaler-x2-1.0",
        "temporal_upsampler": "temporal-upscaler-x2-1.0",
        "distilled_lora": "distilled-lora",
    }
    for role, file in MODELS[name][1].items():
        of_tiny = "gemma" if role == "text_encoder" else f"ltx-2-tiny-{stand_ins.get(role)}.safetensors"
        (folder / Path(file).name).symlink_to(tiny / of_tiny)
    request = resolved(model=name).request
    assert (request.preset, (request.width, request.height), request.frames, request.steps_of_stages) == RESOLVED[name]
    assert request.fps == 24


@pytest.mark.parametrize(
    ("model", "flags", "samplers"),
    [
        ("ltx-2.3-distilled", {}, ["euler", "euler"]),
        ("ltx-2.5-distilled", {}, ["ancestral", "euler"]),
        ("ltx-2.5-distilled", {"preset": "distilled-one-stage"}, ["ancestral"]),
        ("ltx-2.5-distilled", {"sampler": "euler"}, ["euler", "euler"]),
        ("ltx-2.5", {"preset": "one-stage"}, ["euler"]),
        ("ltx-2.5", {"preset": "hq"}, ["res2s", "res2s"]),
    ],
)
def test_distilled_models_of_2_5_are_sampled_with_new_noise_first(
    model: str, flags: dict[str, Any], samplers: list[str]
) -> None:
    asked = Asked(mode="t2v", prompt="x", layers=[(COMMAND_LINE, {"model": model, "res": "480p"} | flags)])
    recipe = asked.settle(Planned()).resolved.request.recipe
    assert [stage.sampler for stage in recipe.stages] == samplers


SIZES = {  # 720p in one stage: rendered size, and size after cropping
    "16:9": ((1280, 736), (1280, 720)),
    "9:16": ((736, 1280), (720, 1280)),
    "1:1": ((960, 960), None),
    "4:3": ((1120, 832), None),
    "3:4": ((832, 1120), None),
    "21:9": ((1472, 640), None),
}


@pytest.mark.parametrize("aspect", SIZES)
def test_every_aspect_of_a_size_by_name_is_as_in_the_table(aspect: str, tiny: Path) -> None:
    request = resolved(model=str(tiny), preset="one-stage", res="720p", aspect=aspect).request
    assert ((request.width, request.height), request.crop) == SIZES[aspect]


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("stages", [1, 2])
def test_file_of_a_size_by_name_has_the_size_of_the_table(name: str, stages: int, tiny: Path) -> None:
    preset = "one-stage" if stages == 1 else "two-stage"
    request = resolved(model=str(tiny), preset=preset, res=name).request
    width, height = (int(side) for side in TIERS[name][stages - 1].split("x"))
    assert (request.width, request.height) == (width, height)
    assert "{}x{}".format(*request.file_size) == TIERS[name][2]


def test_widest_aspect_is_seven_thirds() -> None:
    assert turned((1000, 1000), "21:9", 2) == (1528, 654)
    assert [nearest_aspect(*size) for size in ((2560, 1080), (1920, 1080))] == ["21:9", "16:9"]
