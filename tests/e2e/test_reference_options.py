"""`--ref` and `--voice-ref`: reference images and a reference voice, through the real command line on tiny models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import ltx2_core as core
from ltx2_core.media.reference_sheet import reference_sheet
from tests import commands
from tests.commands import UNGUIDED, VIDEO_UNGUIDED, ltx2, made_in, rendered
from tests.synthetic_media import RATE_HZ, tone, write_sound

pytestmark = pytest.mark.usefixtures("kept_models")

SMALL = ("--res", "128x128", "--frames", 9, "--steps", 2, "--seed", 7, "--keep-latents")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and a voice."""
    folder = tmp_path_factory.mktemp("given")
    Image.new("RGB", (64, 48), "red").save(folder / "hat.png")
    Image.linear_gradient("L").resize((40, 80)).convert("RGB").save(folder / "dog.png")
    write_sound(folder / "voice.wav", samples=tone(RATE_HZ // 2))
    return folder


def in_context(model: Path) -> Path:
    """An in-context LoRA that changes every layer; the LoRA of the tiny model does not change the audio."""
    path = model.parent / f"{model.name}-whole-ic-lora.safetensors"
    if not path.exists():
        (distilled,) = model.glob("*distilled-lora.safetensors")
        save_file(load_file(distilled), path, {"reference_downscale_factor": "2"})
    return path


def blind(model: Path) -> Path:
    return next(model.glob("*ic-lora-ref0.5.safetensors"))


def latents(path: Path, stage: int = 1) -> dict[str, Tensor]:
    return load_file(path.with_name(path.name + ".job") / f"latents-{stage}.safetensors")


def made(model: Path, path: Path, *words: object) -> Path:
    return rendered("t2v", "a dog", "--model", model, *SMALL, "--lora", in_context(model), *words, "-o", path)


@pytest.mark.parametrize("version", ["2.0", *(pytest.param(one, marks=pytest.mark.slow) for one in ("2.3", "2.5"))])
def test_images_and_a_voice_are_looked_at_and_rendered_again(
    version: str, given: Path, tiny_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_of(version)
    plain = latents(made(model, tmp_path / "plain.mp4", *UNGUIDED))
    shown = ("--ref", given / "hat.png", "--ref", given / "dog.png")
    seen = latents(made(model, tmp_path / "seen.mp4", *UNGUIDED, *shown))
    path = made(model, tmp_path / "both.mp4", *UNGUIDED, *shown, "--voice-ref", given / "voice.wav")
    heard = latents(path)
    assert plain["video"].shape == seen["video"].shape == heard["video"].shape
    assert plain["audio"].shape == heard["audio"].shape
    assert not seen["video"].equal(plain["video"])
    assert not heard["audio"].equal(seen["audio"])
    request = made_in(path).request
    assert [(one.name, one.is_still, one.spatial_scale) for one in request.references] == [
        ("hat.png", True, 2),
        ("dog.png", True, 2),
    ]
    assert request.voice is not None
    again = rendered("rerun", path, "--set", "keep_latents=true", "--yes", "-o", tmp_path / "again.mp4")
    assert all(latents(again)[name].equal(heard[name]) for name in heard)


def test_stages_that_refine_have_no_references_and_the_voice_is_that_of_the_first(
    given: Path, tiny: Path, tmp_path: Path
) -> None:
    words = (
        "--preset",
        "two-stage",
        "--res",
        "256x256",
        *UNGUIDED,
        "--ref",
        given / "hat.png",
        "--voice-ref",
        given / "voice.wav",
    )
    path = made(tiny, tmp_path / "two.mp4", *words)
    recipe = made_in(path).request.recipe
    assert [(stage.conditions, stage.user_loras) for stage in recipe.stages] == [("all", True), ("images", False)]
    assert recipe.audio_from == "first"
    assert latents(path, 2)["video"].shape[-1] == 2 * latents(path, 1)["video"].shape[-1]


def test_a_video_for_audio_takes_images(given: Path, tiny: Path, tmp_path: Path) -> None:
    words = ("a2v", given / "voice.wav", "a dog", "--model", tiny, "--res", "128x128", "--steps", 2, "--seed", 7)
    words = (*words, *VIDEO_UNGUIDED, "--lora", in_context(tiny), "--keep-latents")
    plain = latents(rendered(*words, "-o", tmp_path / "plain.mp4"))
    seen = latents(rendered(*words, "--ref", given / "hat.png", "-o", tmp_path / "seen.mp4"))
    assert not seen["video"].equal(plain["video"])


def refused(model: Path, *words: object) -> str:
    return commands.refused(2, "t2v", "a dog", "--model", model, "--res", "128x128", "--frames", 9, *words)


def test_references_without_a_lora_for_them_are_refused_and_one_is_named(
    given: Path, tiny_of: Callable[[str], Path], tmp_path: Path
) -> None:
    first, later = tiny_of("2.0"), tiny_of("2.3")
    shown, heard = ("--ref", given / "hat.png"), ("--voice-ref", given / "voice.wav")
    why = "this render has no in-context LoRA that was trained with images beside the clip"
    told = refused(later, *shown)
    assert why in told
    assert "hint: --lora ingredients" in told
    assert "ingredients is published for models of generation 2.3 and 2.5" in refused(first, *shown)
    style = next(first.glob("*lora-style.safetensors"))
    assert why in refused(first, *shown, "--lora", style)
    assert "trained with a voice beside the clip" in refused(first, *heard)
    assert "trained with a voice beside the clip" in refused(first, *heard, "--lora", blind(first))
    follows = tmp_path / "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors"
    shutil.copy(blind(later), follows)
    assert why in refused(later, *shown, "--lora", follows), "it is published, and looks at a clip"


def test_references_that_nothing_takes_are_refused(given: Path, tiny: Path) -> None:
    lora = ("--lora", in_context(tiny))
    assert "--video off leaves only audio" in refused(tiny, *lora, "--ref", given / "hat.png", "--video", "off")
    assert "--sound off leaves only video" in refused(tiny, *lora, "--voice-ref", given / "voice.wav", "--sound", "off")
    result = ltx2("t2v", "a dog", "--model", tiny, "--res", "128x128", *lora, "--ref", given / "voice.wav")
    assert result.exit_code == 3


def test_the_plan_counts_the_sheet_once(given: Path, tiny: Path) -> None:
    def flops(*names: str) -> float:
        flags = {"model": str(tiny), "res": "128x128", "frames": "9", "lora": [str(in_context(tiny))]}
        gathered = core.gather({**flags, **({"ref": [str(given / name) for name in names]} if names else {})})
        plan = core.resolve("t2v", "a dog", gathered.layers).plan
        assert plan is not None
        return plan.flops["denoise"]

    assert flops() < flops("hat.png") == flops("hat.png", "dog.png")


def test_a_sheet_holds_each_image_whole() -> None:
    red, green, blue = (torch.zeros(1, 3, *size, dtype=torch.uint8) for size in ((20, 40), (40, 20), (30, 30)))
    for channel, image in enumerate((red, green, blue)):
        image[:, channel] = 200
    sheet = reference_sheet([red, green, blue], 64, 128)
    assert sheet.shape == (1, 3, 64, 128)
    areas = [(sheet[0] == torch.tensor([200 * (c == k) for c in range(3)])[:, None, None]).all(0) for k in range(3)]
    for area, (height, width) in zip(areas, ((20, 40), (40, 20), (30, 30)), strict=True):
        rows, columns = area.any(1).nonzero().flatten(), area.any(0).nonzero().flatten()
        tall, wide = (int(found[-1] - found[0]) + 1 for found in (rows, columns))
        assert int(area.sum()) == tall * wide, "one rectangle"
        assert tall / wide == pytest.approx(height / width, rel=0.1)
    assert (sheet == 255).any()
    assert reference_sheet([red], 20, 40).equal(red)
