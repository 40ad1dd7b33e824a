"""Videos from images, through the real command line on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ltx2_core.checkpoint import load_component
from ltx2_core.media.accept import check_input
from ltx2_core.media.image import prepare_image
from ltx2_core.media.inputs import ImageSource
from ltx2_core.media.probe import probe
from tests.commands import refused, rendered

pytestmark = pytest.mark.usefixtures("kept_models")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of different shapes: landscape, portrait and small."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in (("wide", (200, 120)), ("tall", (90, 160)), ("small@2x", (33, 21))):
        Image.linear_gradient("L").resize(size).convert("RGB").rotate(90).save(folder / f"{name}.png")
    return folder


def render(tiny: Path, folder: Path, *words: object) -> tuple[Path, dict]:
    """Run `ltx2 i2v` at a small size and keep the latents. Returns the clip and its recipe."""
    target = folder / "clip.mp4"
    common = ("--model", tiny, "--res", "96x64", "--frames", 17, "--steps", 2, "--seed", 3, "--keep-latents")
    assert rendered("i2v", *common, "-o", target, *words) == target  # if an option is given twice, the last one counts
    comment = probe(target).comment
    assert comment is not None
    return target, json.loads(comment)


def encoded(tiny: Path, picture: Path, width: int = 96, height: int = 64) -> torch.Tensor:
    pixels = prepare_image(check_input(picture, ImageSource), height, width, 33)
    with torch.inference_mode():
        return load_component("video_encoder", tiny / "ltx-2-tiny-dev.safetensors", dtype=torch.float32)(pixels)


def latents(clip: Path) -> torch.Tensor:
    return load_file(clip.with_name(clip.name + ".job") / "latents-1.safetensors")["video"]


def test_first_latent_frame_is_the_encoded_picture_exactly(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    clip, recipe = render(tiny, tmp_path, pictures / "wide.png", "a bell rings")
    assert latents(clip)[:, :, :1].equal(encoded(tiny, pictures / "wide.png"))
    info = probe(clip)
    assert info.video is not None
    assert info.audio is not None
    assert (info.video.width, info.video.height, info.video.frames) == (96, 64, 17)
    assert recipe["request"]["images"] == [
        {"role": "image-1", "name": "wide.png", "frame": 0, "strength": 1.0, "crf": 33}
    ]
    assert str(pictures) not in json.dumps(recipe)


def test_three_keyframes_stand_where_they_were_put(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    more = ("--image", f"{pictures / 'small@2x.png'}@0.25s:0.5", "--image", f"{pictures / 'wide.png'}@last")
    clip, recipe = render(tiny, tmp_path, pictures / "wide.png", *more)
    assert [(image["frame"], image["strength"]) for image in recipe["request"]["images"]] == [(0, 1), (6, 0.5), (16, 1)]
    (tmp_path / "alone").mkdir()
    alone, _ = render(tiny, tmp_path / "alone", pictures / "wide.png")
    assert not latents(clip)[:, :, 1:].allclose(latents(alone)[:, :, 1:], atol=1e-3)


def test_standing_picture_makes_a_standing_clip(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    clip, _ = render(tiny, tmp_path, pictures / "tall.png", "--res", "480p", "--frames", 1)
    info = probe(clip)
    assert info.video is not None
    assert (info.video.width, info.video.height) == (480, 832)


def test_picture_is_read_again_at_full_size_for_the_second_stage(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    clip, _ = render(tiny, tmp_path, pictures / "wide.png", "--res", "192x128", "--preset", "two-stage")
    last = load_file(clip.with_name(clip.name + ".job") / "latents-2.safetensors")["video"]
    assert last[:, :, :1].equal(encoded(tiny, pictures / "wide.png", 192, 128))


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ("gone.png", 3, "there is no such file"),
        ("wide.png@99", 2, "the clip ends at frame 16"),
        ("wide.png@9s", 2, "the clip ends at frame 16"),
        ("wide.png@first:1.5", 2, "a strength is 0 to 1"),
        ("wide.png", 2, "the first frame has an image already"),
        ("text.png", 3, "text.png cannot be used as an image"),
    ],
)
def test_picture_that_cannot_be_used_is_refused(
    tiny: Path, pictures: Path, tmp_path: Path, spec: str, code: int, says: str
) -> None:
    (pictures / "text.png").write_text("no picture")
    words = ("i2v", pictures / "wide.png", "--image", pictures / spec, "--model", tiny, "--frames", 17)
    told = refused(code, *words, "--res", "96x64", "-o", tmp_path / "x.mp4")
    assert says in told
    assert "hint: " in told
    assert not any(tmp_path.iterdir())
