"""The tiny model with quantised weights through the real command line: two stages, LoRAs, and how far from bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ltx2_core.headers import read_header
from scripts.quantise import PRECISIONS, stored, with_markers
from tests.commands import ltx2, rendered

CHECKPOINT, STYLE = "ltx-2-tiny-dev.safetensors", "ltx-2-tiny-lora-style.safetensors"
# How far the latents may be from those of the bf16 file, relative to their root mean square. The weights of the formats
# are off by 0.027, 0.007 and 0.099; guidance multiplies that by up to 2.
BOUNDS = {"fp8": 0.06, "int8": 0.02, "nvfp4": 0.2, "mixed": 0.12}
Render = Callable[..., Path]


@pytest.fixture(scope="module")
def models(tiny_in: Callable[[str], Path]) -> dict[str, Path]:
    """The tiny model in bf16 and in every other precision."""
    return {precision: tiny_in(precision) for precision in ("bf16", *PRECISIONS)}


def render(model: Path, target: Path, *words: object) -> Path:
    """A clip of two guided stages; the distilled LoRA acts in the second alone."""
    few = target.with_suffix(".yaml")
    few.write_text("steps: 2\npreset: two-stage\n")
    size = ("--res", "128x128", "--frames", 9, "--seed", 7, "--config", few)
    return rendered("t2v", "a bell rings", "--model", model, *size, "--overwrite", "-o", target, *words)


@pytest.fixture(scope="module")
def expected(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job folder of the bf16 clip with a LoRA."""
    target = tmp_path_factory.mktemp("bf16") / "a.mp4"
    render(models["bf16"], target, "--keep-latents", "--lora", f"{models['bf16'] / STYLE}:0.7")
    return Path(f"{target}.job")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_quantised_model_renders_within_the_error_of_its_format(
    precision: str, models: dict[str, Path], expected: Path, tmp_path: Path
) -> None:
    model = models[precision]
    render(model, tmp_path / "a.mp4", "--keep-latents", "--lora", f"{model / STYLE}:0.7")
    for stage in (1, 2):
        ours, bf16 = (load_file(job / f"latents-{stage}.safetensors") for job in (tmp_path / "a.mp4.job", expected))
        for stream in ("video", "audio"):
            error = (ours[stream] - bf16[stream]).norm() / bf16[stream].norm()
            assert 0 < error < BOUNDS[precision]


def test_loras_of_two_stages_leave_nothing_behind(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["mixed"]
    first = render(model, tmp_path / "a.mp4", "--no-metadata").read_bytes()
    with_lora = render(model, tmp_path / "b.mp4", "--no-metadata", "--lora", model / STYLE).read_bytes()
    assert with_lora != first
    assert render(model, tmp_path / "a.mp4", "--no-metadata").read_bytes() == first


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_command_line_names_the_formats_of_a_file(precision: str, models: dict[str, Path]) -> None:
    result = ltx2("inspect", models[precision] / CHECKPOINT)
    assert result.exit_code == 0
    assert ", ".join(read_header(models[precision] / CHECKPOINT).stored.titles) in " ".join(result.stdout.split())


def test_a_scale_that_makes_no_sense_ends_the_command_with_its_name(tiny: Path, tmp_path: Path) -> None:
    tensors, name = load_file(tiny / CHECKPOINT), "model.diffusion_model.transformer_blocks.1.attn1.to_q"
    tensors |= with_markers({name: stored("int8", tensors[f"{name}.weight"])})
    tensors[f"{name}.weight_scale"][0] = float("nan")
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path, dict(read_header(tiny / CHECKPOINT).metadata))
    words = ("--text-encoder", tiny / "gemma", "--res", "128x128", "--frames", 9, "--preset", "distilled-one-stage")
    result = ltx2("t2v", "a bell rings", "--model", path, *words, "-o", tmp_path / "a.mp4")
    assert result.exit_code == 7
    assert "attn1.to_q.weight_scale: it holds NaN or infinite values" in " ".join(result.stderr.split())
    assert not (tmp_path / "a.mp4").exists()
