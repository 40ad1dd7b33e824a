"""Every recipe for a clip from a text, and LoRAs, through the real command line on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.media.probe import probe

pytestmark = pytest.mark.usefixtures("kept_models")
RUN = CliRunner()
LORAS = ("ltx-2-tiny-lora-style.safetensors:0.7", "ltx-2-tiny-ic-lora-ref0.5.safetensors")


def render(tiny: Path, folder: Path, *words: str) -> tuple[Path, str]:
    """A clip of two steps, if steps can be chosen, and its messages."""
    config = folder / "few.yaml"
    config.write_text("steps: 2\n")
    given = ["--model", str(tiny), "--config", str(config), "--res", "128x128", "--frames", "9", "--seed", "7"]
    target = folder / "a.mp4"
    result = RUN.invoke(app, ["t2v", "a bell rings", *given, "--overwrite", "-o", str(target), *words])
    assert result.exit_code == 0, result.stderr
    return target, result.stderr


@pytest.mark.parametrize(
    ("preset", "stages", "needs"),
    [
        ("one-stage", 1, set()),
        ("distilled-one-stage", 1, set()),
        ("distilled-lora", 1, {"distilled_lora"}),
        ("distilled", 2, {"upsampler"}),
        ("two-stage", 2, {"upsampler", "distilled_lora"}),
        ("keyframes", 2, {"upsampler", "distilled_lora"}),
        ("hq", 2, {"upsampler", "distilled_lora"}),
    ],
)
def test_recipe_makes_a_clip_and_names_its_files(
    preset: str, stages: int, needs: set[str], tiny: Path, tmp_path: Path
) -> None:
    clip, told = render(tiny, tmp_path, "--preset", preset)
    assert told.count("denoising, stage") == stages
    info = probe(clip)
    assert info.video is not None
    assert info.audio is not None
    assert (info.video.width, info.video.height, info.video.frames) == (128, 128, 9)
    files = json.loads(info.comment or "")["model"]["files"]
    assert set(files) == {"checkpoint", "text_encoder"} | needs


def test_two_loras_act_and_leave_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    loras = [word for name in LORAS for word in ("--lora", str(tiny / name))]
    bare = ("--preset", "distilled", "--no-metadata")
    first = render(tiny, tmp_path, *bare)[0].read_bytes()
    clip, told = render(tiny, tmp_path, *bare, *loras)
    assert clip.read_bytes() != first
    assert "ltx-2-tiny-lora-style.safetensors at 0.7: " in told
    assert "ltx-2-tiny-ic-lora-ref0.5.safetensors at 1: " in told
    assert render(tiny, tmp_path, *bare)[0].read_bytes() == first


def test_order_of_loras_is_kept_in_the_recipe(tiny: Path, tmp_path: Path) -> None:
    loras = [word for name in reversed(LORAS) for word in ("--lora", str(tiny / name))]
    clip, _ = render(tiny, tmp_path, "--preset", "distilled-one-stage", *loras)
    told = json.loads(probe(clip).comment or "")["request"]["loras"]
    assert [(lora["name"], lora["strength"]) for lora in told] == [
        ("ltx-2-tiny-ic-lora-ref0.5.safetensors", 1.0),
        ("ltx-2-tiny-lora-style.safetensors", 0.7),
    ]
